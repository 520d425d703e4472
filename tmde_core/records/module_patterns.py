"""Matches names of modules with the expressions in an adapter's `rank_pattern` and `alpha_pattern`, as PEFT does.

The expressions are regular expressions from strangers. Python's `re` tries every way to match, so that a short
expression can take longer than the age of the universe. This matcher follows all ways at once and is always quick. It
knows what names of modules need: letters, `.`, classes, groups, alternatives, `*`, `+`, `?`, `^` and `$`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_LENGTH = 300
"""The number of characters of an expression."""
MAX_DEPTH = 3
"""How deeply groups may be nested."""

Ends = Callable[[str, frozenset[int]], frozenset[int]]
"""Returns where a part of an expression can end in a text, if it begins at one of some places."""

_CLASS = re.compile(r"\[\^?[\w.\-]+\]", re.ASCII)
_PLAIN = re.compile(r"[\w.]+", re.ASCII)
"""An expression without choices. `re` tries it in one way only, and is thirty times as quick. Large models have hundreds."""
_SPECIAL = frozenset("()[]{}*+?|^$\\")


def is_plain(expression: str) -> bool:
    """Return whether an expression has no choices, so that matching takes next to no time."""
    return _PLAIN.fullmatch(expression) is not None


class PatternError(ValueError):
    """The expression is none that this matcher knows."""


class ModulePattern:
    """An expression that is ready to match."""

    def __init__(self, expression: str) -> None:
        """Read the expression.

        Raises:
            PatternError: it is too long, or not of the known kind.
        """
        if not 0 < len(expression) <= MAX_LENGTH:
            raise PatternError("length")
        self._plain = re.compile(rf"(?:.*\.)?(?:{expression})") if is_plain(expression) else None
        self._rest = expression
        self._ends = self._alternatives(0)
        if self._rest:
            raise PatternError(self._rest)

    def matches(self, module: str) -> bool:
        """Return whether the expression is the end of the module's name, from its beginning or behind a dot."""
        if self._plain is not None:
            return self._plain.fullmatch(module) is not None
        starts = frozenset((0, *(place + 1 for place, letter in enumerate(module) if letter == ".")))
        return len(module) in self._ends(module, starts)

    def _alternatives(self, depth: int) -> Ends:
        if depth > MAX_DEPTH:
            raise PatternError("depth")
        ways = [self._sequence(depth)]
        while self._take("|"):
            ways.append(self._sequence(depth))
        return lambda text, starts: frozenset().union(*(way(text, starts) for way in ways))

    def _sequence(self, depth: int) -> Ends:
        parts: list[Ends] = []
        while self._rest and self._rest[0] not in "|)":
            parts.append(self._anchor() or self._repeated(self._part(depth)))

        def ends(text: str, starts: frozenset[int]) -> frozenset[int]:
            for part in parts:
                starts = part(text, starts)
            return starts

        return ends

    def _anchor(self) -> Ends | None:
        begin = self._take("^")
        if not begin and not self._take("$"):
            return None
        if self._rest[:1] in ("*", "+", "?"):
            raise PatternError(self._rest)
        return lambda text, starts: starts & {0 if begin else len(text)}

    def _part(self, depth: int) -> Ends:
        if self._take("(?:") or (not self._rest.startswith("(?") and self._take("(")):
            inner = self._alternatives(depth + 1)
            if not self._take(")"):
                raise PatternError("group")
            return inner
        return self._letter()

    def _letter(self) -> Ends:
        if found := _CLASS.match(self._rest):
            self._rest = self._rest[found.end() :]
            try:
                fits = re.compile(found.group(), re.ASCII).fullmatch
            except re.error:
                raise PatternError(found.group()) from None
            return _one(lambda letter: fits(letter) is not None)
        if self._take("\\d"):
            return _one(str.isdecimal)
        if self._take("\\w"):
            return _one(lambda letter: letter.isalnum() or letter == "_")
        if self._take("\\."):
            return _one(".".__eq__)
        if self._take("."):
            return _one(lambda letter: letter != "\n")
        if self._rest[0] in _SPECIAL:
            raise PatternError(self._rest)
        letter, self._rest = self._rest[0], self._rest[1:]
        return _one(letter.__eq__)

    def _repeated(self, part: Ends) -> Ends:
        for sign in "*+?":
            if self._take(sign):
                self._take("?")  # lazy or not, the places are the same
                if self._rest[:1] in ("*", "+", "?"):
                    raise PatternError(self._rest)
                return _repeat(part, sign)
        return part

    def _take(self, text: str) -> bool:
        if not self._rest.startswith(text):
            return False
        self._rest = self._rest[len(text) :]
        return True


def _one(fits: Callable[[str], bool]) -> Ends:
    return lambda text, starts: frozenset(at + 1 for at in starts if at < len(text) and fits(text[at]))


def _repeat(part: Ends, sign: str) -> Ends:
    def ends(text: str, starts: frozenset[int]) -> frozenset[int]:
        if sign == "?":
            return starts | part(text, starts)
        first = starts if sign == "*" else part(text, starts)
        found, new = first, first
        while new:
            new = part(text, new) - found
            found |= new
        return found

    return ends
