"""Reads JSON of other programs member by member, so that one odd member does not spoil the rest.

`read_lenient` also takes what is no JSON but what programs write all the same: NaN, Infinity, control characters in
strings, halves of surrogate pairs, bytes that are no UTF-8. The `as_` functions return a usable value or nothing. They
never raise.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from typing import Any

import msgspec

__all__ = ["as_count", "as_list", "as_number", "as_object", "as_text", "read_lenient"]

MOST_COUNT = 10**12
"""The largest plausible count of tokens or bytes of a model. A larger one is taken as unknown."""

_NUMBER = re.compile(r"[+-]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_MOST_DIGITS = 400
"""Python refuses to read integers of over 4,300 digits. No number of a server needs 400."""


def read_lenient(data: bytes) -> Any:
    """Return the value that `data` holds.

    Raises:
        ValueError: the data is no JSON, even when it is read leniently.
    """
    data = data.removeprefix(BOM_UTF8)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        value = json.loads(data.decode("utf-8", "replace"), strict=False, parse_int=_integer)
        return _without_halves(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_text(value: object) -> str:
    """Return the value if it is a string, and otherwise an empty string."""
    return value if isinstance(value, str) else ""


def as_object(value: object) -> dict[str, Any]:
    """Return the value if it is an object, and otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return the value if it is an array, and otherwise an empty one."""
    return value if isinstance(value, list) else []


def as_number(value: object) -> float | None:
    """Return a finite number, also one that is written as a string; None if there is none."""
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value := value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_count(value: object) -> int | None:
    """Return a whole number from 0 to `MOST_COUNT`; None for anything else. A fraction is rounded."""
    number = as_number(value)
    return round(number) if number is not None and 0 <= number <= MOST_COUNT else None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _without_halves(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no file and no database takes."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    if isinstance(value, dict):
        return {_without_halves(name): _without_halves(item) for name, item in value.items()}
    return value
