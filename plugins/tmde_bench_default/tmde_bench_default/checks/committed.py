"""Find the number that an answer commits to.

The check is strict, because a model learns to exploit gaps in a check. An answer commits to nothing if it names several
candidates, denies the right one, supports it with a false sum, or gives a number that cannot be read whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from tmde_bench_default.checks.reading.denial import (
    gives_up,
    is_denied,
    is_denied_after,
    last_correction,
    offers_several,
)
from tmde_bench_default.checks.reading.folding import BOX, BOX_END, fold_signs
from tmde_bench_default.checks.reading.marks import Mark, final_parts, says_nothing
from tmde_bench_default.checks.reading.numbers import Reading, parse_number, read_numbers
from tmde_bench_default.checks.reading.units import COMPOUND, MAGNITUDE
from tmde_bench_default.checks.sums import false_comparison, false_sum, worked_out

MAX_NUMBERS = 300
"""At most this many numbers of a text are looked at, from its end."""

MAX_READ = 6_000
"""The numbers of this many characters are read, from the end of the text. The final answer is there."""

_HEDGE = re.compile(
    r"(?is)\s*(?:[\w°%]+\s+){0,2}?(?:,\s*(?:(?:and|or)\b)?|;|\||[&/+]|(?<![a-z])(?:or|and|to|through|till|until|vs\.?|versus|bis|und|oder|ou|y|o|et)(?![a-z])|\b(?:или|и)\b|"
    r"[-–—~]|〜|=>|->|→|\bthen\b|或者?|和|与|到|至|または|か|と|또는)[\s(*\",]*(?:\b(?:maybe|perhaps|possibly|even|rather|else|probably|also|it is|it's|is|could be|might be|may be|"
    r"then|both|either|about|around|just|more likely|most likely|likelier)\b[\s(,]*){0,3}(?:\b([a-z])(?:_?\d)?\s*[=:]\s*)?[\s$€£(]*"
)
"""Matches the text between two numbers when neither is the answer: "42, 43", "42 or maybe 43", "between 40 and 45"."""

_SAME_LETTER = re.compile(r"(?i)\b([a-z])(?:_?\d)?\s*[=:]\s*[-+$€£(]*\Z")
_ASIDE = re.compile(r"(?<=[\w%°]) \((?!\s*(?:or|not|maybe)\b)")
_BRACKETED = re.compile(r"\s*\(\s*(?:=|or\b|maybe\b)?\s*")
_BARE_OR = re.compile(r"(?i)\s*(?:,\s*)?(?:(?<![a-z])(?:or|oder|ou)(?![a-z])|或者?|还是|還是|か|または|또는)\s*")
_RESTATES = re.compile(r"(?i)(?:\s[a-z]+)?\s?(?:=|,?\s(?:which is|that is|i\.e\.,?|namely))\s?")
_OTHERWISE = re.compile(
    r"(?i)(?:\s[a-z°]+){0,2}\s?,?\s(?:unless|or else|otherwise|if not)\b[^.!?\d\n]{0,40}\d|\s+or (?:maybe |perhaps |possibly )?(?:not|whatever|another|any other|some(?:thing)? (?:other|else))\b"
)
"""What stands before another candidate: 42 unless it is 43."""
_BOUND_BEFORE = re.compile(
    r"(?i)(?:\b(?:(?:more|less|fewer|greater|larger|higher|lower|smaller|bigger|older|younger|longer|shorter|closer|rather|other|further|later|earlier|better|worse|"
    r"faster|slower|heavier|lighter|taller|warmer|colder|hotter) than|at least|at most|(?<!add )(?<!adds )(?<!added )(?<!adding )(?<!sum )(?<!sums )(?<!summing )up to|over|under|above|below|beyond|exceed(?:s|ing)?|almost|nearly|close to|"
    r"fewer|well over|just over|just under|no more than|no less than|not more than|minimum of|maximum of|or more than|approaching|out of(?: the| all(?: the)?)?|from|starting (?:at|from)|mindestens|höchstens|über|unter|"
    r"plus de|moins de|más de|menos de)\s+(?:or equal to\s+)?(?:about |around |exactly |the )?|[<>≤≥≠≮≯]=?\s*|!=\s*|<>\s*)[($€£]*\Z"
)
_BOUND_AFTER = re.compile(
    r"(?i)(?:\s+[a-z]+)?\s+(?:or (?:more|less|fewer|higher|lower|above|below|greater|over|so many)|at (?:least|most)|and (?:up|more|above)|plus\b|upwards)"
)
_ONE_BEFORE = re.compile(
    r"(?i)\b(?:the|no|this|that|which|each|every|any|some|right|correct|only|another|first|last|other|wrong|same|as|at|a|my|our|new|next|is|than|for|these|those|"
    r"all|both|either|these)\s\Z"
)
_ONE_AFTER = re.compile(
    r"(?i)\s(?:of|another|more|can|must|should|who|that|could|has to|may|might|needs?|by one|would|is)\b|'s\b"
)
_REASON = re.compile(r"(?i)\b(?:because|since|given that|due to|denn|weil|parce que|porque|as (?=\d))|因为|∵")
_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z|[\"')*\].!?])|\n")
_IS_THE_ANSWER = re.compile(
    r"(?i)[\"')\]*]{0,3}(?:\s[a-z°%]+){0,2}?,?\s+(?:is|are|was|would be|must be)\s+(?:(?:thus|therefore|hence|indeed|surely|definitely)\s+)?(?:the|my|our)?\s*(?:(?:final|correct|right)\s+)*"
    r"(?:answer|result|solution)\b"
)
_OPERATOR_BETWEEN = re.compile(
    r"(?i:[+×·*÷/^=≈√±]|\s[-–]\s|\s(?:x|times|plus|minus|divided by|multiplied by|equals|makes)\s)"
)
_CLAUSE_BETWEEN = re.compile(r"[,;.!?\n](?!\d)")
_EQUALS_LAST = re.compile(
    r"(?i:[=≈]|\bequals\b|\bmakes\b|\bis\b)\s*(?:\b(?:about|approximately|roughly|around)\b\s*)?[-+~$€£(\s]*(?:[A-Z]{0,3}\$)?\Z"
)
_LIST_MARK = re.compile(r"(?m)^[ \t]*(\d{1,2})[.)]\s+\S")
_ALONE_BEFORE = re.compile(
    r"[\s*$(\"'=:≈~#>]*(?:[a-z]\s*=\s*)?[$(\s]*\Z|(?i:\s*(?:approximately|approx\.?|about|around|roughly|circa|ca\.?)\s*\Z)",
    re.IGNORECASE,
)
_ALONE_AFTER = re.compile(r"[\s*$)\"'!.。]*(?:[^\W\d_][\w/^°.]*\s*){0,2}[\s*$)\"'!.]*\Z")


def find_number(answer: str) -> tuple[Reading | None, str]:
    """Return the number that an answer commits to, or None and the reason."""
    text = fold_signs(answer)
    if offers_several(text):
        return None, "It offers several answers."
    if gives_up(text):
        return None, "It says that it cannot tell."
    if (false := false_sum(text) or false_comparison(text)) is not None:
        return None, f"It says {false}, which is false."
    marks = final_parts(text)
    if marks and not read_numbers(marks[-1].text):
        if says_nothing(marks[-1].text):
            return None, "It says that there is no answer."
        marks = []
    if not marks:
        return _Part(text).of_prose()
    told, reason = _of_marks(text, marks)
    if told is None:
        return None, reason
    end = marks[-1].begin + len(marks[-1].text)
    if MAGNITUDE.match(text, end):
        return None, "Its number goes on in the next line."
    return _unless_corrected(told, marks[-1].text[told.end :] + text[end:])


def agrees(found: Reading, wanted: Fraction, tolerance: Fraction = Fraction(0), *, percent: bool = False) -> bool:
    """Return whether the number is the wanted one.

    A percent sign is a unit where the question asks for percent: 50 % is 50. Where the wanted number is below 1 it is a
    share, and 50 % is 0.5.

    Args:
        found: the number that was found.
        wanted: the right number.
        tolerance: the largest difference that passes.
        percent: whether the right number is written with a percent sign.
    """
    value = found.value
    if value is None:
        return False
    if found.percent and not percent and abs(wanted) < 1:
        value /= 100
    if abs(value - wanted) <= tolerance:
        return True
    return found.value is not None and not tolerance and _same_float(value, wanted)


def _same_float(one: Fraction, other: Fraction) -> bool:
    """Return whether both are the same binary number, as 2/3 and 0.6666666666666666 are."""
    try:
        return float(one) == float(other)
    except OverflowError:
        return False


def exact(number: float) -> Fraction:
    """Return a float as it is written: 0.1 is one tenth."""
    return Fraction(Decimal(repr(number)))


def show(found: Reading) -> str:
    """Return a number for a person."""
    value = found.value or 0
    try:
        return f"{float(value):g}{'%' if found.percent else ''}"
    except OverflowError:
        return "very large"


def _of_marks(text: str, marks: Sequence[Mark]) -> tuple[Reading | None, str]:
    """Return the number of the last mark, unless the answer marks several different ones without a correction."""
    told, reason = _Part(marks[-1].text).of_mark()
    if told is None:
        return None, reason
    end = marks[-1].start
    for mark in marks[:-1]:
        # A line may hold several marks. The number of a mark is before the next mark.
        part = mark.text if mark.begin + len(mark.text) <= end else text[mark.begin : end]
        other, _ = _Part(part).of_mark()
        numbers = read_numbers(part) if other is None else [other]
        if any(one.value is not None and one.value != told.value for one in numbers[:1]) and not last_correction(
            text[mark.begin : end]
        ):
            return None, "It names more than one final answer."
    first = text.lstrip("\n ").split("\n", 1)[0]
    alone = _Part(first).alone() if text[:end].strip() else None
    if alone is not None and alone.value != told.value and not last_correction(text[:end]):
        return None, "It names more than one final answer."
    return told, ""


def _unless_corrected(told: Reading, rest: str) -> tuple[Reading | None, str]:
    """Return the number, unless the rest of the answer takes it back and names another one."""
    correction = last_correction(rest)
    if correction is None:
        return told, ""
    later = _Part(rest[correction:]).candidates()
    if later and later[-1].value != told.value:
        return None, "It takes its number back and names another one."
    return told, ""


class _Part:
    """A part of an answer and its numbers."""

    def __init__(self, text: str) -> None:
        self._whole = text
        self._text = text[-MAX_READ:].replace(BOX, " ").replace(BOX_END, " ")
        self._numbers = read_numbers(self._text)[-MAX_NUMBERS:]

    def candidates(self, *, ordinals: bool = False) -> list[Reading]:
        """Return the numbers that are said as numbers: not denied, not asked, and more than a bound."""
        items = _list_items(self._text)
        found = [
            one
            for one in self._numbers
            if (one.kind == "number" or (ordinals and one.kind == "ordinal"))
            and one.start not in items
            and not self._is_unsaid(one)
        ]
        strong = [one for one in found if not one.weak]
        return strong or found

    def _is_unsaid(self, one: Reading) -> bool:
        text = self._text
        before = text[max(0, one.start - 60) : one.start]
        if is_denied(text, one.start) or is_denied_after(text, one.end) or self._is_asked(one):
            return True
        if _BOUND_BEFORE.search(before) or _BOUND_AFTER.match(text[one.end : one.end + 40]):
            return True
        word = text[one.start : one.end].lower()
        return word == "one" and bool(_ONE_BEFORE.search(before) or _ONE_AFTER.match(text[one.end : one.end + 12]))

    def _is_asked(self, one: Reading) -> bool:
        end = _SENTENCE_END.search(self._text, one.end, one.end + 200)
        return end is not None and end[0] == "?"

    def alone(self) -> Reading | None:
        """Return the number if the part is nothing but one number, with a unit perhaps."""
        numbers = [one for one in self._numbers if one.kind == "number"]
        if len(numbers) != 1 or len(self._text) > 120 or (numbers[0].weak and len(self._text.split()) > 1):
            return None
        one = numbers[0]
        is_alone = _ALONE_BEFORE.match(self._text[: one.start]) and _ALONE_AFTER.match(self._text[one.end :])
        return one if is_alone and not self._is_unsaid(one) else None

    def of_mark(self) -> tuple[Reading | None, str]:
        """Return the number of a marked part: the first, or the result of the sum that begins with it."""
        numbers = self.candidates(ordinals=True)
        first_said = [one for one in self._numbers if one.weak and not self._is_unsaid(one)]
        if first_said and numbers and not numbers[0].weak and first_said[0].start < numbers[0].start:
            return self._settled([*first_said[:1], *numbers], 0)
        if not numbers:
            return None, "It has no number."
        chosen = 0
        while chosen + 1 < len(numbers) and self._is_linked(numbers[chosen], numbers[chosen + 1]):
            chosen += 1
        if chosen and not _EQUALS_LAST.search(self._text[: numbers[chosen].start]):
            return None, "Its number is part of a sum that is not worked out."
        return self._settled(numbers, chosen)

    def of_prose(self) -> tuple[Reading | None, str]:
        """Return the number of an unmarked answer: the one that stands alone on the first line, or the last."""
        lines = [line for line in self._whole.split("\n", 200)[:200] if line.strip()]
        if lines and (first := _Part(lines[0]).alone()) is not None:
            others = [alone for line in lines[1:50] if (alone := _Part(line).alone()) is not None]
            if any(one.value != first.value for one in others):
                return None, "It names several numbers and settles on none."
            if first.value is None or first.operand:
                return None, "Its number cannot be read for sure."
            return _unless_corrected(first, self._whole.split(lines[0], 1)[1])
        numbers = self.candidates()
        for index, one in enumerate(numbers):
            if _IS_THE_ANSWER.match(self._text[one.end : one.end + 80]):
                told, reason = self._settled(numbers, index)
                return (None, reason) if told is None else _unless_corrected(told, self._text[told.end :])
        numbers = self._without_asides(self._without_reasons(numbers))
        if not numbers:
            return None, "It has no number."
        told, reason = self._settled(numbers, self._before_its_sum(numbers))
        return (None, reason) if told is None else _unless_corrected(told, self._text[told.end :])

    def _before_its_sum(self, numbers: list[Reading]) -> int:
        """Return the last number, or the one that the sum behind it works out to: 36, which is 4 × 9."""
        last = len(numbers) - 1
        first = last
        while first > 0 and numbers[first].operand and self._is_linked(numbers[first - 1], numbers[first]):
            first -= 1
        # In 36 = 4 × 9 all three are linked.
        for begin in (first, first + 1):
            if 0 < begin < last and numbers[last].operand:
                between = self._text[numbers[begin - 1].end : numbers[begin].start]
                value = worked_out(self._text[numbers[begin].start : numbers[last].end])
                if _RESTATES.fullmatch(between) and value is not None and value == numbers[begin - 1].value:
                    return begin - 1
        return last

    def _without_reasons(self, numbers: list[Reading]) -> list[Reading]:
        """Return the numbers without those that only give the reason for one before, as in 42, because 6 times 7."""
        kept: list[Reading] = []
        for one in numbers:
            if kept:
                between = self._text[kept[-1].end : one.start]
                if _REASON.search(between) and not _SENTENCE_END.search(between):
                    reason_end = _SENTENCE_END.search(self._text, one.end)
                    end = reason_end.start() if reason_end else len(self._text)
                    if any(other.start > end for other in numbers):
                        continue
                    return kept
            kept.append(one)
        return kept

    def _without_asides(self, numbers: list[Reading]) -> list[Reading]:
        """Return the numbers without those of a sum in brackets behind a number, as in 18 (9 times 2)."""
        kept: list[Reading] = []
        for one in numbers:
            if kept and (aside := _ASIDE.search(self._text, kept[-1].end, one.end)):
                end = self._text.find(")", aside.end(), aside.end() + 80)
                inside = self._text[aside.end() : end] if end > 0 else ""
                if one.end <= end and _OPERATOR_BETWEEN.search(inside) and aside.start() - kept[-1].end < 40:
                    continue
            kept.append(one)
        return kept

    def _is_linked(self, one: Reading, other: Reading) -> bool:
        between = self._text[one.end : other.start]
        return len(between) < 80 and bool(_OPERATOR_BETWEEN.search(between)) and not _CLAUSE_BETWEEN.search(between)

    def _settled(self, numbers: Sequence[Reading], chosen: int) -> tuple[Reading | None, str]:
        one = numbers[chosen]
        if one.kind == "ordinal" or one.value is None:
            said = self._text[one.start : one.end][:40]
            return None, f"Its number {said!r} cannot be read for sure."
        if one.operand:
            return None, "Its number is part of a sum that is not worked out."
        before = numbers[chosen - 1] if chosen else None
        if before and one.worked and not before.worked and self._is_linked(before, one):
            return None, "It goes on from its number to a power and settles on neither."
        if self._is_hedged(numbers, chosen) or _OTHERWISE.match(self._text, one.end):
            return None, "It names several numbers and settles on none."
        return one, ""

    def _is_hedged(self, numbers: Sequence[Reading], chosen: int) -> bool:
        """Return whether the chosen number is one of several numbers side by side."""
        one = numbers[chosen]
        if any(
            other.weak and other.value != one.value and self._is_or(*sorted((one, other)))
            for other in self._numbers
            if not one.weak and other.kind == "number"
        ):
            return True
        near = [numbers[index] for index in (chosen - 1, chosen + 1) if 0 <= index < len(numbers)]
        return any(self._are_side_by_side(*sorted((one, other))) for other in near if _amount(one) != _amount(other))

    def _is_or(self, one: Reading, other: Reading) -> bool:
        """Return whether "or" joins the two, as in 42 or three."""
        return other.start - one.end < 12 and _BARE_OR.fullmatch(self._text, one.end, other.start) is not None

    def _are_side_by_side(self, one: Reading, other: Reading) -> bool:
        between = self._text[one.end : other.start]
        if len(between) > 60:
            return False
        if found := _HEDGE.fullmatch(between):
            letter = _SAME_LETTER.search(self._text[max(0, one.start - 12) : one.start])
            return not (found[1] and letter and letter[1] != found[1])
        if _BRACKETED.fullmatch(between) and self._text[other.end : other.end + 1] == ")":
            return True
        return self._are_compound(one, other)

    def _are_compound(self, one: Reading, other: Reading) -> bool:
        """Return whether both are parts of one quantity, as in 5 feet 3 inches or 3h 20min."""
        between = self._text[one.end : other.start].replace(",", " ").replace("and", " ").split()
        units = [_unit(self._text[one.start : one.end]) or (between.pop(0).lower() if between else "")]
        behind = self._text[other.end : other.end + 20].split()
        units.append(_unit(self._text[other.start : other.end]) or (behind[0].strip(".,;!").lower() if behind else ""))
        return not between and any(set(units) <= family for family in COMPOUND)


def _amount(one: Reading) -> Fraction | None:
    """Return the value, as a share if it is written in percent."""
    return one.value / 100 if one.percent and one.value is not None else one.value


def _unit(written: str) -> str:
    """Return the unit that stands at a number without a blank."""
    return written.lstrip("0123456789.,-+$€£ ").lower()


def _list_items(text: str) -> set[int]:
    """Return where the numbers of a numbered list stand."""
    found = [(int(match[1]), match.start(1)) for match in _LIST_MARK.finditer(text)]
    numbers = {number for number, _ in found}
    return {place for number, place in found if number + 1 in numbers or number - 1 in numbers}


__all__ = ["agrees", "exact", "find_number", "parse_number", "show"]
