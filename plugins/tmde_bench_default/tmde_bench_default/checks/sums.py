"""Find sums and comparisons that are false, such as 2 + 2 = 5 and 60 < 56."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise

from tmde_bench_default.checks.reading.denial import is_denied, is_denied_after
from tmde_bench_default.checks.reading.digits import read_digits
from tmde_bench_default.checks.reading.numbers import read_numbers

_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_SUM = re.compile(
    rf"(?<![\w.,:^/*+×·÷−-])((?:-?{_NUMBER}\s*[-+−–*×·/÷]\s*){{1,30}}{_NUMBER})\s*=\s*(-?{_NUMBER})(?![\w^%/:!√])(?!\s?[-+–*×·÷^]\s?[\d(a-z])"
)
"""At most thirty operators. Without a limit, the time for a long run of operators would grow with the square of its
length."""

_PLAIN = re.compile(rf"(?:-?{_NUMBER}\s*[-+−–*×·/÷]\s*){{1,30}}{_NUMBER}")
_PIECE = re.compile(rf"{_NUMBER}|[-+−–*×·/÷]")
_TIMES = re.compile(r"(?<=\d)\s*(?:[xX]|times|multiplied by)\s*(?=\d)")
_GOES_BEFORE = re.compile(r"[-+−–*×·/÷^(√%]\s*\Z")


def false_sum(text: str) -> str | None:
    """Return the first plain sum in the folded text that is false. Rounded results count as true.

    A sum is passed over if it is part of a longer one with letters or brackets, or if a number in it is unclear.
    """
    plain = _TIMES.sub("×", text)
    for match in _SUM.finditer(plain):
        if _GOES_BEFORE.search(plain[max(0, match.start() - 10) : match.start()]):
            continue
        written = match[2].removeprefix("-")
        result, value = read_digits(written), _worked_out(match[1])
        if value is None or result is None:
            continue
        if match[2].startswith("-"):
            result = -result
        decimals = len(written.partition(".")[2])
        rounded = "." in written or value.denominator != 1
        slack = Fraction(1, 2 * 10**decimals) if rounded else Fraction(0)
        if abs(value - result) > slack + abs(value) / 1_000_000:
            return match[0].strip()
    return None


_COMPARED = re.compile(
    r"(?i)\s*(?:(?P<equal>=)|(?P<less><|≤|<=)|(?P<more>>|≥|>=)|(?:is|are|was)\s(?:(?:much|clearly|also|obviously|therefore|thus|far|a bit|slightly)\s){0,2}"
    r"(?:(?P<fewer>smaller|less|fewer|lower)|(?P<greater>larger|greater|bigger|higher|more))\sthan(?: the number)?)\s*[$€£]?"
)
_BEGINNINGS = ("\n", ".", ":", ";", "(", ",")
MAX_COMPARED = 6_000
"""The comparisons of this many characters are read, from the end of the text."""


def false_comparison(text: str) -> str | None:
    """Return the first comparison of two numbers in the folded text that is false and not denied."""
    text = text[-MAX_COMPARED:]
    for one, other in pairwise(read_numbers(text)):
        found = _COMPARED.fullmatch(text, one.end, other.start)
        if found is None or one.value is None or other.value is None or one.operand or other.operand:
            continue
        if one.percent != other.percent or is_denied(text, one.start) or is_denied_after(text, other.end):
            continue
        if found["equal"]:
            if not text[: one.start].rstrip(" ").endswith(_BEGINNINGS) and text[: one.start].strip():
                continue
            if (
                one.worked
                or "." in text[one.start : other.end]
                or one.value == other.value
                or one.value.denominator != 1
            ):
                continue
            return text[one.start : other.end]
        less = (found["less"] or found["fewer"]) is not None
        holds = one.value <= other.value if found["less"] in {"≤", "<="} else one.value < other.value
        if not less:
            holds = one.value >= other.value if found["more"] in {"≥", ">="} else one.value > other.value
        if not holds:
            return text[one.start : other.end]
    return None


def worked_out(expression: str) -> Fraction | None:
    """Return the result of a plain sum, product or quotient of the folded text, or None if it is none."""
    plain = _TIMES.sub("×", expression)
    return _worked_out(plain) if _PLAIN.fullmatch(plain) else None


def _worked_out(expression: str) -> Fraction | None:
    total, product, sign, action = Fraction(0), None, 1, "*"
    for piece in _PIECE.findall(expression):
        if piece[0].isdigit():
            number = read_digits(piece)
            if number is None or (product is not None and action not in "*×·" and number == 0):
                return None
            product = number if product is None else product * number if action in "*×·" else product / number
        elif piece in "*×·/÷":
            action = piece
        elif product is None:  # a sign at the beginning
            sign = 1 if piece == "+" else -1
        else:
            total, product, sign = total + sign * product, None, 1 if piece == "+" else -1
    return None if product is None else total + sign * product
