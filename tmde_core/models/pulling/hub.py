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
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from tmde_core.errors import (
    HubUnreachableError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    TmdeError,
    UnauthorizedError,
    UnprocessableError,
)
from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.listing import HubFile, HubListing
from tmde_core.models.pulling.names import is_repository

T = TypeVar("T")

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


class TransientError(Exception):
    """A request failed in a way that may pass."""

    def __init__(self, error: TmdeError, pause_seconds: float | None = None, *, restart: bool = False) -> None:
        """Wrap an error.

        Args:
            error: the error to raise if it does not pass.
            pause_seconds: the time that the hub asked to wait.
            restart: whether the hub cannot continue the file, so that it has to be fetched from its first byte.
        """
        super().__init__(error.detail)
        self.error = error
        self.pause_seconds = pause_seconds
        self.restart = restart


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
        with _explained(hub, repository, revision, authenticated=token is not None):
            # A token of None would make the library look for one again.
            return HfApi(endpoint=hub, token=token or False).model_info(
                repository, revision=revision or None, files_metadata=True, timeout=limits.timeout_seconds
            )

    info = retried(asked, limits)
    try:
        listing = _listing(info, hub, repository, authenticated=token is not None)
    except (AttributeError, TypeError, ValueError):
        raise _no_hub(hub) from None
    if listing.gated and listing.files:
        _try_gate(listing, limits)
    return listing


def retried(action: Callable[[], T], limits: PullLimits, tell: Callable[[str], None] = lambda _: None) -> T:
    """Return the result of an action; repeat it while it fails with a `TransientError`.

    Raises:
        TmdeError: the last error.
    """
    for attempt in range(1, limits.tries + 1):
        try:
            return action()
        except TransientError as failure:
            if attempt == limits.tries:
                raise failure.error from None
            pause(failure, attempt, limits, tell)
    raise AssertionError("unreachable")


def pause(failure: TransientError, attempt: int, limits: PullLimits, tell: Callable[[str], None]) -> None:
    """Wait after a failure: as long as the hub asks, otherwise twice as long as the last time.

    Raises:
        TmdeError: the hub asks to wait too long.
    """
    seconds = limits.first_pause_seconds * 2 ** (attempt - 1)
    if failure.pause_seconds is not None:
        if failure.pause_seconds > limits.longest_wait_seconds:
            raise failure.error
        seconds = max(failure.pause_seconds, limits.first_pause_seconds)
    tell(f"{failure.error.detail} Tries again in {seconds:.0f} s." if seconds >= 1 else failure.error.detail)
    time.sleep(seconds)


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


# --------------------------------------------------------------------------------------- requests


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
            with _explained(hub, repository, "", authenticated=token is not None):
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
                _check_status(response, hub, repository, path, own=own, authenticated=token is not None)
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


def _check_status(response: Any, hub: str, repository: str, path: str, *, own: bool, authenticated: bool) -> None:
    """Raise the error that a response stands for."""
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    if status in (200, 206):
        return
    if status in (401, 403) and not own:  # the address of the storage server has expired; the hub gives a new one
        raise TransientError(
            HubUnreachableError(f"The storage server of the hub refuses {path[:100]} (HTTP {status}). Try again later.")
        )
    if status in (401, 403):
        raise _no_access(hub, repository, code, status, authenticated)
    if status == 404:
        raise NotFoundError(f"{repository} has no file {path[:100]} any more (HTTP 404). Pull it again.")
    if status == 429:
        raise _busy(hub, response.headers)
    if status == 416:
        raise TransientError(
            HubUnreachableError(f"The hub {hub} cannot continue {path[:100]} (HTTP 416)."), restart=True
        )
    if status >= 500 or status == 408:
        raise TransientError(HubUnreachableError(f"The hub {hub} has an error of its own (HTTP {status})."))
    raise HubUnreachableError(f"The hub {hub} refuses to send {path[:100]} (HTTP {status}).")


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
    with _explained(hub, "", "", authenticated=False):
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
    from huggingface_hub import get_token

    token: str | None = get_token()
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InvalidInputError(
            "The token in HF_TOKEN has characters that no token has. Copy it again from "
            "https://huggingface.co/settings/tokens.",
            field="HF_TOKEN",
        )
    return token or None


