"""Translates msgspec's messages about invalid values into words for people who do not know Python."""

from __future__ import annotations

import re
import types
import typing
from typing import Any

import msgspec

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "null": "null",
    "array": "a list",
    "object": "an object of named fields",
    "datetime": "a date with time, like 2026-01-31T02:00:00Z",
    "date": "a date, like 2026-01-31",
    "uuid": "an id, like 0b7a4c1e-5d2f-4e3a-9c8b-7a6f5e4d3c2b",
}

_GOT = {**KINDS, "float": "a number with a fraction", "datetime": "a date", "uuid": "an id"}

_EXPECTED = re.compile(r"^Expected `(?P<kinds>[^`]+)`(?P<limit>.*?)(?:, got (?P<got>`?\w+`?))?$", re.DOTALL)
_LIMITS = (
    (re.compile(r"^ of length (?:>=|at least) (\d+)$"), "with at least {0}"),
    (re.compile(r"^ of length (?:<=|at most) (\d+)$"), "with at most {0}"),
    (re.compile(r"^ of length (?:== )?(\d+)$"), "with exactly {0}"),
    (re.compile(r"^ of length (\d+) to (\d+)$"), "with {0} to {1}"),
    (re.compile(r"^ >= (\S+)$"), "of at least {0}"),
    (re.compile(r"^ <= (\S+)$"), "of at most {0}"),
    (re.compile(r"^ > (\S+)$"), "above {0}"),
    (re.compile(r"^ < (\S+)$"), "below {0}"),
    (re.compile(r"^ that's a multiple of (\S+)$"), "that is a multiple of {0}"),
    (re.compile(r"^ matching regex (.+)$", re.DOTALL), "that matches {0}"),
)
_WHOLE = {
    "Expected `str` of length >= 1": "must not be empty",
    "Expected `array` of length >= 1": "must not be empty",
    "Expected `datetime` with a timezone component": f"must be {KINDS['datetime']}; the zone is missing",
    "Invalid UUID": f"must be {KINDS['uuid']}",
    "Invalid RFC3339 encoded datetime": f"must be {KINDS['datetime']}",
    "Invalid RFC3339 encoded date": f"must be {KINDS['date']}",
    "Integer value out of range": "is too large a number",
    "Number out of range": "is too large a number",
}
_NO_CHOICE = re.compile(r"^Invalid enum value (?P<value>.*)$", re.DOTALL)
_LONGEST = 60
"""The most characters of an invalid value that a message repeats."""


def describe_problem(complaint: str, of: Any = None, path: str = "") -> str:
    """Convert msgspec's message about an invalid value into the part of a sentence that follows the field's name.

    An unknown message stays unchanged.

    Args:
        complaint: msgspec's message without the place.
        of: the record. With this type, the sentence lists the choices of a field that has few.
        path: the place in the record.
    """
    if complaint in _WHOLE:
        return _WHOLE[complaint]
    if found := _NO_CHOICE.match(complaint):
        choices = find_choices(of, path)
        one_of = f", but one of {', '.join(map(str, choices))}" if choices else ""
        return f"cannot be {found['value'][:_LONGEST]}{one_of}"
    if (found := _EXPECTED.match(complaint)) and (limit := _limit(found["limit"], found["kinds"])) is not None:
        kinds = " or ".join(KINDS.get(kind, kind) for kind in found["kinds"].split(" | "))
        got = (found["got"] or "").strip("`")
        if got.isdigit():  # how long the list is
            return f"must be {kinds}{limit}, not {got}"
        return f"must be {kinds}{limit}" + (f", not {_GOT.get(got, got)}" if got else "")
    return complaint


def _limit(text: str, kinds: str) -> str | None:
    """Return the range in words after a leading space; None if the range is unknown."""
    if not text:
        return ""
    for pattern, words in _LIMITS:
        if found := pattern.match(text):
            counted = {"str": " characters", "array": " entries", "object": " fields"}.get(kinds, "")
            return " " + words.format(*found.groups()) + (counted if " of length" in text else "")
    return None


def find_choices(of: Any, path: str) -> tuple[Any, ...]:
    """Return the allowed values of the field at `path` of a record; empty if they are not a short list.

    Examples of a path are "roles.judge.kind" and "criteria[0].check".
    """
    here = of
    for step in re.findall(r"[^.\[\]]+", path):
        here = _inside(_bare(here), step)
    here = _bare(here)
    return typing.get_args(here) if typing.get_origin(here) is typing.Literal else ()


def _bare(kind: Any) -> Any:
    """Return the type without `Annotated` and `| None`."""
    if typing.get_origin(kind) is typing.Annotated:
        return _bare(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [one for one in typing.get_args(kind) if one is not type(None)]
        return _bare(rest[0]) if len(rest) == 1 else kind
    return kind


def _inside(kind: Any, step: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        hints = typing.get_type_hints(kind, include_extras=True)
        names = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
        return hints.get(names.get(step, ""))
    inner = [one for one in typing.get_args(kind) if one is not Ellipsis]
    return inner[-1] if inner else None
