"""The base of every record: immutable, strict, and camelCase in JSON."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import msgspec

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.wrong_values import describe_problem

if TYPE_CHECKING:
    from typing import dataclass_transform
else:  # Workers in their own environments may run on Python 3.10, which lacks it. Only type checkers use it.

    def dataclass_transform(**_kwargs):
        """Return a decorator that changes nothing."""
        return lambda decorated: decorated


UTC = timezone.utc  # noqa: UP017  # `datetime.UTC` is missing in Python 3.10

T = TypeVar("T")


# Subclasses inherit `frozen` from msgspec; this decorator tells type checkers so.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An immutable value with named fields. JSON names are camelCase. Unknown fields are refused."""


def utc_now() -> datetime:
    """Return the current time in UTC, cut to milliseconds, so that it is equal after storing and reading it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def to_utc(moment: datetime, field: str) -> datetime:
    """Return a time from outside in UTC; a time without a time zone counts as UTC.

    Raises:
        InvalidInputError: the year does not exist in UTC.
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise InvalidInputError(f"{field}: {moment.isoformat()} is beyond the years 1 to 9999.", field=field) from None


def parse_id(text: str, what: str) -> UUID:
    """Parse an id from outside.

    A malformed id counts as not found.

    Raises:
        NotFoundError: `text` is not a canonical UUID.
    """
    try:
        parsed = UUID(text)
    except (ValueError, AttributeError, TypeError):
        parsed = None
    if parsed is None or str(parsed) != str(text).lower():
        raise NotFoundError(f"There is no {what} with the id {str(text)[:60]!r}.")
    return parsed


def to_json(value: Any) -> bytes:
    """Encode a record, or plain data that holds records, as compact UTF-8 JSON."""
    return msgspec.json.encode(value)


_WIRE_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_NAMED = re.compile(r"^Object (?P<what>contains unknown|missing required) field `(?P<name>.*)`$", re.DOTALL)


def from_json(data: bytes | str, as_type: type[T]) -> T:
    """Decode JSON into a record.

    Raises:
        InvalidInputError: the data is not JSON, a field is unknown or missing, or a value has the wrong type. The
            detail names the place.
    """
    try:
        return msgspec.json.decode(data, type=as_type)
    except msgspec.ValidationError as error:
        raise to_invalid_input(error, as_type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"This is not valid JSON: {error}.") from None


def to_invalid_input(error: msgspec.ValidationError, of: Any = None) -> InvalidInputError:
    """Convert an error of msgspec into one of TMDE: a sentence, with the path of the field as context.

    Args:
        error: the error that msgspec raised.
        of: the expected type. With this type, the sentence lists the choices of a field that has few.
    """
    text = str(error)
    found = _WIRE_PATH.search(text)
    path = found["path"].replace("[...]", "") if found else ""  # "[...]": an unnamed key
    sentence = text[: found.start()] if found else text
    if named := _NAMED.match(sentence):
        path = ".".join(part for part in (path, named["name"][:60]) if part)
        missing = named["what"] == "missing required"
        sentence = "this field is missing" if missing else "there is no such field"
    else:
        sentence = describe_problem(sentence, of, path)
    where = f"{path}: " if path else "This " if sentence.startswith("must ") else ""
    return InvalidInputError(f"{where}{sentence}.", field=path or None)