# ----------------------------------------------------------------------------------------- errors


@contextmanager
def _explained(hub: str, repository: str, revision: str, *, authenticated: bool) -> Iterator[None]:
    """Raise the library's errors as errors of TMDE."""
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except hub_errors.OfflineModeIsEnabled:
        raise HubUnreachableError(
            "HF_HUB_OFFLINE is set, so no hub is asked. Unset it to pull a model, or add one from a file that is here."
        ) from None
    except hub_errors.HFValidationError:
        raise InvalidInputError(f"{repository[:100]!r} is no name of a repository.", field="repository") from None
    except hub_errors.RevisionNotFoundError:
        raise NotFoundError(
            f"{repository} has no revision {revision[:80]!r}. Its page lists branches, tags and commits: "
            f"{hub}/{repository}/tree/main"
        ) from None
    except hub_errors.GatedRepoError as error:
        raise _no_access(hub, repository, "GatedRepo", error.response.status_code, authenticated) from None
    except hub_errors.HfHubHTTPError as error:
        raise _of_status(error, hub, repository, authenticated) from None
    except hub_errors.HTTPError as error:
        raise TransientError(HubUnreachableError(_describe_failure(error, hub))) from None
    except (ValueError, TypeError, KeyError, AttributeError):  # what it answered is no listing
        raise _no_hub(hub) from None


def _of_status(error: Any, hub: str, repository: str, authenticated: bool) -> TmdeError | TransientError:
    """Return the error that a refused question about a repository stands for."""
    response = error.response
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    if status == 429:
        return _busy(hub, response.headers)
    if status >= 500 or status == 408:
        return TransientError(HubUnreachableError(f"The hub {hub} has an error of its own (HTTP {status})."))
    if "disabled" in response.headers.get("X-Error-Message", "").lower():
        return UnprocessableError(f"The hub has disabled {repository}, so it cannot be fetched.")
    if status in (401, 403):
        return _no_access(hub, repository, code, status, authenticated)
    if status == 404 and not code:
        return NotFoundError(
            f"{hub} has no model {repository} (HTTP 404). Check the name"
            + (f"; is {hub} (HF_ENDPOINT) a hub?" if os.environ.get("HF_ENDPOINT") else ".")
        )
    if status == 404:
        return _missing(hub, repository, authenticated)
    return HubUnreachableError(f"The hub {hub} refuses the question about {repository} (HTTP {status}).")


def _missing(hub: str, repository: str, authenticated: bool) -> NotFoundError:
    private = (
        "your token has no access to it" if authenticated else "it is private; then set HF_TOKEN to a token with access"
    )
    return NotFoundError(f"{hub} has no model {repository}, or {private}. Check the name at {hub}/{repository}")


def _no_access(hub: str, repository: str, code: str, status: int, authenticated: bool) -> TmdeError:
    page = f"{hub}/{repository}"
    if code == "GatedRepo":
        then = (
            "Your token has no access yet: accept the terms there, with the account of the token (the publisher may "
            "have to confirm), then pull again."
            if authenticated
            else "Accept the terms there, then set HF_TOKEN to a token of that account "
            "(https://huggingface.co/settings/tokens) and pull again."
        )
        return UnprocessableError(
            f"The publisher of {repository} asks for an agreement first: {page} {then}", gated=True, page=page
        )
    if status == 401 and not authenticated:
        return _missing(hub, repository, authenticated)
    if status == 401:
        return UnauthorizedError(
            f"The hub does not let the token in HF_TOKEN see {repository}: the token is wrong or has expired, or there is "
            "no such model. Make a new one at https://huggingface.co/settings/tokens, or unset HF_TOKEN."
        )
    how = "your token lacks the permission to read it" if authenticated else "set HF_TOKEN to a token with access"
    return UnprocessableError(f"The hub forbids access to {repository} (HTTP 403): {how}. Its page: {page}", page=page)


