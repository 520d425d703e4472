"""Talks to a hub with `huggingface_hub`. Only the processes that are started for it import this module's library.

The library asks for the listing and makes the addresses and headers. The bytes are fetched here with its HTTP client,
because its own download function gives up when a connection is reset, reports only every 10 MB, and follows redirects
by itself. Files come over HTTP and not by the hub's own transfer protocol (Xet): a transfer can then be continued at any
byte, and its hash is computed while it arrives.

The token (HF_TOKEN, or the one that `hf auth login` stored) goes to the hub's own address only, never to the storage
servers to which the hub redirects.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from tmde_core.errors import (
    HubUnreachableError,
    InvalidInputError,
)
from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.listing import HubListing
from tmde_core.models.pulling.reading import read_listing
from tmde_core.models.pulling.refusals import check_status, explained, no_hub
from tmde_core.models.pulling.retrying import TransientError, retried

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_VERBOSITY": "error",
}
"""What the processes that use the library are started with."""

MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Transfer(NamedTuple):
    """A response that brings the bytes of a file."""

    offset: int
    """The position of the first byte in the file: 0 if the server ignores ranges."""
    chunks: Iterator[bytes]


def endpoint() -> str:
    """Return the address of the hub.

    Raises:
        InvalidInputError: HF_ENDPOINT is no address.
    """
    from huggingface_hub import constants

    return check_endpoint(constants.ENDPOINT)


def check_endpoint(address: str) -> str:
    """Return the address of a hub if it is one.

    Raises:
        InvalidInputError: it is no address.
    """
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        _ = parts.port
    except ValueError:
        sound = False
    if not sound or not address.isprintable():
        raise InvalidInputError(
            f"HF_ENDPOINT is {address[:100]!r}, which is no address of a hub. Give one such as https://huggingface.co, or "
            "unset it.",
            field="HF_ENDPOINT",
        )
    return address


def ask(repository: str, revision: str, limits: PullLimits) -> HubListing:
    """Return what the hub tells about a repository.

    Raises:
        TmdeError: the hub cannot be reached, or it has no such repository for this person.
    """
    from huggingface_hub import HfApi

    hub, token = endpoint(), _token()

    def asked() -> Any:
        with explained(hub, repository, revision, authenticated=token is not None):
            # A token of None would make the library look for one again.
            return HfApi(endpoint=hub, token=token or False).model_info(
                repository, revision=revision or None, files_metadata=True, timeout=limits.timeout_seconds
            )

    info = retried(asked, limits)
    try:
        listing = read_listing(info, hub, repository, authenticated=token is not None)
    except (AttributeError, TypeError, ValueError):
        raise no_hub(hub) from None
    if listing.gated and listing.files:
        _try_gate(listing, limits)
    return listing


@contextmanager
def fetch(repository: str, commit: str, path: str, offset: int, limits: PullLimits) -> Iterator[Transfer]:
    """Open the bytes of a file from `offset` on.

    Raises:
        TransientError: the connection failed, or the hub is busy or has an error of its own.
        TmdeError: the hub refuses.
    """
    from huggingface_hub import hf_hub_url

    hub = endpoint()
    url = hf_hub_url(repository, path, revision=commit, endpoint=hub)
    wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with _opened("GET", url, hub, repository, path, wanted, limits) as response:
        yield Transfer(_first_byte(response, offset), _chunks(response, hub))


def _try_gate(listing: HubListing, limits: PullLimits) -> None:
    """Ask for a file of a gated repository, because the hub lists gated files to everybody.

    Raises:
        UnprocessableError: the person has no access yet.
    """
    from huggingface_hub import hf_hub_url

    paths = [file.path for file in listing.files]
    path = next((path for path in paths if path.endswith((".safetensors", ".gguf"))), paths[0])
    url = hf_hub_url(listing.repository, path, revision=listing.commit, endpoint=listing.endpoint)

    def tried() -> None:
        with _opened("HEAD", url, listing.endpoint, listing.repository, path, {}, limits, follow=False):
            pass

    retried(tried, limits)


@contextmanager
def _opened(
    method: str,
    url: str,
    hub: str,
    repository: str,
    path: str,
    headers: dict[str, str],
    limits: PullLimits,
    *,
    follow: bool = True,
) -> Iterator[Any]:
    """Send a request and follow its redirects, with the token for the hub's own address only."""
    from huggingface_hub.utils import build_hf_headers, get_session

    token = _token()
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_REDIRECTS):
            own = _origin(url) == _origin(hub)
            base = build_hf_headers(token=token if own and token else False, library_name="tmde")
            with explained(hub, repository, "", authenticated=token is not None):
                response = stack.enter_context(
                    get_session().stream(
                        method,
                        url,
                        headers={**base, **headers},
                        timeout=limits.timeout_seconds,
                        follow_redirects=False,
                    )
                )
            if response.status_code not in _REDIRECTS:
                check_status(response, hub, repository, path, own=own, authenticated=token is not None)
                yield response
                return
            if not follow:
                yield response
                return
            url = _redirected(url, response.headers.get("Location", ""), hub, path)
            stack.close()
        raise HubUnreachableError(f"The hub {hub} redirects {path[:100]} again and again. Try later.")


def _redirected(url: str, location: str, hub: str, path: str) -> str:
    """Return the address to which a response redirects.

    Raises:
        HubUnreachableError: it is no address, or it leaves the encrypted connection.
    """
    try:
        target = urljoin(url, location)
        schemes = urlsplit(url).scheme, urlsplit(target).scheme
        sound = target.isprintable() and bool(urlsplit(target).hostname) and _origin(target)[2] is not None
    except ValueError:
        sound = False
    if not sound or schemes not in (("https", "https"), ("http", "http"), ("http", "https")):
        raise HubUnreachableError(
            f"The hub {hub} sends {path[:100]} by way of an address that is not safe ({location[:100]!r}). Nothing was "
            "fetched from there."
        )
    return target


def _first_byte(response: Any, offset: int) -> int:
    """Return the position in the file of the first byte that the response brings.

    Raises:
        TransientError: the response leaves a gap.
    """
    if response.status_code != 206:
        return 0
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    if unit != "bytes" or not start.isdecimal() or int(start) > offset:
        raise TransientError(
            HubUnreachableError("The hub answers with another part of the file than it was asked for."), restart=True
        )
    return int(start)


def _chunks(response: Any, hub: str) -> Iterator[bytes]:
    with explained(hub, "", "", authenticated=False):
        yield from response.iter_bytes()


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def _token() -> str | None:
    """Return the token of this person.

    Raises:
        InvalidInputError: it cannot be sent.
    """
    from huggingface_hub import constants, get_token

    token: str | None = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidInputError(
            "The token in HF_TOKEN has characters that no token has. Copy it again from "
            "https://huggingface.co/settings/tokens.",
            field="HF_TOKEN",
        )
    return token or None
