"""Find wordings that a text states."""

from __future__ import annotations

import re

from tmde_bench_default.checks.reading.denial import is_called_wrong, is_denied
from tmde_bench_default.checks.reading.numbers import is_unspaced, read_numbers
from tmde_bench_default.checks.reading.units import CURRENCY

_OUTSIDE = re.compile(rf"\s?(?:{CURRENCY}|%|percent|per cent)\s?")
"""What a wording may leave out of a number: its currency and its percent sign."""


def find_stated(text: str, wording: str) -> list[int]:
    """Return where the wording occurs in the text, as words of its own and not denied.

    Normalise both arguments with `plain` first. In scripts that put no blanks between words, such as Chinese and Thai, a
    wording may stand anywhere. A number is never a part of a longer one.
    """
    if not wording:
        return []
    found = [match.start() for match in re.finditer(re.escape(wording), text)]
    found = [start for start in found if _is_whole(text, start, start + len(wording))]
    if found and read_numbers(wording):
        found = _with_whole_numbers(text, wording, found)
    return [start for start in found if not is_denied(text, start) and not is_called_wrong(text, start + len(wording))]


def _is_whole(text: str, start: int, end: int) -> bool:
    return not (
        start > 0 and _are_one_word(text[start - 1], text[start]) or end < len(text) and _are_one_word(text[end - 1], text[end])
    )


def _are_one_word(one: str, other: str) -> bool:
    if one.isdigit() and other.isdigit():
        return True
    spaced = [character.isalnum() and not is_unspaced(character) for character in (one, other)]
    return all(spaced)


def _with_whole_numbers(text: str, wording: str, starts: list[int]) -> list[int]:
    """Return the places at which the wording cuts no number of the text apart."""
    spans = [(one.start, one.end) for one in read_numbers(text) if one.kind != "label"]
    kept, at = [], 0
    for start in starts:
        end = start + len(wording)
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        near, cut = at, False
        while near < len(spans) and spans[near][0] < end:
            first, last = spans[near]
            cut = cut or (first < start and _OUTSIDE.fullmatch(text[first:start]) is None)
            cut = cut or (last > end and _OUTSIDE.fullmatch(text[end:last]) is None)
            near += 1
        if not cut:
            kept.append(start)
    return kept
