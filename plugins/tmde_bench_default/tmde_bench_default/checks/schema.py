"""Implement the part of JSON Schema that checks need. The keywords in `KEYWORDS` are supported; others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    ),
}

_BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
KEYWORDS = frozenset({
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "uniqueItems", "title", "description", *_BOUNDS,
})  # fmt: skip

_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list that is not empty"),
    "required": (
        lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
        "a list of names",
    ),
    "properties": (lambda value: isinstance(value, dict), "an object"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(_BOUNDS, (TYPES["number"], "a number")),
}

MAX_DEPTH = 20


def find_mismatch(value: Any, schema: Any, where: str = "it") -> str | None:
    """Return why the value does not match the schema, or None if it matches.

    The schema must have no `schema_problems`.
    """
    if isinstance(schema, bool):
        return None if schema else f"{where} must not be there"
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted or []
    if names and not any(TYPES[name](value) for name in names):
        return f"{where} is no {' or '.join(names)}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where} is none of the allowed values"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{where} is not {schema['const']!r}"
    if reason := _out_of_bounds(value, schema, where):
        return reason
    if isinstance(value, dict):
        return _object_mismatch(value, schema, where)
    if isinstance(value, list):
        if schema.get("uniqueItems") and any(_same(one, other) for i, one in enumerate(value) for other in value[:i]):
            return f"{where} holds something twice"
        for index, one in enumerate(value):
            if "items" in schema and (reason := find_mismatch(one, schema["items"], f"{where}[{index}]")):
                return reason
    return None


def _object_mismatch(value: dict[str, Any], schema: dict[str, Any], where: str) -> str | None:
    known = schema.get("properties", {})
    if missing := [name for name in schema.get("required", ()) if name not in value]:
        return f"{where} lacks {missing[0]!r}"
    for name, one in value.items():
        rule = known.get(name, schema.get("additionalProperties", True))
        if rule is False:
            return f"{where} has {name!r}, which is not allowed"
        if reason := find_mismatch(one, rule, f"{where}.{name}"):
            return reason
    return None


def _out_of_bounds(value: Any, schema: dict[str, Any], where: str) -> str | None:
    size: float | None = None
    suffix = ""
    if TYPES["number"](value):
        size, suffix = value, "imum"
    elif isinstance(value, str):
        size, suffix = len(value), "Length"
    elif isinstance(value, list):
        size, suffix = len(value), "Items"
    if size is None:
        return None
    if size < schema.get(f"min{suffix}", size):
        return f"{where} is too small or too short"
    return f"{where} is too large or too long" if size > schema.get(f"max{suffix}", size) else None


def _same(one: Any, other: Any) -> bool:
    """Compare two values by JSON's rules: true differs from 1, and 1.0 equals 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def schema_problems(schema: Any, depth: int = MAX_DEPTH) -> list[str]:
    """Return what is wrong with a schema, one sentence for each problem."""
    if isinstance(schema, bool):
        return []
    if not isinstance(schema, dict):
        return ['A JSON Schema is an object, such as {"type": "object"}.']
    if depth == 0:
        return ["The JSON Schema is nested too deeply."]
    found = [
        f"The JSON Schema keyword {name!r} is not understood; there are {', '.join(sorted(KEYWORDS))}."
        for name in schema
        if name not in KEYWORDS
    ]
    types = schema.get("type", [])
    found += [
        f"{name!r} is no JSON type; there are {', '.join(TYPES)}."
        for name in (types if isinstance(types, list) else [types])
        if not (isinstance(name, str) and name in TYPES)
    ]
    found += [
        f"{name!r} in the JSON Schema must be {what}."
        for name, (is_right, what) in _SHAPES.items()
        if name in schema and not is_right(schema[name])
    ]
    inner = list(schema["properties"].values()) if isinstance(schema.get("properties"), dict) else []
    inner += [schema[name] for name in ("items", "additionalProperties") if name in schema]
    return found + [problem for one in inner for problem in schema_problems(one, depth - 1)]
