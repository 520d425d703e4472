"""Find the final answer in a model's text: its number, its choice, its words."""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from decimal import Decimal, InvalidOperation

MAX_DIGITS = 60
"""Longer runs of digits are not treated as numbers."""

MAX_MARKS = 20
"""How many announcements of a final answer are read, from the end of the text."""

MAX_LINE = 1_000
"""The longest final answer, in characters."""

_TO_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
"""
_WORDS = {word: value for value, word in enumerate(_TO_TWENTY.split())}

_DIGITS = r"(?:\d{1,3}(?:[,\u00a0\u2009\u202f']\d{3})+(?![\d])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_NUMBER = re.compile(
    rf"(?<![\w/])(?<!\d\.)(?P<minus>[-−–])?[$€£]?(?P<value>{_DIGITS})(?:\s?/\s?(?P<below>\d+))?(?![\d])", re.ASCII
)
"""A minus counts only if no word or number precedes it: 3-5 is a range. `a/b` is a fraction. Commas, narrow spaces and
apostrophes separate thousands if three digits follow each."""

_WORD_NUMBER = re.compile(rf"(?i)(?<![-\w])(?P<minus>minus |negative )?(?P<word>{'|'.join(_WORDS)})\b(?!-)")

_MARK = re.compile(
    r"(?i)(?:####|\\boxed\s*\{|\*{0,2}\b(?:the |my |so the )?(?:final |correct |right )?answer\b\*{0,2}\s*(?:is\b|:|=)\*{0,2}\s*:?)"
)
"""Matches the announcement of a final answer: #### 42, \\boxed{42}, Final answer: 42, The answer is 42."""

_SETS = (
    frozenset({"yes", "no"}),
    frozenset({"true", "false"}),
    frozenset({"positive", "negative", "neutral"}),
    frozenset({"larger", "smaller", "equal"}),
    frozenset({"first", "second"}),
    frozenset({"even", "odd"}),
)
"""Sets of words. An answer chooses one word of a set."""


def final_part(answer: str) -> str | None:
    """Return the rest of the line after the last mark of a final answer, or None if there is no mark."""
    parts = final_parts(answer)
    return parts[-1][1] if parts else None


def final_parts(answer: str) -> list[tuple[int, str]]:
    """Return the position of each mark of a final answer, with the rest of its line. Marks without text are skipped."""
    parts = []
    for mark in deque(_MARK.finditer(answer), maxlen=MAX_MARKS):
        begin = mark.end()
        while begin < len(answer) and answer[begin] in " \n\t*":
            begin += 1
        line = answer[begin : begin + MAX_LINE].split("\n", 1)[0]
        if mark[0].endswith("{"):
            line = line.split("}", 1)[0]
        if line.strip():
            parts.append((mark.start(), line.strip()))
    return parts


def number_in(answer: str) -> Decimal | None:
    """Return the final number of an answer.

    In a marked final part, this is the first number (after an equals sign, if there is one). Otherwise, it is the last
    number of the answer. Number words up to twenty count only if there are no digits, because "the one" seldom means 1.
    """
    marked = final_part(answer)
    if marked is not None:
        tail = marked.rsplit("=", 1)[-1]
        for part in (tail, marked):
            if numbers := numbers_in(part):
                return numbers[0]
    numbers = numbers_in(answer)
    return numbers[-1] if numbers else None


def numbers_in(text: str) -> list[Decimal]:
    """Return all numbers of a text, in order."""
    return [value for _, value in number_matches(text)]


def number_matches(text: str) -> list[tuple[re.Match[str], Decimal]]:
    """Return all numbers of a text in order, with their positions.

    Number words up to twenty count only if there are no digits.
    """
    found = [(match, value) for match in _NUMBER.finditer(text) if (value := _value(match)) is not None]
    if found:
        return found
    return [
        (match, Decimal(_WORDS[match["word"].lower()]) * (-1 if match["minus"] else 1))
        for match in _WORD_NUMBER.finditer(text)
    ]


def parse_number(text: str) -> Decimal | None:
    """Return the number if the text is one number, optionally with a percent sign, and None otherwise."""
    stripped = text.strip().removesuffix("%").strip()
    match = _NUMBER.fullmatch(stripped)
    if match is not None:
        return _value(match)
    word = _WORD_NUMBER.fullmatch(stripped)
    return Decimal(_WORDS[word["word"].lower()]) * (-1 if word["minus"] else 1) if word else None


def tolerance(reference: str, wanted: Decimal) -> Decimal:
    """Return how far an answer may be off.

    This is half a unit of the reference's last decimal, or almost nothing for an integer.
    """
    if "/" in reference:
        return abs(wanted) * Decimal("0.005")
    if "e" in reference.lower():
        return abs(wanted) * Decimal("1e-6")
    decimals = re.search(r"\.(\d+)", reference)
    return Decimal(5).scaleb(-len(decimals[1]) - 1) if decimals else Decimal("1e-9")


def choice_in(answer: str, wanted: str) -> str | None:
    """Return the choice of an answer in lower case: a letter if `wanted` is one, else the first word of its set."""
    if len(wanted) == 1 and wanted.isalpha():
        return _letter_in(answer)
    words = next((words for words in _SETS if wanted in words), frozenset({wanted}))
    pattern = re.compile(rf"\b({'|'.join(re.escape(word) for word in sorted(words))})\b", re.IGNORECASE)
    for part in (final_part(answer), answer):
        if part and (found := pattern.search(part)):
            return found[1].casefold()
    return None


def _letter_in(answer: str) -> str | None:
    marked = final_part(answer)
    if marked and (found := re.match(r"\W*(?:option |choice )?\(?([A-Za-z])\b(?!')", marked)):
        return found[1].lower()
    stripped = answer.strip()
    if found := re.fullmatch(r"\W*([A-Za-z])\W*", stripped):
        return found[1].lower()
    # "B) because …", "(B)", "option B"; then a capital letter that is not a word itself.
    for pattern in (r"^\W*([A-Za-z])[).:]", r"\(([A-Za-z])\)", r"(?i:option|choice)\s+([A-Za-z])\b", r"\b([B-HJ-Z])\b"):
        if found := re.search(pattern, stripped):
            return found[1].lower()
    return None


def normalise_answer(text: str) -> str:
    """Return the text in lower case, with folded compatibility forms, single spaces and no outer punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = (word.strip("\"'`*_.,;:!?()[]{}<>«»“”‘’…") for word in folded.split())
    return " ".join(word for word in words if word)


def _value(match: re.Match[str]) -> Decimal | None:
    digits = re.sub(r"[,\u00a0\u2009\u202f']", "", match["value"])
    if len(digits) > MAX_DIGITS:
        return None
    try:
        value = Decimal(digits)
        if match["below"]:
            below = Decimal(match["below"][:MAX_DIGITS])
            if below == 0:
                return None
            value /= below
    except InvalidOperation:
        return None
    return -value if match["minus"] else value
