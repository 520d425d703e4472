"""Turns the text of a question file into entries: mappings with the line at which they begin.

Values stay what was written. JSON and YAML may not name a field twice, because the second value would replace the first
without a word. YAML is read without its guesses: `12:30`, `010`, `yes`, `1e3`, `~` and dates are text. Only an empty
value is no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tmde_core.errors import InvalidInputError
from tmde_core.storage.text_files import iterate_lines

Entry = dict[str, Any]
Found = Iterator[tuple[int, Entry | str]]
"""An entry's line (JSON) or number (YAML), and the entry, or the reason why the entry cannot be read."""

MAX_DEPTH = 20
"""How deeply an entry may be nested. SQuAD's files need ten levels."""


class FieldTwice(str):
    """A key that no text equals. Its value is the name of the field that a mapping has twice."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


TWICE = FieldTwice("twice")


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
            yield number, _entry(_DECODER.decode(line))
        except (ValueError, RecursionError) as error:
            yield number, _not_json(error)


def _first_line_alone(text: str, first: tuple[int, str]) -> Any:
    """Return the value of the first line; None if the value goes on in the next lines."""
    try:
        return _DECODER.decode(first[1])
    except (ValueError, RecursionError):
        if first[1].startswith("["):
            return None
        if first[1] == "{" or _is_spread_object(text):
            return None
        return {}


def _is_spread_object(text: str) -> bool:
    start = len(text) - len(text.lstrip())
    try:
        value, _ = _DECODER.raw_decode(text, start)
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
            value, end = _DECODER.raw_decode(text, place)
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


def _pairs(pairs: list[tuple[str, Any]]) -> Entry:
    found: Entry = {}
    for name, value in pairs:
        found[TWICE if name in found else name] = name if name in found else value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _not_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "This is not valid JSON: it is nested too deeply."
    return f"This is not valid JSON: {' '.join(str(error).split())[:200]}."


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_refuse_constant)


def find_twice(value: Any) -> str | None:
    """Return the reason why an entry is refused if one of its mappings has a field twice; else None."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if TWICE in one:
                return f"The field {str(one[TWICE])[:60]!r} stands there twice. Remove one of them."
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
    return None


# ------------------------------------------------------------------------------------------------------------ YAML


def read_yaml(text: str) -> Found:
    """Yield the entries of a YAML list, or of the list under `questions`.

    Raises:
        InvalidInputError: The text is not YAML, uses anchors or tags, or is no list.
    """
    try:
        found = _YamlReader().read(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidInputError(f"This is not valid YAML: {' '.join(str(error).split())[:200]}.") from None
    entries = found.get("questions") if isinstance(found, dict) else found
    if not isinstance(entries, list):
        raise InvalidInputError("The YAML file must be a list of questions, or have one under `questions`.")
    for number, entry in enumerate(entries, 1):
        yield (
            number,
            (find_twice(entry) or entry) if isinstance(entry, dict) else "A mapping with `query` belongs there.",
        )


_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))
"""Tags that say what a value is anyway."""


class _YamlReader:
    """Builds plain data from the events of a YAML text. Every scalar is the text that was written."""

    def __init__(self) -> None:
        self._open: list[tuple[Any, list[Any]]] = []
        """The containers that are not closed yet, each with the key that waits for its value."""
        self._root: Any = None
        self._documents = 0

    def read(self, text: str) -> Any:
        """Return the value of the only document."""
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            self._take(event)
        return self._root

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            # Aliases can expand a few bytes to gigabytes, and questions do not need them.
            raise InvalidInputError(
                f"{_place(event)}: the YAML file uses anchors (`&name`) or aliases (`*name`), which are not read. Write "
                "the values out."
            )
        if (tag := getattr(event, "tag", None)) not in _TAGS:
            raise InvalidInputError(f"{_place(event)}: the tag `{tag}` is not read. Remove it.")
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise InvalidInputError(f"{_place(event)}: a second YAML document begins. Write one list of questions.")
        elif isinstance(event, yaml.ScalarEvent):
            self._add(None if event.value == "" and event.implicit[0] else event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise InvalidInputError(f"{_place(event)}: the YAML file is nested too deeply.")
            container: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._open.append((container, []))
        elif isinstance(event, yaml.CollectionEndEvent):
            container, _ = self._open.pop()
            self._add(container)

    def _add(self, value: Any) -> None:
        if not self._open:
            self._root = value
            return
        container, key = self._open[-1]
        if isinstance(container, list):
            container.append(value)
        elif not key:
            if not isinstance(value, str):
                value = "" if value is None else str(value)[:40]
            key.append(value)
        else:
            name = key.pop()
            container[TWICE if name in container else name] = name if name in container else value


def _place(event: yaml.Event) -> str:
    return f"Line {event.start_mark.line + 1 if event.start_mark else 1}"
