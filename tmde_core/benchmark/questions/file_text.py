"""Turns the text of a question file into entries: mappings with the line at which they begin.

`storage.plain_data` keeps values as they were written, and finds fields that stand there twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.storage.plain_data import JSON, YamlError, find_twice, parse_yaml
from tmde_core.storage.text_files import iterate_lines

Entry = dict[str, Any]
Found = Iterator[tuple[int, Entry | str]]
"""An entry's line (JSON) or number (YAML), and the entry, or the reason why the entry cannot be read."""

# ------------------------------------------------------------------------------------------------------------ JSON


def read_json(text: str) -> Found:
    """Yield the entries of JSON Lines, of one JSON list, or of JSON objects that take several lines."""
    first = next(iterate_lines(text), None)
    if first is None:
        return
    alone = _first_line_alone(text, first)
    if alone is None:
        yield from _spread(text)
        return
    if isinstance(alone, list) and not any(number != first[0] for number, _ in iterate_lines(text)):
        yield from ((first[0], _entry(one)) for one in alone)
        return
    for number, line in iterate_lines(text):
        try:
            yield number, _entry(JSON.decode(line))
        except (ValueError, RecursionError) as error:
            other = "" if line.startswith(("{", "[")) else " Write one JSON object a line, or a YAML file."
            yield number, f"{_not_json(error)}{other}"


def _first_line_alone(text: str, first: tuple[int, str]) -> Any:
    """Return the value of the first line; None if the value goes on in the next lines."""
    try:
        return JSON.decode(first[1])
    except (ValueError, RecursionError):
        if first[1].startswith("["):
            return None
        if first[1] == "{" or _is_spread_object(text):
            return None
        return {}


def _is_spread_object(text: str) -> bool:
    start = len(text) - len(text.lstrip())
    try:
        value, _ = JSON.raw_decode(text, start)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def _spread(text: str) -> Found:
    """Yield the elements of a list, or objects one after the other, with the line at which each begins."""
    place = _skip(text, 0)
    listed = text[place] == "["
    place = _skip(text, place + 1) if listed else place
    counted, line = 0, 1
    while place < len(text) and not (listed and text[place] == "]"):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, end = JSON.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            yield line, f"{_not_json(error)} The rest of the file was not read."
            return
        yield line, _entry(value)
        place = _skip(text, end)
        if listed and place < len(text) and text[place] == ",":
            place = _skip(text, place + 1)
        elif listed and not text.startswith("]", place):
            line += text.count("\n", counted, place)
            yield line, "This is not valid JSON: a comma or `]` is missing. The rest of the file was not read."
            return


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n\ufeff":
        place += 1
    return place


def _entry(value: Any) -> Entry | str:
    if not isinstance(value, dict):
        return "A JSON object belongs there."
    return find_twice(value) or value


def _not_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "This is not valid JSON: it is nested too deeply."
    return f"This is not valid JSON: {' '.join(str(error).split())[:200]}."


# ------------------------------------------------------------------------------------------------------------ YAML


def read_yaml(text: str) -> Found:
    """Yield the entries of a YAML list, or of the list under `questions`.

    Raises:
        InvalidInputError: The text is not YAML, uses anchors or tags, or is no list.
    """
    try:
        found = parse_yaml(text)
    except YamlError as error:
        raise InvalidInputError(f"Line {error.line}: this is not valid YAML: {error.problem}.") from None
    if found is None:
        return
    entries = found.get("questions") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise InvalidInputError("The YAML file must be a list of questions, or have one under `questions`.")
    for number, entry in enumerate(entries, 1):
        yield (
            number,
            (find_twice(entry) or entry) if isinstance(entry, dict) else "A mapping with `query` belongs there.",
        )
