"""Find wordings that a text states."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from tmde_bench_default.checks.reading.denial import is_called_wrong, is_denied
from tmde_bench_default.checks.reading.hedging import is_offered
from tmde_bench_default.checks.reading.numbers import is_unspaced, read_numbers
from tmde_bench_default.checks.reading.units import CURRENCY

MAX_PLACES = 200
"""At most this many places of a wording are looked at."""

MAX_NUMBER = 80
"""The longest number around a wording, in characters."""

_OUTSIDE = re.compile(rf"\s?(?:{CURRENCY}|%|percent|per cent)\s?")
"""What a wording may leave out of a number: its currency and its percent sign."""


def find_stated(text: str, wording: str) -> list[int]:
    """Return where the wording occurs in the text, as words of its own and not denied.

    Normalise both arguments with `plain` first. In scripts that put no blanks between words, such as Chinese and Thai, a
    wording may stand anywhere. A number is never a part of a longer one.
    """
    if not wording:
        return []
    found = [match.start() for match in islice(re.finditer(re.escape(wording), text), MAX_PLACES)]
    found = [start for start in found if _is_whole(text, start, start + len(wording))]
    if found and read_numbers(wording):
        found = _with_whole_numbers(text, wording, found)
    return [start for start in found if not is_denied(text, start) and not is_called_wrong(text, start + len(wording))]


def find_asserted(text: str, wording: str, same: Sequence[str] = ()) -> list[int]:
    """Return where the text states the wording and commits to it. What is offered, asked or left open does not count.

    Args:
        text: text that `plain` has normalised.
        wording: a normalised wording.
        same: all normalised wordings of the same fact.
    """
    return [
        start
        for written in _spaced(wording)
        for start in find_stated(text, written)
        if not is_offered(text, start, start + len(written), same)
    ]


_BEFORE_UNIT = re.compile(r"(?<=\d)( ?)(?=(?:°|%|°?[cfk]\b|(?:[kcmµn]?m|k?g|mg|l|ml|s|h|km/h|hz|[km]?w|[km]?j|v|a)\b))")


def _spaced(wording: str) -> set[str]:
    """Return the wording with and without a blank between numbers and units: 100 °C, 100°C."""
    return {wording, _BEFORE_UNIT.sub("", wording), _BEFORE_UNIT.sub(" ", wording)}


def _is_whole(text: str, start: int, end: int) -> bool:
    return not (
        (start > 0 and _are_one_word(text[start - 1], text[start]))
        or (end < len(text) and _are_one_word(text[end - 1], text[end]))
    )


def _are_one_word(one: str, other: str) -> bool:
    if one.isdigit() and other.isdigit():
        return True
    spaced = [character.isalnum() and not is_unspaced(character) for character in (one, other)]
    return all(spaced)


def _with_whole_numbers(text: str, wording: str, starts: list[int]) -> list[int]:
    """Return the places at which the wording cuts no number of the text apart."""
    return [start for start in starts if not _cuts_a_number(text, start, start + len(wording))]


def _cuts_a_number(text: str, start: int, end: int) -> bool:
    begin = max(0, start - MAX_NUMBER)
    begin = text.find(" ", begin, start) + 1 or begin if begin else 0
    for one in read_numbers(text[begin : end + MAX_NUMBER]):
        first, last = begin + one.start, begin + one.end
        if one.kind == "label" or last <= start or first >= end:
            continue
        if (first < start and _OUTSIDE.fullmatch(text[first:start]) is None) or (
            last > end and _OUTSIDE.fullmatch(text[end:last]) is None
        ):
            return True
    return False
