"""What handlers read: the services, a JSON body, and answers in pages."""

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
"""The services, handed to every handler that names them `services`."""

Limit = Annotated[int, QueryParameter(ge=1, le=200, description="Entries on a page, 1–200.")]
Offset = Annotated[int, QueryParameter(ge=0, le=2**53, description="Entries to pass over.")]

JSON_BODY_BYTES = 1_000_000
"""No JSON body of ours comes near; larger ones are refused with 413 before they are read."""


async def body_of(request: AnyRequest, as_type: type[T], *, optional: bool = False) -> T:
    """Decode the request's JSON body, strictly.

    Litestar's own `data` parameter is no substitute: it takes "7" for 7, reads a body of any declared type, and its errors
    speak of `int` and `data`.

    Args:
        optional: an empty body stands for `{}`.

    Raises:
        InvalidInputError: no JSON, unknown or missing fields, wrong types.
        UnsupportedMediaTypeError: the body is declared to be something else.
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
    """Refuse a body of another type than `allowed`.

    Raises:
        UnsupportedMediaTypeError: says what is wanted.
    """
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared not in allowed and not (declared.endswith("+json") and "application/json" in allowed):
        raise UnsupportedMediaTypeError(
            f"The body is declared as {declared[:80] or 'nothing'}; send it with Content-Type: {wanted}.", wanted=wanted
        )


class Listing(Record):
    """The shape of every list; `items` are what the path says."""

    total: int
    """Over all pages."""
    next_cursor: str | None = None
