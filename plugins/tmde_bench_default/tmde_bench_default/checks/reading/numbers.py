"""Find the numbers of a text. A number is read whole or not at all.

Each number, with its sign, its fraction, its power, its magnitude and its percent sign, is one `Reading`. If any part
of it cannot be read for sure, the reading has no value. So `7 million` is never 7, and `12:30` is never 12.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

from tmde_bench_default.checks.reading import han, units, words
from tmde_bench_default.checks.reading.digits import MAX_DIGITS, read_digits

MAX_EXPONENT = 300
"""Larger powers are not worked out."""

_RAW = re.compile(r"\d+(?:[.,'_]\d+)*|\.\d+")
_GROUPS = re.compile(r"(?: \d{3})+(?![\d.,]*\d)(?:[.,]\d+)?(?![\d:/])|(?: \d{3})+[.,]\d+(?!\d)")
_START = re.compile(
    rf"(?P<digits>\d|\.(?=\d))|(?P<han>{han.START})|(?P<one>[\u2160-\u2188\u2460-\u24ff\u2776-\u2793\u3251-\u32bf])|(?P<words>{words.START.pattern[4:]})",
    re.IGNORECASE,
)

_MONTH = r"(?-i:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
_DAY = re.compile(rf"\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? \d{{4}}\b)?|\d{{4}} {_MONTH} \d{{1,2}}\b")
_AFTER_MONTH = re.compile(rf"\b{_MONTH} (?:the )?\Z")
_YEAR_AFTER_DAY = re.compile(r"\d{1,2}(?:st|nd|rd|th)?,? \d{4}(?!\d)|\d{1,4}(?:st|nd|rd|th)?(?![\w]|[.,]\d)")
_PLACE = re.compile(
    r"(?i)\b(?:(?<!how many )(?:page|pages|p\.|pp\.|section|chapter|figure|fig\.|table|room|apartment|flat|suite|gate|platform|exercise|equation|eq\.|footnote|appendix|theorem|lemma|"
    r"verse|volume|vol\.|version|flight|highway|route|bus|level))\s\Z"
)
"""What makes a number the name of a place: page 42."""
_CLOCK = re.compile(r"(?i)\s?(?:[ap]\.?m\b\.?|o'clock (?:in the|at night))|\s(?:past|till)\b")
_AGAINST_LETTER = re.compile(r"\s?(?:[<>≤≥≠]=?|!=)\s?(?:[A-Za-z]\b|[\d.,]+\s?[<>≤≥])")
_ONE_IN = re.compile(r"(?i) (?:chance )?in (?:every )?(\d{1,3}(?:,\d{3})+|\d{1,6})(?![\d.,]*\d)(?! ?%)")
_ONE_IN_WORDS = re.compile(
    rf"(?i) (?:chance )?in (?:every )?(?=(?:{'|'.join(words.SMALL)}|{'|'.join(words.TENS)}|a (?:hundred|thousand|million))\b)"
)

_OUT_OF_WORDS = re.compile(rf"(?i) out of (?=(?:{'|'.join(words.SMALL)}|{'|'.join(words.TENS)})\b)")

_NO_NUMBER = re.compile(
    r"\d{4}-\d{1,2}-\d{1,2}(?:T[\d:.]+Z?)?|\d+(?::\d+)+(?:\.\d+)?|\d{1,4}/\d{1,2}/\d{1,4}|\d+(?:[.,]\d+)?\s?(?:\.{2,}|…)\s?\d+|"
    r"\d+年(?:\d+月)?(?:\d+[日号])?|0[xXbBoO][\da-fA-F]+"
)
"""Dates, times, ratios, ranges with dots, and numbers with another base."""

_SCIENTIFIC = re.compile(r"[eE]([+-]?\d{1,4})(?![\w^]|\.\d)")
_TEN = re.compile(r"\s?[×xX·*]\s?10\s?\^\s?")
_POWER = re.compile(r"\s?\^\s?")
_EXPONENT = re.compile(r"([+-]?\d{1,4})(?![\d^]|\.\d|\s?\^|/\d)|\(\s*([+-]?\d{1,4})\s*\)(?!\s?\^)")
_BELOW = re.compile(r"\s?/\s?(\d+(?:[.,'_]\d+)*)")
_MIXED = re.compile(r"(?: and | ?& ?| |-(?=\d/\d))(\d{1,4})/(\d{1,4})(?![\d/]|\.\d)")
_AND_PART = re.compile(r"(?i)(?: and (?:an? |one )?|-and-an?-)(half|third|quarter)(?![^\W_])| (half)(?![^\W_])")
_COUNTED_PART = re.compile(rf"(?i)[ -](?:of an? )?({'|'.join(words.PARTS)})(?![^\W_])")
_OF_A = re.compile(r"(?i) of an?(?= (?:hundred|thousand|million|billion|trillion|dozen)\b)")
_OUT_OF = re.compile(r"(?i) (?:out of|over|of)(?: the)? (\d+)(?![\d.,]*\d)(?! ?%)")
_ORDINAL = re.compile(r"(?i)\^?\(?(?:st|nd|rd|th|º|ª)\)?(?![^\W_])")
_UNREAD = re.compile(r"[^\W_]{1,40}")
_RIGHT_END = re.compile(
    r"(?i)(?:"
    + "|".join(rf"(?<=\.\d{{{places}}})" for places in range(1, 13))
    + r")\s?(?:\.{3}|…)"  # digits go on: 0.333…
    r"|\s[+×·÷/]\s*\Z|\s?(?:±|\+/-|\+-)|\s?√|\+(?!\s?[\d(a-z√])|-(?=\s|\Z)| [xyz]\b(?! ?[\d(=])|\.[xX]\b|/(?=\s|\Z)|\s?[·×](?=\s*\Z)|\s*\(?(?:with )?(?:a )?remainder\b|\s?R ?\d|\s?[‰‱]|\s?π|\\|(?:分之|分の|割)|"
    r"[ -](?:or|and) (?:more|less|fewer|higher|lower|greater|above|below|over|under|up|older|younger)\b|[ -](?:plus|ish)\b(?! ?[\d(])"
)
"""What makes a number before it another one, or a bound."""

_BELOW_ZERO = re.compile(r"(?i)(?: ?° ?[CF]?| degrees?(?: [a-z]+)?| [CF])? below (?:(zero|0)(?![\d.,]*\d)|freezing)\b")
_VAGUE = re.compile(
    rf"(?i)[ -]({'|'.join(sorted(units.VAGUE))})(?![^\W_])| too (?:many|few|much|little)\b| times table| times (?:as|more|less|bigger|larger|greater|smaller|faster|the|that|than)\b| (?:\(?in )?(?:hex(?:adecimal)?|binary|octal|base[ -]\w+)(?![^\W_])"
)
_TO_THE = re.compile(
    r"(?i) (?:raised )?to the (?:power|\w+ power|\d+(?:st|nd|rd|th)|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b"
)

_CURRENCY_BEFORE = re.compile(rf"(?:(?<![^\W_])|(?<=\d)){units.CURRENCY}\s?\Z")
_CURRENCY_AFTER = re.compile(rf"\s?{units.CURRENCY}")
_SIGN_WORD = re.compile(
    r"(?i)(?:(?<![^\W_])(minus|negative|neg\.|moins|menos|meno|минус|plus)[\s-]{1,3}|(マイナス|负|負|零下))\Z"
)
_FUNCTION = re.compile(
    r"(?i)(?:\b[a-zA-Z]\(|\b(?:(?:half|quarter) (?:past|to|after)|sqrt|log(?:_\d+)?|ln|exp|sin|cos|tan|abs|factorial|twice|double|triple|half|thrice|cube root of|square root of|square of|cube of|opposite of|"
    r"negative of|inverse of|reciprocal of|root of|multiple of|multiples of|factor of|power of|mod|(?:half|thirds?|quarters?|[a-z]{3,10}ths?|percent|cent) of(?: the)?)\s?\(?\s?|√\(?\s?)\Z"
)
_OPERATOR_BEFORE = re.compile(
    r"[+×·*÷/^√−]\s*[(\[]*\s?\Z|(?i:\b(?:plus|times|mod|(?:divided?|multipl(?:y|ied)|raised?|increased?|\d(?:\s?[a-z]{1,2})?)\sby)\s\Z)|[%)\d]\s?[-–xX]\s?\Z|\w-\Z|\b[a-z]\s[-–]\s\Z"
)
_OPERATOR_AFTER = re.compile(
    r"\s{0,3}[)\]]*\s?(?:[+×·÷^√](?=\s?[\w(\\√-])|[*](?=\s?[\w(\\])|/(?=\s?(?:[\d(]|[a-z]\b))|[-–](?=\s?[\d(])|-\s?[a-z]\b(?!')"
    r"|(?i: (?:times|plus|minus|multiplied by|divided by|x|mod) (?=\d|an?\b|\(|-|[a-z]\b|" + words.STARTS + r")))"
    r"|(?i: (?:plus|minus|multiplied by|divided by) (?=[a-z]))"
    r"|!{1,2}\s?(?:[,=+×·÷/]|(?i:is|equals|ways|possib\w+|permut\w+|arrange\w+)\b)"  # a factorial
)

Kind = Literal["number", "ordinal", "label"]


class Reading(NamedTuple):
    """One number of a text."""

    start: int
    end: int
    value: Fraction | None
    """None: it cannot be read for sure."""
    kind: Kind = "number"
    """`ordinal`: 3rd; `label`: digits of a name, such as H2O."""
    percent: bool = False
    operand: bool = False
    """Whether it is part of a sum that is not worked out, such as the 5 of 5 + 3."""
    worked: bool = False
    """Whether it is written as a power."""
    weak: bool = False
    """Whether it is one small number word, which prose uses without counting."""


def read_numbers(text: str) -> list[Reading]:
    """Return the numbers of a text in order. Fold the text with `fold_signs` first."""
    found: list[Reading] = []
    at = 0
    while match := _START.search(text, at):
        if match["han"] or match["one"] or (match["digits"] and _is_mixed(text, match.start())):
            numeral = (han.read_one if match["one"] else han.read_han)(text, match.start())
            at = match.end() if numeral is None else max(numeral.end, match.end())
            if numeral is not None and numeral.is_number:
                found.append(_Reader(text, match.start(), digits=True).read_numeral(numeral))
                at = max(at, found[-1].end)
            continue
        reading = _Reader(text, match.start(), match["digits"] is not None).read()
        found.append(reading)
        at = max(reading.end, match.end())
    return list(_without_neighbours(text, found))


_MIXED_NUMERAL = re.compile(rf"\d+{han.START}[\d〇一二三四五六七八九]")


def _is_mixed(text: str, begin: int) -> bool:
    """Return whether digits and Han characters make one number: 1万2千."""
    return _MIXED_NUMERAL.match(text, begin) is not None


def _without_neighbours(text: str, found: list[Reading]) -> Iterator[Reading]:
    """Yield the readings; two numbers with only blanks between them are no number that is sure."""
    for index, reading in enumerate(found):
        near = [
            other
            for other in (found[index - 1] if index else None, found[index + 1] if index + 1 < len(found) else None)
            if other is not None and other.kind == "number" and _touch(text, *sorted((reading, other)))
        ]
        yield reading._replace(value=None) if near and reading.kind == "number" else reading


def _touch(text: str, one: Reading, other: Reading) -> bool:
    between = text[one.end : other.start]
    return len(between) < 4 and "\n" not in between and not between.strip()


def parse_number(text: str) -> Reading | None:
    """Return the number if the folded text is one number and nothing else."""
    stripped = text.strip()
    found = read_numbers(stripped)
    if len(found) != 1 or found[0].kind != "number" or found[0].value is None or found[0].operand:
        return None
    rest = stripped[: found[0].start] + stripped[found[0].end :]
    return found[0] if re.fullmatch(rf"\s*\(?{units.CURRENCY}?\s*\)?\s*", rest) else None


class _Reader:
    """Reads the number that begins at one place."""

    def __init__(self, text: str, begin: int, digits: bool) -> None:
        self._text, self._begin, self._digits = text, begin, digits
        self._start = self._at = begin
        self._value: Fraction | None = None
        self._sure = True
        self._kind: Kind = "number"
        self._percent = self._worked = self._weak = self._operand = False
        self._negative = False

    def read(self) -> Reading:
        self._look_back()
        if self._digits:
            self._read_digits()
        else:
            self._read_words()
        if self._kind == "number":
            self._look_ahead()
        if self._kind == "number" and not self._percent and _PLACE.search(self._before(self._start)):
            self._kind = "label"
        value = self._value if self._sure else None
        if value is not None and self._negative:
            value = -value
        if value is not None and (abs(value.numerator) >= 10**400 or value.denominator >= 10**400):
            value = None
        return Reading(self._start, self._at, value, self._kind, self._percent, self._operand, self._worked, self._weak)

    def read_numeral(self, numeral: han.HanNumber) -> Reading:
        """Read the sign and the unit of a numeral that `han` has read."""
        self._look_back()
        if self._kind == "label":
            self._kind = "number"
        self._value, self._at, self._percent = numeral.value, numeral.end, numeral.percent
        if _VAGUE.match(self._text, self._at) or _RIGHT_END.match(self._text, self._at):
            self._sure = False
        if _OPERATOR_AFTER.match(self._text, self._at):
            self._operand = True
        value = self._value if self._sure else None
        if value is not None and self._negative:
            value = -value
        return Reading(
            self._start, self._at, value, self._kind, self._percent, self._operand, self._worked, numeral.weak
        )

    # ------------------------------------------------------------------------------------------------ before it

    def _before(self, end: int) -> str:
        return self._text[max(0, end - 32) : end]

    def _look_back(self) -> None:
        start = self._begin
        if money := _CURRENCY_BEFORE.search(self._before(start)):
            start -= len(money[0])
        self._money = bool(money)
        start = self._sign(start)
        self._start = start
        before = self._before(start)
        last = before[-1:]
        if self._digits and (last.isalnum() or last in {"_", "^", "\\"}) and not _is_unspaced(last):
            self._kind = "label"
        elif last == "第":
            self._kind = "ordinal"
        if last == "±" or before.endswith(("± ", "+/-", "+-")):
            self._sure = False
        if _OPERATOR_BEFORE.search(before) or _FUNCTION.search(before):
            self._operand = True

    def _sign(self, start: int) -> int:
        before = self._before(start)
        if word := _SIGN_WORD.search(before):
            place = start - len(word[0])
            if re.search(r"[\d)%]\s?\Z", before[: -len(word[0])]):
                self._operand = True
                return start
            self._negative = (word[1] or "").lower() != "plus"
            if re.search(r"(?i)(?:[-+−]|\b(?:minus|negative))\s?\Z", before[: -len(word[0])]):
                self._sure = False
            return place
        dash = re.search(r"([-+])(\s?)\Z", before)
        if dash is None:
            loose = re.search(r"–\s\Z", before)
            if loose and not before[: loose.start()].strip():
                self._sure = False
            return start
        place = start - len(dash[0])
        outside = self._before(place)
        last = outside.rstrip()[-1:]
        if outside[-1:].isalnum() and not _is_unspaced(outside[-1:]):  # 3-5, COVID-19, x-5
            if outside[-1:].isdigit():
                self._operand = True
            elif not re.search(r"(?:(?<![^\W_])[a-zA-Z])\Z", outside):
                self._kind = "label"
            else:
                self._operand = True
            return start
        if last.isdigit() or last in {")", "%"}:
            self._operand = True
            return start
        if last in {"-", "+"}:
            self._sure = False
        if dash[2] and last not in {"=", "(", "≈"}:
            self._sure = self._sure and self._is_bullet(place)
            return start
        self._negative = dash[1] == "-"
        return place

    def _is_bullet(self, place: int) -> bool:
        """Return whether the dash begins a line of a list of several lines."""
        line = self._text.rfind("\n", max(0, place - 8), place) + 1
        if (line == 0 and place > 8) or self._text[line:place].strip():
            return False
        mark = self._text[line : place + 2]
        return self._text.startswith(mark) + self._text.count("\n" + mark) > 1

    # ------------------------------------------------------------------------------------------------- the number

    def _read_words(self) -> None:
        found = words.read_words(self._text, self._begin)
        self._value, self._at = found.value, found.end
        if found.ordinal:
            self._kind = "ordinal"
        first = self._text[self._begin : found.end].lower()
        if found.value == 1 and (one_in := _ONE_IN.match(self._text, self._at)):
            self._at, self._value = one_in.end(), Fraction(1, max(1, int(one_in[1].replace(",", ""))))
        elif found.value == 1 and (spelt := _ONE_IN_WORDS.match(self._text, self._at)):
            all_ = words.read_words(self._text, spelt.end())
            self._at = all_.end
            self._value = 1 / all_.value if all_.value and not all_.ordinal else None
        elif out_of := _OUT_OF_WORDS.match(self._text, self._at):
            all_ = words.read_words(self._text, out_of.end())
            self._at = all_.end
            known = all_.value and not all_.ordinal and self._value is not None
            self._value = self._value / all_.value if known else None  # type: ignore[operator]
        self._weak = (
            found.words == 1
            and self._value == found.value
            and not self._negative
            and (words.SMALL.get(first, 99) <= 12 or first == "half")
        )
        if self._text[found.end : found.end + 2].strip()[:1] in {"$", "€", "£"}:
            self._weak = False

    def _read_digits(self) -> None:
        text = self._text
        if (other := _NO_NUMBER.match(text, self._begin)) and self._kind == "number":
            self._at, self._sure = other.end(), False
            return
        if self._kind == "number" and (day := self._day()):
            self._at, self._kind = day.end(), "label"
            return
        raw = _RAW.match(text, self._begin)
        assert raw is not None
        written, self._at = raw[0], raw.end()
        if len(written) <= 3 and written.isdigit() and (groups := _GROUPS.match(text, self._at)):
            written, self._at = written + groups[0], groups.end()
        money = self._money or bool(_TEN.match(text, self._at) or _CURRENCY_AFTER.match(text, self._at))
        self._value = read_digits(written, money=money)
        self._sure = self._sure and self._value is not None
        if self._kind == "label":
            self._unread()
            return
        if ordinal := _ORDINAL.match(text, self._at):
            self._at, self._kind = ordinal.end(), "ordinal"
            return
        self._exponents()
        self._fraction()

    def _day(self) -> re.Match[str] | None:
        """Return the day of a date with the name of its month, or the two digits of a year: 4 May, May 4, '56."""
        if _AFTER_MONTH.search(self._before(self._start)):
            return _YEAR_AFTER_DAY.match(self._text, self._begin)
        if re.search(r"(?:\A|[\s(])'\Z", self._before(self._start)):
            return re.compile(r"\d\d(?![\d.,'])").match(self._text, self._begin)
        return _DAY.match(self._text, self._begin)

    def _exponents(self) -> None:
        text = self._text
        if found := _SCIENTIFIC.match(text, self._at):
            self._scale(Fraction(10), int(found[1]), found.end())
            return
        ten = _TEN.match(text, self._at)
        if ten is None and (power := _POWER.match(text, self._at)):
            base, self._value, self._worked = self._value, Fraction(1), True
            self._raise(base, power.end())
            ten = _TEN.match(text, self._at)
        if ten is not None:
            self._raise(Fraction(10), ten.end())

    def _raise(self, base: Fraction | None, at: int) -> None:
        exponent = _EXPONENT.match(self._text, at)
        if exponent is None:
            rest = re.compile(r"[^\s=]{0,60}").match(self._text, at)
            self._at, self._sure = rest.end() if rest else at, False
            return
        self._scale(base, int(exponent[1] or exponent[2]), exponent.end())

    def _scale(self, base: Fraction | None, exponent: int, end: int) -> None:
        self._at = end
        if base is None or self._value is None or (base == 0 and exponent < 0):
            self._sure = False
            return
        size = max(len(str(base.numerator)), len(str(base.denominator)))
        if abs(exponent) > MAX_EXPONENT or (base != 10 and size * abs(exponent) > MAX_EXPONENT):
            self._sure = False
            return
        self._value *= base**exponent

    def _fraction(self) -> None:
        text, value = self._text, self._value
        if below := _BELOW.match(text, self._at):
            self._at = below.end()
            whole = read_digits(below[1])
            if value is None or not whole:
                self._sure = False
            else:
                self._value = value / whole
            if re.match(r"\s?/\s?\d", text[self._at : self._at + 3]) or _POWER.match(text, self._at):
                self._sure = False
                self._unread(r"[/\d^(). ]{0,40}")
            return
        if mixed := _MIXED.match(text, self._at):
            above, divisor = int(mixed[1]), int(mixed[2])
            if value is not None and value.denominator == 1 and 0 < above < divisor:
                self._value, self._at = value + Fraction(above, divisor), mixed.end()
                return
        if part := _AND_PART.match(text, self._at):
            self._at = part.end()
            name = (part[1] or part[2]).lower()
            self._value = None if value is None else value + Fraction(1, words.PARTS[name])
        elif (part := _COUNTED_PART.match(text, self._at)) and value is not None and value.denominator == 1:
            self._at = part.end()
            self._value = value / words.PARTS[part[1].lower()]
        elif (
            value == 1
            and (one_in := _ONE_IN.match(text, self._at))
            and not re.fullmatch(r"1[5-9]\d\d|20\d\d", one_in[1])
        ):
            self._at = one_in.end()
            all_ = int(one_in[1].replace(",", ""))
            self._value = Fraction(1, all_) if all_ > 1 else None
        elif (share := _OUT_OF.match(text, self._at)) and len(share[1]) <= MAX_DIGITS:
            self._at = share.end()
            all_ = int(share[1])
            self._value = value / all_ if value is not None and all_ else None

    # -------------------------------------------------------------------------------------------------- behind it

    def _look_ahead(self) -> None:
        self._magnitudes()
        text = self._text
        if (percent := units.PERCENT.match(text, self._at)) is not None:
            self._percent, self._at = True, percent.end()
            if of := re.compile(r" of (?:the )?(?=\d)").match(text, self._at):
                self._at, self._sure = of.end(), False
                self._unread(r"[\d.,']{0,40}")
                return
        self._attached()
        if text.startswith("'", self._at) and self._text[max(0, self._start - 1) : self._start] != "'":
            self._sure = self._sure and text.startswith("'s", self._at)
        if _CLOCK.match(text, self._at) or _AGAINST_LETTER.match(text, self._at):
            self._sure = False
        if _VAGUE.match(text, self._at) or _TO_THE.match(text, self._at) or _RIGHT_END.match(text, self._at):
            self._sure = False
        if below := _BELOW_ZERO.match(text, self._at):
            self._at = below.end()
            self._negative, self._sure = not self._negative, self._sure and bool(below[1])
        if _OPERATOR_AFTER.match(text, self._at):
            self._operand = True

    def _magnitudes(self) -> None:
        text = self._text
        if self._digits and (letter := units.LETTER.match(text, self._at)) and not self._percent:
            name = letter[1]
            if name in {"m", "b"}:
                if not self._money:
                    return
                name = name.upper()
            self._at = letter.end()
            scale = units.LETTERS.get(name)
            self._times(scale)
            return
        for _ in range(3):
            if self._value is not None and self._value.denominator != 1 and (part := _OF_A.match(text, self._at)):
                self._at = part.end()
            found = units.MAGNITUDE.match(text, self._at) or units.HAN_MAGNITUDE.match(text, self._at)
            if found is None:
                return
            end = found.end(1)
            if self._value is None or (not self._digits and self._value.denominator == 1):
                self._sure = self._sure and found[1].lower() not in units.MAGNITUDES
            self._at = end
            self._times(units.MAGNITUDES.get(found[1].lower()) or units.HAN.get(found[1]))

    def _times(self, scale: int | None) -> None:
        if scale is None or self._value is None:
            self._sure = False
        else:
            self._value *= scale

    def _attached(self) -> None:
        """Read what stands at the number without a blank: a unit, or what makes it unreadable."""
        text, at = self._text, self._at
        character = text[at : at + 1]
        if character and unicodedata.combining(character):  # a line above a digit that repeats for ever
            self._sure = False
        if not self._digits or not (
            character.isalpha() or character in {"°", "º", "_", "℃"} or _is_number_sign(character)
        ):
            return
        if re.match(r"\d{4}s(?![^\W_])", text[max(0, at - 4) : at + 2]):  # 1960s
            self._sure = False
        elif unit := units.ATTACHED.match(text, at):
            self._at = unit.end()
        elif _is_unspaced(character):
            if text[at : at + 1] in {"点", "點", "分"} and text[at + 1 : at + 2].isdigit():
                self._sure = False
        elif re.match(r"[dD](?![^\W_])", text[at : at + 2]) and not self._percent:
            self._at, self._kind = at + 1, "label"
        else:
            self._sure = False
            self._unread()

    def _unread(self, pattern: str = r"[\w.^]{0,40}(?<![.^])") -> None:
        """Step over what belongs to this number and cannot be read."""
        if rest := re.compile(pattern).match(self._text, self._at):
            self._at = rest.end()


def _is_number_sign(character: str) -> bool:
    return bool(character) and not character.isdigit() and character.isnumeric()


_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)


def _is_unspaced(character: str) -> bool:
    """Return whether the character belongs to a script that puts no blanks between words, or joins words to numbers."""
    return bool(_UNSPACED.match(character))


is_unspaced = _is_unspaced
