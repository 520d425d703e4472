"""Read number words: forty-two, one hundred and five, two thirds, three point one four, half a dozen."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

_TO_TWENTY = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
SMALL = {word: value for value, word in enumerate(_TO_TWENTY.split())} | {"nought": 0}
TENS = {
    word: 10 * value
    for value, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
} | {"fourty": 40}
LARGE = {
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "quadrillion": 10**15,
    "lakh": 10**5,
    "crore": 10**7,
}
LARGE |= {word + "s": value for word, value in LARGE.items()}
HUNDRED = frozenset({"hundred", "hundreds"})
DOZEN = frozenset({"dozen", "dozens"})
_PARTS = {"half": 2, "quarter": 4} | {
    word: value
    for value, word in enumerate(["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"], 3)
}
_SMALL_PARTS = {
    word: value
    for value, word in enumerate(
        [
            "eleventh",
            "twelfth",
            "thirteenth",
            "fourteenth",
            "fifteenth",
            "sixteenth",
            "seventeenth",
            "eighteenth",
            "nineteenth",
            "twentieth",
        ],
        11,
    )
} | {"hundredth": 100, "thousandth": 1000}
MORE_PARTS = _SMALL_PARTS | {word + "s": value for word, value in _SMALL_PARTS.items()}
"""Parts that are read only behind number words, because the same words count places: the twelfth."""
PARTS = _PARTS | {word + "s": value for word, value in _PARTS.items()} | {"halves": 2}
ORDINALS = frozenset(
    [
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
        "sixth",
        "seventh",
        "eighth",
        "ninth",
        "tenth",
        "eleventh",
        "twelfth",
        "thirteenth",
        "fourteenth",
        "fifteenth",
        "sixteenth",
        "seventeenth",
        "eighteenth",
        "nineteenth",
        "twentieth",
        "thirtieth",
        "fortieth",
        "fiftieth",
        "sixtieth",
        "seventieth",
        "eightieth",
        "ninetieth",
        "hundredth",
        "hundredths",
        "thousandth",
        "thousandths",
        "millionth",
        "millionths",
    ]
)
STARTS = "|".join(sorted({*SMALL, *TENS, "half"}, key=len, reverse=True))
START = re.compile(
    rf"(?i)(?<![^\W_])(?:(?:{STARTS})(?![^\W_])|an?(?= (?:hundred|thousand|million|billion|trillion|dozen|half|quarter|lakh|crore)(?![^\W_]))"
    r"|an?(?= (?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)(?: of\b|\s*(?:[.,;!)]|\Z))))"
)
"""Where number words may begin."""

_TOKEN = re.compile(r"(?i)( and |-and-|[ -])?([a-z]+)(?![^\W_])")
MAX_WORDS = 30


class WordNumber(NamedTuple):
    """A number in words."""

    end: int
    value: Fraction | None
    """None: the words are no number together, such as `twenty thirty`."""
    ordinal: bool
    words: int


class _Word(NamedTuple):
    text: str
    joined: str
    end: int


def read_words(text: str, begin: int) -> WordNumber:
    """Read the number whose words begin at `begin`, where `START` matches."""
    return _Sum(_words_from(text, begin)).read()


def _words_from(text: str, begin: int) -> list[_Word]:
    found: list[_Word] = []
    at = begin
    while len(found) < MAX_WORDS and (match := _TOKEN.match(text, at)):
        word = match[2].lower()
        if not _is_known(word) or (found and not match[1]):
            break
        found.append(_Word(word, "and" if "and" in (match[1] or "").lower() else (match[1] or "").strip(), match.end()))
        at = match.end()
    while len(found) > 1 and found[-1].text in {"a", "an", "point"}:
        found.pop()
    return found


def _is_known(word: str) -> bool:
    return (
        word in {"a", "an", "point"}
        or word in SMALL
        or word in TENS
        or word in LARGE
        or word in HUNDRED
        or word in DOZEN
        or word in PARTS
        or word in ORDINALS
        or word in MORE_PARTS
    )


class _Sum:
    """Adds words up from left to right."""

    def __init__(self, words: list[_Word]) -> None:
        self._words = words
        self._at = 0
        self._total, self._last = 0, 10**18
        self._group: int | None = None
        self._hundred = False

    def read(self) -> WordNumber:
        words = self._words
        if words[0].text == "half":
            return self._half()
        if words[0].text in {"a", "an"}:
            self._group, self._at = 1, 1
            if words[1].text in PARTS:
                return self._done(1, Fraction(1, PARTS[words[1].text]))
        while self._at < len(words):
            word = words[self._at]
            if word.joined == "and" and not self._may_join(word):
                return self._with_part()
            action = self._action(word.text)
            if action is None:
                return self._end_at(word)
            if not action():
                return self._done(len(words) - 1, None)
            self._at += 1
        return self._done(self._at - 1, Fraction(self._value))

    @property
    def _value(self) -> int:
        return self._total + (self._group or 0)

    def _may_join(self, word: _Word) -> bool:
        """Return whether "and" continues the number, as in one hundred and five."""
        fits = word.text in SMALL or word.text in TENS
        after = self._words[self._at + 1].text if self._at + 1 < len(self._words) else ""
        is_part = after in PARTS and self._words[self._at + 1].joined != "and"
        whole = self._group is None or (self._hundred and self._group % 100 == 0)
        return fits and whole and not is_part and word.text != "zero"

    def _action(self, word: str) -> Callable[[], bool] | None:
        if word in SMALL:
            return lambda: self._add_small(SMALL[word])
        if word in TENS:
            return lambda: self._add_tens(TENS[word])
        if word in HUNDRED:
            return self._times_hundred
        if word in LARGE:
            return lambda: self._times_large(LARGE[word])
        return None

    def _add_small(self, value: int) -> bool:
        group = self._group
        if group is None or (self._hundred and group % 100 == 0 and value):
            self._group = (group or 0) + value
            return True
        if group % 10 == 0 and group % 100 >= 20 and 1 <= value <= 9:
            self._group = group + value
            return True
        return False

    def _add_tens(self, value: int) -> bool:
        if self._group is None or (self._hundred and self._group % 100 == 0):
            self._group = (self._group or 0) + value
            return True
        return False

    def _times_hundred(self) -> bool:
        if self._group is None or self._hundred or not 1 <= self._group <= 99:
            return False
        self._group *= 100
        self._hundred = True
        return True

    def _times_large(self, value: int) -> bool:
        if self._group is None or value >= self._last:
            return False
        self._total += self._group * value
        self._group, self._hundred, self._last = None, False, value
        return True

    def _end_at(self, word: _Word) -> WordNumber:
        """Return the number that ends with a word of another kind: a dozen, a part, a decimal point, an ordinal."""
        if word.text in DOZEN and self._group is not None and not self._total:
            return self._done(self._at, Fraction(12 * self._group))
        if word.text == "point":
            return self._decimals()
        if word.text in PARTS and self._group is not None and not self._total:
            one, plural = self._group == 1, word.text.endswith("s")
            if one != plural and not (self._group >= 20 and not plural):
                return self._done(self._at, Fraction(self._group, PARTS[word.text]))
        if (
            word.text in MORE_PARTS
            and not self._total
            and self._group is not None
            and 0 < self._group < 20  # twenty hundredths and more are rare, and may count places
            and (self._group == 1) != word.text.endswith("s")
        ):
            return self._done(self._at, Fraction(self._group, MORE_PARTS[word.text]))
        if word.text in ORDINALS and (word.text != "second" or word.joined == "-"):
            return self._done(self._at, None, ordinal=True)
        if word.text == "second":  # ten second(s): a unit
            return self._done(self._at - 1, Fraction(self._value))
        return self._done(self._at, None)

    def _decimals(self) -> WordNumber:
        digits, at = "", self._at + 1
        while at < len(self._words) and self._words[at].text in SMALL and self._words[at].joined != "and":
            value = SMALL[self._words[at].text]
            if value > 9:
                return self._done(at, None)
            digits, at = digits + str(value), at + 1
        if not digits or (at < len(self._words) and self._words[at].joined != "and"):
            scale = LARGE.get(self._words[at].text) if digits and at < len(self._words) else None
            if scale is None or at + 1 < len(self._words):
                return self._done(len(self._words) - 1, None)
            return self._done(at, (self._value + Fraction(int(digits), 10 ** len(digits))) * scale)
        return self._done(at - 1, self._value + Fraction(int(digits), 10 ** len(digits)))

    def _with_part(self) -> WordNumber:
        """Return the number before "and", with the part behind it if there is one, as in two and a half."""
        words, at = self._words, self._at
        above = 1 if words[at].text in {"a", "an"} else SMALL.get(words[at].text, 0)
        if above and at + 1 < len(words) and words[at + 1].text in PARTS and words[at + 1].joined != "and":
            return self._done(at + 1, self._value + Fraction(above, PARTS[words[at + 1].text]))
        if words[at].text in {"half", "quarter"}:
            return self._done(at, self._value + Fraction(1, PARTS[words[at].text]))
        return self._done(at - 1, Fraction(self._value))

    def _half(self) -> WordNumber:
        words = self._words
        if len(words) > 2 and words[1].text in {"a", "an"}:
            scale = 12 if words[2].text in DOZEN else 100 if words[2].text in HUNDRED else LARGE.get(words[2].text, 0)
            if scale and len(words) == 3:
                return self._done(2, Fraction(scale, 2))
            return self._done(len(words) - 1, None)
        if len(words) > 1 and words[1].joined != "and":
            return self._done(len(words) - 1, None)
        return self._done(0, Fraction(1, 2))

    def _done(self, last: int, value: Fraction | None, *, ordinal: bool = False) -> WordNumber:
        return WordNumber(self._words[last].end, value, ordinal, last + 1)
