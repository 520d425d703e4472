"""Answer every error with problem details (RFC 9457), whatever raised it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException

from tmde_core.errors import InvalidInputError, NotFoundError, TmdeError, TooLargeError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

CODES = {
    400: ("invalid_input", "Invalid input"),
    404: ("not_found", "Not found"),
    405: ("method_not_allowed", "Method not allowed"),
    413: ("too_large", "Too large"),
    415: ("unsupported_media_type", "Unsupported media type"),
}
"""Maps a status to its code and title, for errors that the framework raises, not a service."""

_TIME = "a time such as 2026-01-31T08:30:00Z (a + in an address is written %2B)"

PARAMETERS = {
    "limit": "a whole number from 1 to 200",
    "offset": "a whole number from 0 on",
    "minQuality": "a number from 0 to 10",
    "rated": "true or false",
    "eligible": "true or false",
    "valid": "true or false",
    "at": _TIME,
    "from": _TIME,
    "to": _TIME,
}
"""Describes the valid values of query parameters."""

_MISSING = re.compile(r"Missing required query parameter '(?P<name>[^']*)'")

MEMBERS = frozenset({"type", "title", "status", "detail", "instance", "code"})


CLIENT_LEFT = "client disconnected prematurely"
"""The detail of Litestar's 500 when a body breaks off. It is not a defect, and no client receives the answer."""


class UnsupportedMediaTypeError(TmdeError):
    """The media type of the body is not supported."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


def problem(code: str, status: int, title: str, detail: str, context: Mapping[str, Any] | None = None) -> bytes:
    """Return the body of an error response."""
    extra = {name: value for name, value in (context or {}).items() if name not in MEMBERS}
    body = {"type": f"urn:tmde:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return msgspec.json.encode(body | extra, enc_hook=str)


def answer(error: TmdeError, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """Return one of TMDE's errors as a response."""
    body = problem(error.code, error.status, error.title, error.detail, error.context)
    fields = dict(headers or {})
    if "retryAfter" in error.context:
        fields["Retry-After"] = str(error.context["retryAfter"])
    return Response(content=body, status_code=error.status, media_type=MEDIA_TYPE, headers=fields)


def _ours(_: Request[Any, Any, Any], error: TmdeError) -> Response[bytes]:
    if error.status >= 500:
        log.warning("api.failed", code=error.code, detail=error.detail)
    return answer(error)


def _of_the_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    if status == 404:
        return answer(NotFoundError(f"There is nothing at {request.url.path[:200]}."))
    if isinstance(error, ValidationException):
        return answer(_invalid(error))
    if status == 413:
        return answer(TooLargeError("The body is too large for this path."))
    if error.detail == CLIENT_LEFT:
        log.info("api.client_left", path=request.url.path)
        return answer(InvalidInputError("The body ended before it was whole."))
    if status >= 500:
        return _unknown(request, error)
    code, title = CODES.get(status, ("http_error", HTTPStatus(status).phrase))
    detail = f"{request.method} is not offered at {request.url.path[:200]}." if status == 405 else error.detail
    body = problem(code, status, title, detail)
    return Response(content=body, status_code=status, media_type=MEDIA_TYPE, headers=error.headers)


def _invalid(error: ValidationException) -> InvalidInputError:
    found = error.extra if isinstance(error.extra, list) else []
    first = found[0] if found and isinstance(found[0], dict) else {}
    head, *tail = str(first.get("key") or "").split("_")
    field = head + "".join(part.capitalize() for part in tail)
    rule = PARAMETERS.get(field)
    if missing := _MISSING.match(error.detail):
        return InvalidInputError(f"{missing['name']}: this parameter is missing.", field=missing["name"])
    if not field:
        return InvalidInputError(error.detail)
    sentence = f"must be {rule}" if rule else str(first.get("message", "is not valid"))
    return InvalidInputError(f"{field}: {sentence}.", field=field)


def _undecodable(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return answer(InvalidInputError(f"This cannot be read: {error}."))


def _unknown(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    reference = uuid4().hex[:8]
    log.error("api.unexpected", reference=reference, path=request.url.path, exc_info=error)
    detail = f"Something went wrong inside TMDE. The server's log tells more, under {reference}."
    body = problem(TmdeError.code, 500, TmdeError.title, detail, {"reference": reference})
    return Response(content=body, status_code=500, media_type=MEDIA_TYPE)


HANDLERS: dict[Any, Any] = {
    TmdeError: _ours,
    HTTPException: _of_the_framework,
    SerializationException: _undecodable,
    RecursionError: _undecodable,
    Exception: _unknown,
}
"""Maps an exception to its handler. The handler of the closest class is used."""
