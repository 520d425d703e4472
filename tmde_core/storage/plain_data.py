"""Builds plain data from the JSON and YAML texts that people bring.

Values stay what was written. No mapping may name a field twice, because the second value would replace the first
without a word. YAML is read without its guesses: `12:30`, `010`, `yes`, `1e3`, `~` and dates are text. Only an empty
value is no text.
"""

from __future__ import annotations

import json
import math
from typing import Any

import yaml

MAX_DEPTH = 20
"""How deeply YAML may be nested. SQuAD's files need ten levels."""


MOST_DIGITS = 4_000
"""Python reads no longer whole numbers."""


class FieldTwice(str):
    """A key that no text equals. Its value is the name of the field that a mapping has twice."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


TWICE = FieldTwice("twice")


def find_twice(value: Any) -> str | None:
    """Return a sentence about a field that one of the mappings has twice; None if there is none."""
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


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[TWICE if name in found else name] = name if name in found else value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _finite(written: str) -> float:
    number = float(written)
    if math.isinf(number):
        raise ValueError(f"{written[:40]} is too large a number")
    return number


def _short(written: str) -> int:
    if len(written) > MOST_DIGITS:
        raise ValueError(f"a number of {len(written):,} digits is too long")
    return int(written)


JSON = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_short
)
"""Decodes JSON; `find_twice` finds the fields that stand there twice. Raises ValueError or RecursionError."""


class YamlError(ValueError):
    """The text is not YAML, or uses what is not read.

    `line` counts from 1. `problem` is a part of a sentence.
    """

    def __init__(self, problem: str, mark: Any = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line: int = mark.line + 1 if mark else 1


def parse_yaml(text: str, max_depth: int = MAX_DEPTH) -> Any:
    """Return the value of the only document of a YAML text; `find_twice` finds the fields that stand there twice.

    Raises:
        YamlError: The text is not YAML, is nested too deeply, has a second document, or uses anchors, aliases or tags.
    """
    try:
        return _YamlReader(max_depth).read(text)
    except yaml.MarkedYAMLError as error:
        raise YamlError(error.problem or "the text is not understood", error.problem_mark) from None
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise YamlError(" ".join(str(error).split())[:200]) from None


_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")))
"""Tags that say what a value is anyway."""


class _YamlReader:
    """Builds plain data from the events of a YAML text. Every scalar is the text that was written."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._open: list[tuple[Any, list[Any]]] = []
        """The containers that are not closed yet, each with the key that waits for its value."""
        self._root: Any = None
        self._documents = 0

    def read(self, text: str) -> Any:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            self._take(event)
        return self._root

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            # Aliases can expand a few bytes to gigabytes, and nobody needs them here.
            raise YamlError("anchors (`&name`) and aliases (`*name`) are not allowed", event.start_mark)
        if (tag := getattr(event, "tag", None)) not in _TAGS:
            raise YamlError(f"the tag `{tag}` is not allowed", event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise YamlError("a second document begins", event.start_mark)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(None if event.value == "" and event.implicit[0] else event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= self._max_depth:
                raise YamlError("it is nested too deeply", event.start_mark)
            self._open.append(({} if isinstance(event, yaml.MappingStartEvent) else [], []))
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
            key.append(value if isinstance(value, str) else "" if value is None else str(value)[:40])
        else:
            name = key.pop()
            container[TWICE if name in container else name] = name if name in container else value
