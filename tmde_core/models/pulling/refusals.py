"""Explains why a hub refuses: which error of TMDE a response, or an error of the hub's library, stands for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tmde_core.errors import (
    HubUnreachableError,
    InvalidInputError,
    NotFoundError,
    RateLimitedError,
    TmdeError,
    UnauthorizedError,
    UnprocessableError,
)
from tmde_core.models.pulling.retrying import TransientError


@contextmanager
def explained(hub: str, repository: str, revision: str, *, authenticated: bool) -> Iterator[None]:
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
        raise _explain_no_access(hub, repository, error.response, authenticated) from None
    except hub_errors.HfHubHTTPError as error:
        raise _explain_status(error, hub, repository, authenticated) from None
    except hub_errors.HTTPError as error:
        raise TransientError(HubUnreachableError(_describe_failure(error, hub))) from None
    except (ValueError, TypeError, KeyError, AttributeError):  # what it answered is no listing
        raise no_hub(hub) from None


def check_status(response: Any, hub: str, repository: str, path: str, *, own: bool, authenticated: bool) -> None:
    """Raise the error that a response stands for."""
    status = response.status_code
    if status in (200, 206):
        return
    if status in (401, 403) and not own:  # the address of the storage server has expired; the hub gives a new one
        raise TransientError(
            HubUnreachableError(f"The storage server of the hub refuses {path[:100]} (HTTP {status}). Try again later.")
        )
    if status in (401, 403):
        raise _explain_no_access(hub, repository, response, authenticated)
    if status == 404:
        raise NotFoundError(f"{repository} has no file {path[:100]} any more (HTTP 404). Pull it again.")
    if status == 429:
        raise _explain_busy(hub, response.headers)
    if status == 416:
        raise TransientError(
            HubUnreachableError(f"The hub {hub} cannot continue {path[:100]} (HTTP 416)."), restart=True
        )
    if status >= 500 or status == 408:
        raise TransientError(HubUnreachableError(f"The hub {hub} has an error of its own (HTTP {status})."))
    raise HubUnreachableError(f"The hub {hub} refuses to send {path[:100]} (HTTP {status}).")


def _explain_status(error: Any, hub: str, repository: str, authenticated: bool) -> TmdeError | TransientError:
    """Return the error that a refused question about a repository stands for."""
    response = error.response
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    if status == 429:
        return _explain_busy(hub, response.headers)
    if status >= 500 or status == 408:
        return TransientError(HubUnreachableError(f"The hub {hub} has an error of its own (HTTP {status})."))
    if "disabled" in response.headers.get("X-Error-Message", "").lower():
        return UnprocessableError(f"The hub has disabled {repository}, so it cannot be fetched.")
    if status in (401, 403):
        return _explain_no_access(hub, repository, response, authenticated)
    if status == 404 and not code:
        return NotFoundError(
            f"{hub} has no model {repository} (HTTP 404). Check the name"
            + (f"; is {hub} (HF_ENDPOINT) a hub?" if os.environ.get("HF_ENDPOINT") else ".")
        )
    if status == 404:
        return _explain_missing(hub, repository, authenticated)
    return HubUnreachableError(f"The hub {hub} refuses the question about {repository} (HTTP {status}).")


def _explain_missing(hub: str, repository: str, authenticated: bool) -> NotFoundError:
    private = (
        "your token has no access to it" if authenticated else "it is private; then set HF_TOKEN to a token with access"
    )
    return NotFoundError(f"{hub} has no model {repository}, or {private}. Check the name at {hub}/{repository}")


def _explain_no_access(hub: str, repository: str, response: Any, authenticated: bool) -> TmdeError:
    page, status = f"{hub}/{repository}", response.status_code
    if response.headers.get("X-Error-Code") == "GatedRepo":
        said = _words_of(response)
        then = (
            "Your token has no access yet: accept the terms there, with the account of the token (the publisher may "
            "have to confirm), then pull again."
            if authenticated
            else "Accept the terms there, then set HF_TOKEN to a token of that account "
            "(https://huggingface.co/settings/tokens) and pull again."
        )
        return UnprocessableError(
            f"The publisher of {repository} asks for an agreement first: {page} {then}{said}", gated=True, page=page
        )
    if status == 401 and not authenticated:
        return _explain_missing(hub, repository, authenticated)
    if status == 401:
        return UnauthorizedError(
            f"The hub does not let the token in HF_TOKEN see {repository}: the token is wrong or has expired, or there is "
            "no such model. Make a new one at https://huggingface.co/settings/tokens, or unset HF_TOKEN."
        )
    how = "your token lacks the permission to read it" if authenticated else "set HF_TOKEN to a token with access"
    return UnprocessableError(
        f"The hub forbids access to {repository} (HTTP 403): {how}. Its page: {page}{_words_of(response)}", page=page
    )


def _words_of(response: Any) -> str:
    """Return what the hub says about a refusal, such as that a token lacks a permission; empty if it says nothing."""
    words = " ".join(response.headers.get("X-Error-Message", "").split())
    return f" The hub says: {words[:300]}" if words.isprintable() and words else ""


def _explain_busy(hub: str, headers: Any) -> TransientError:
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


def no_hub(hub: str) -> HubUnreachableError:
    """Return the error for an address that is no hub."""
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
