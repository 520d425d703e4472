"""Compare an answer with a reference: as a number, as a choice, exactly, or by what it contains.

Each comparison returns whether the answer is right, or None if the reference cannot be compared, and a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from tmde_bench_default.checks.committed import agrees, find_number, parse_number, show
from tmde_bench_default.checks.options import find_option
from tmde_bench_default.checks.reading.folding import fold_signs, plain
from tmde_bench_default.checks.reading.hedging import lists_others
from tmde_bench_default.checks.reading.marks import final_part
from tmde_bench_default.checks.reading.numbers import Reading
from tmde_bench_default.checks.statements import find_asserted

Outcome = tuple[bool | None, str]

LONGEST_CONTAINED = 80
"""The longest reference that is compared without a check, in characters. A longer one is prose, which no rule can
compare."""

SETS = (
    ("yes", "no"),
    ("true", "false"),
    ("positive", "negative", "neutral"),
    ("larger", "smaller", "equal"),
    ("first", "second"),
    ("even", "odd"),
)
"""Sets of words. An answer chooses one word of a set."""

LETTERS = tuple("ABCDEFGHIJ")
"""The letters among which an answer chooses if the reference is a letter."""

MIN_DIGITS = 2
"""An answer that rounds an endless fraction needs this many digits: 0.33 is a third, and 0.3 is not."""

_ROUNDED = re.compile(r"(?<![\d.,])-?\$?(\d*)\.(\d+)")


def inferred_check(reference: str) -> str | None:
    """Return the check for a reference without one: number or choice if it is one, else contains, or None for prose."""
    if parse_number(fold_signs(reference)) is not None:
        return "number"
    if len(reference) == 1 and reference.isalpha() and reference.isascii():
        return "choice"
    return "contains" if len(reference) <= LONGEST_CONTAINED else None


def compare_number(answer: str, reference: str) -> Outcome:
    """Compare the number that the answer commits to with the reference's number."""
    wanted = parse_number(fold_signs(reference))
    if wanted is None or wanted.value is None:
        return None, f"The reference {reference[:40]!r} is not a number."
    found, reason = find_number(answer)
    if found is None:
        return False, f"{reason} Expected {reference}."
    slack = tolerance(fold_signs(reference), wanted, fold_signs(answer)[found.start : found.end])
    right = agrees(found, wanted.value, slack, percent=wanted.percent)
    return right, f"The answer's number is {show(found)}; expected {reference}."


def tolerance(reference: str, wanted: Reading, found: str = "") -> Fraction:
    """Return how far an answer may be off.

    This is half a unit of the reference's last decimal. For a fraction that no decimal number equals, it is half a unit
    of the answer's last decimal.
    """
    value = wanted.value or Fraction(0)
    if _is_endless(value):
        rounded = _ROUNDED.search(found)
        if rounded is None or len((rounded[1] + rounded[2]).lstrip("0")) < MIN_DIGITS:
            return Fraction(0)
        return Fraction(1, 2 * 10 ** len(rounded[2]))
    if re.search(r"\de[+-]?\d|10\^", reference, re.IGNORECASE):
        return abs(value) / 1_000_000
    decimals = re.search(r"\d\.(\d+)\W*\Z|\A\W*\.(\d+)\W*\Z", reference)
    return Fraction(1, 2 * 10 ** len(decimals[1] or decimals[2])) if decimals else Fraction(0)


def _is_endless(value: Fraction) -> bool:
    """Return whether no decimal number equals the fraction."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest != 1


def compare_choice(answer: str, reference: str) -> Outcome:
    """Compare the letter, or the word of a known set such as yes and no, that the answer chooses."""
    wanted = plain(reference).strip(" ().:[]{}")
    if not wanted:
        return None, f"The reference {reference[:40]!r} names no choice."
    options: tuple[str, ...]
    if len(wanted) == 1 and wanted.isalpha():
        options = LETTERS if wanted.upper() in LETTERS else (*LETTERS, wanted.upper())
    else:
        options = next((words for words in SETS if wanted in words), (wanted,))
    found, reason = find_option(answer, options)
    if found is None:
        return False, reason
    return plain(found) == wanted, f"The answer chooses {found!r}; expected {reference!r}."


def compare_exact(answer: str, reference: str) -> Outcome:
    """Check whether the answer or its final part equals the reference, ignoring case, punctuation and blanks."""
    wanted = bare(reference)
    marked = final_part(fold_signs(answer))
    asks = plain(answer).rstrip("\"')").endswith("?") and not plain(reference).endswith("?")
    said = {_joined(bare(answer)), _joined(bare(marked or ""))}
    right = bool(wanted) and not asks and _joined(wanted) in said
    return right, "The answer equals the reference." if right else "The answer differs from the reference."


def compare_contained(answer: str, reference: str) -> Outcome:
    """Check whether the answer states the reference: its words together and in order, whole, and not denied."""
    wanted = bare(reference)
    text = plain(answer)
    right = bool(find_asserted(text, wanted, (wanted,)))
    if not right and find_asserted(stripped := bare(answer), wanted, (wanted,)):
        # Without its marks a question is no question.
        right = wanted not in text and "?" not in text and not lists_others(stripped, (wanted,))
    right = right and not lists_others(text, (wanted,))
    return right, f"The answer {'states' if right else 'does not state'} {reference[:80]!r}."


_AROUND_SIGNS = re.compile(r"\s*([=+<>×·/≠≤≥→])\s*")


def _joined(words: str) -> str:
    """Return the words without blanks around signs: "E = mc2" is "E=mc2"."""
    return _AROUND_SIGNS.sub(r"\1", words)


_OUTER = re.compile(r"[\"'`*_.,;:!?()\[\]{}<>…]")
_KEPT = re.compile(r"[+-]?\.\d")


def bare(text: str) -> str:
    """Return the text in lower case with one form for each character, single blanks, and words without outer marks."""
    words = (_stripped(word) for word in plain(text).split())
    return " ".join(word for word in words if word)


def _stripped(word: str) -> str:
    start, end = 0, len(word)
    while start < end and _OUTER.match(word[start]) and not _KEPT.match(word[start : start + 3]):
        start += 1
    while end > start and _OUTER.match(word[end - 1]):
        end -= 1
    return word[start:end]


COMPARISONS: dict[str, Callable[[str, str], Outcome]] = {
    "number": compare_number,
    "choice": compare_choice,
    "exact": compare_exact,
    "contains": compare_contained,
}
