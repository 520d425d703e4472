"""Inputs of the handlers: the services, JSON bodies, and paging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import QueryParameter, SkipValidation

from tmde_core.api.web.problems import UnsupportedMediaTypeError
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record, from_json
from tmde_core.services import Services

T = TypeVar("T")

AnyRequest = Request[Any, Any, Any]
Given = NamedDependency[SkipValidation[Services]]
"""The services. Litestar passes them to every handler that has a parameter `services`."""

Limit = Annotated[int, QueryParameter(ge=1, le=200, description="Entries on a page, 1–200.")]
Offset = Annotated[int, QueryParameter(ge=0, le=2**53, description="Entries to pass over.")]

JSON_BODY_BYTES = 1_000_000
"""The largest JSON body. TMDE's own bodies are far smaller; a larger body is refused with 413 before it is read."""


async def decode_body(request: AnyRequest, as_type: type[T], *, optional: bool = False) -> T:
    """Decode the request's JSON body strictly.

    Litestar's own `data` parameter is not strict enough: it accepts "7" for 7, reads a body of any declared type, and
    its errors mention `int` and `data`.

    Args:
        optional: treat an empty body as `{}`.

    Raises:
        InvalidInputError: the body is not JSON, or has unknown fields, missing fields or wrong types.
        UnsupportedMediaTypeError: the body is declared as another media type.
    """
    raw = await request.body()
    if not raw.strip():
        if not optional:
            raise InvalidInputError("The body is empty; a JSON object belongs there.")
        raw = b"{}"
    else:
        require_type(request, ("application/json",), "application/json")
    return from_json(raw, as_type)


def require_type(request: AnyRequest, allowed: Sequence[str], wanted: str) -> None:
    """Refuse a body whose declared media type is not in `allowed`.

    Raises:
        UnsupportedMediaTypeError: names the media type that is wanted.
    """
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared not in allowed and not (declared.endswith("+json") and "application/json" in allowed):
        raise UnsupportedMediaTypeError(
            f"The body is declared as {declared[:80] or 'nothing'}; send it with Content-Type: {wanted}.", wanted=wanted
        )


class Listing(Record):
    """The shape of every list. The path says what `items` are."""

    total: int
    """The number of items on all pages."""
    next_cursor: str | None = None