def _busy(hub: str, headers: Any) -> TransientError:
    asked = _retry_after(headers)
    when = f" It asks to wait {asked:.0f} s." if asked is not None else ""
    return TransientError(
        RateLimitedError(
            f"The hub {hub} has had too many requests from here (HTTP 429).{when} A token (HF_TOKEN) is allowed more.",
            retryAfter=None if asked is None else int(asked),
        ),
        asked,
    )


def _retry_after(headers: Any) -> float | None:
    """Return the seconds to wait that a response names, as a number or a date."""
    text = headers.get("Retry-After", "").strip()
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    if text:
        from email.utils import parsedate_to_datetime

        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    from huggingface_hub.utils import parse_ratelimit_headers

    told = parse_ratelimit_headers(headers)
    return None if told is None else float(told.reset_in_seconds)


def _no_hub(hub: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"{hub} answers, but not as a hub of models does. Check HF_ENDPOINT: without it, https://huggingface.co is asked."
    )


def _describe_failure(error: Exception, hub: str) -> str:
    """Return a sentence on a connection that failed. The HTTP client's classes tell at which point."""
    kind, reason = type(error).__name__, " ".join(str(error).split())[:200].rstrip(".")
    if kind in ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"):
        why = reason if kind != "ConnectTimeout" else "no connection in time"
        return f"The hub {hub} cannot be reached: {why or kind}. Check the connection, and HF_ENDPOINT if it is set."
    if kind.endswith("Timeout"):
        return f"The hub {hub} has gone silent."
    return f"The connection to the hub {hub} broke: {reason or kind}."


# ---------------------------------------------------------------------------------------- listing


def _listing(info: Any, hub: str, repository: str, *, authenticated: bool) -> HubListing:
    card = dict(info.card_data.to_dict()) if info.card_data else {}
    tags = [str(tag) for tag in info.tags or ()]
    commit = str(info.sha or "")
    if _hex(commit, 40) is None:
        raise ValueError("commit")
    return HubListing(
        # A repository that was renamed answers with its new name.
        repository=info.id if is_repository(str(info.id)) else repository,
        endpoint=hub,
        commit=commit,
        files=tuple(_file(sibling) for sibling in info.siblings or ()),
        license=_license(card, tags),
        gated=bool(info.gated),
        base_models=tuple(name for name in map(_quantized_from, tags) if is_repository(name)),
        parameters=_parameters(info),
        authenticated=authenticated,
    )


def _quantized_from(tag: str) -> str:
    """Return the repository of which the publisher says that this one is a quantised copy; empty for other tags."""
    return tag.removeprefix("base_model:quantized:") if tag.startswith("base_model:quantized:") else ""


def _file(sibling: Any) -> HubFile:
    size, sha256, blob = sibling.size, None, sibling.blob_id
    if sibling.lfs:
        sha256, size = sibling.lfs.sha256, sibling.lfs.size if sibling.lfs.size is not None else size
    return HubFile(
        path=str(sibling.rfilename),
        size_bytes=size if isinstance(size, int) else None,
        sha256=_hex(sha256, 64),
        # The blob of a file in LFS is a pointer, and not the file.
        git_sha1=None if sibling.lfs else _hex(blob, 40),
    )


def _hex(value: object, digits: int) -> str | None:
    """Return a hash in lower case; None if the value is none."""
    lower = value.lower() if isinstance(value, str) else ""
    return lower if len(lower) == digits and set(lower) <= set("0123456789abcdef") else None


def _license(card: dict[str, Any], tags: list[str]) -> str:
    found = card.get("license")
    found = found[0] if isinstance(found, list) and found else found
    if found == "other" and isinstance(card.get("license_name"), str):
        found = card["license_name"]
    if not isinstance(found, str):
        found = next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), "")
    return " ".join(found.split())[:100]


def _parameters(info: Any) -> int | None:
    for source in (getattr(info, "safetensors", None), getattr(info, "gguf", None)):
        total = source.get("total") if isinstance(source, dict) else getattr(source, "total", None)
        if isinstance(total, int) and total > 0:
            return total
    return None
