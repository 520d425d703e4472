"""Find what an answer commits to: one number, or one of some options.

These checks are strict, because a model learns to exploit gaps in a check. An answer commits to nothing if it names
several candidates, denies the right one, or supports it with a false sum.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, DivisionByZero, InvalidOperation
from itertools import pairwise

from tmde_bench_default.checks.answers import final_part, final_parts, number_matches

_NEGATION = re.compile(
    r"(?i)(?:\b(?:not|never|no|nor|neither|cannot|without|wrong|incorrect|unlike|rather than|instead of)\b|n['’]t\b)"
)
_NO_DENIAL = re.compile(r"(?i)\b(?:no doubt|not only|not just|not merely|without (?:a )?doubt)\b")
NEAR_WORDS = 4
"""A negation at most this many words before a statement, in the same clause, denies the statement."""

_CLAUSE = re.compile(r"[.!?;:\n]|,|\b(?:but|so|it is|it['’]s)\b", re.IGNORECASE)
_HEDGE = re.compile(
    r"(?is)\s*(?:\w+\s+)?(?:,\s*(?:and\b|or\b)?|/|\bor\b(?:\s+(?:maybe|perhaps|possibly|even))?|\band\b|\bto\b|[-–—])\s*[$€£]?\s*"
)
"""Matches the text between two numbers when neither is the answer: "42, 43", "42 or maybe 43", "between 40 and 45"."""

_SUM = re.compile(
    r"(?<![\w.^/*+×·÷−-])((?:-?\d[\d,]*(?:\.\d+)?\s*[-+−–*×·/÷]\s*){1,30}\d[\d,]*(?:\.\d+)?)\s*=\s*(-?\d[\d,]*(?:\.\d+)?)(?![\w^%/])"
)
"""At most thirty operators. Without a limit, the time for a long run of operators would grow with the square of its
length."""

_TIMES = re.compile(r"\\times|\\cdot|(?<=\d)\s*(?:[xX]|times|multiplied by)\s*(?=\d)")
_CORRECTED = re.compile(r"(?i)\b(?:wait|actually|correction|sorry|mistake|no,|rather|instead|check)\b")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_MIXED = re.compile(r"(?<![\d.,/])(\d{1,6}) (\d{1,3})/(\d{1,3})(?![\d/])")
_ALONE = re.compile(
    r"\s*[*_$`(]*([-−]?[$€£]?[\d.,]+(?:/\d+)?|[a-z]+(?:-[a-z]+)?)\s*%?[*_$`).]*\s*(?:\n|\Z)", re.IGNORECASE
)


def find_number(answer: str) -> tuple[Decimal | None, str]:
    """Return the number that an answer commits to, or None and the reason."""
    text = _MIXED.sub(_as_decimal, _FRACTION.sub(r"\1/\2", answer))
    if (false := false_sum(text)) is not None:
        return None, f"It says {false}, which is false."
    parts, several = _marked_parts(text)
    if several:
        return None, "It names more than one final answer."
    first = _ALONE.match(text)
    if not parts and first:
        alone = number_matches(first[1])
        if len(alone) == 1:
            return alone[0][1], ""
    for part in parts or [text]:
        numbers = [(match, value) for match, value in number_matches(part) if not is_denied(part, match.start())]
        if not numbers:
            continue
        chosen = len(numbers) - 1
        if parts:
            equals = part.rfind("=")
            chosen = next((index for index, (match, _) in enumerate(numbers) if match.start() > equals), 0)
        if _hedged(part, numbers, chosen):
            return None, "It names several numbers and settles on none."
        return numbers[chosen][1], ""
    return None, "It has no number."


def _as_decimal(match: re.Match[str]) -> str:
    whole, above, below = (Decimal(part) for part in match.groups())
    return match[0] if below == 0 or above >= below else f"{whole + above / below:f}"


def _marked_parts(text: str) -> tuple[list[str], bool]:
    """Return the marked final part, and whether the answer marks several different ones without a correction."""
    parts = final_parts(text)
    if not parts:
        return [], False
    end, last = parts[-1]
    for begin, part in parts[:-1]:
        # A line may hold several marks. The number of a mark is before the next mark.
        value = _first_value(part if begin + len(part) < end else text[begin:end])
        if value not in {None, _first_value(last)} and not _CORRECTED.search(text[begin:end]):
            return [last], True
    return [last], False


def _first_value(part: str) -> Decimal | None:
    tail = part.rsplit("=", 1)[-1]
    found = number_matches(tail) or number_matches(part)
    return found[0][1] if found else None


def _hedged(text: str, numbers: Sequence[tuple[re.Match[str], Decimal]], chosen: int) -> bool:
    """Return whether the chosen number is one of several numbers side by side."""
    for (one, first), (other, second) in pairwise(numbers):
        touches = numbers[chosen][0] in {one, other}
        if touches and first != second and _HEDGE.fullmatch(text[one.end() : other.start()]):
            return True
    return False


def false_sum(text: str) -> str | None:
    """Return the first plain sum in the text that is false, such as 2 + 2 = 5. Rounded results count as true."""
    plain = _TIMES.sub("×", text.replace("**", "")).replace("\\div", "÷")
    for match in _SUM.finditer(plain):
        result = match[2].replace(",", "")
        value = _worked_out(match[1])
        if value is None:
            continue
        decimals = len(result.partition(".")[2])
        slack = Decimal(5).scaleb(-decimals - 1) if "." in result or value % 1 else Decimal(0)
        if abs(value - Decimal(result)) > slack + abs(value) * Decimal("0.000001"):
            return match[0].strip()
    return None


def _worked_out(expression: str) -> Decimal | None:
    pieces = re.findall(r"\d[\d,]*(?:\.\d+)?|[-+−–*×·/÷]", expression)
    total, product, sign, action = Decimal(0), None, 1, "*"
    for piece in pieces:
        if piece[0].isdigit():
            number = Decimal(piece.replace(",", ""))
            try:
                product = number if product is None else product * number if action in "*×·" else product / number
            except (InvalidOperation, DivisionByZero):
                return None
        elif piece in "*×·/÷":
            action = piece
        elif product is None:  # a sign at the beginning
            sign = 1 if piece == "+" else -1
        else:
            total, product, sign = total + sign * product, None, 1 if piece == "+" else -1
    return None if product is None else total + sign * product


def is_denied(text: str, position: int) -> bool:
    """Return whether the statement at `position` is denied just before, in the same clause."""
    before = _NO_DENIAL.sub("", text[max(0, position - 120) : position])
    clause = _CLAUSE.split(before)[-1]
    near = " ".join(clause.split()[-NEAR_WORDS:])
    return _NEGATION.search(near) is not None


def find_stated(text: str, wording: str) -> list[int]:
    """Return where the wording occurs in the text as separate words and is not denied.

    Normalise both arguments with `plain` first.
    """
    pattern = re.compile(rf"(?<!\w){re.escape(wording)}(?!\w)")
    return [match.start() for match in pattern.finditer(text) if not is_denied(text, match.start())]


def find_option(answer: str, options: Sequence[str]) -> tuple[str | None, str]:
    """Return the option that an answer commits to, or None and the reason."""
    marked = final_part(answer)
    for part, is_mark in ((marked, True), (answer, False)):
        if not part:
            continue
        found = _leading(part, options) or None
        if found is None:
            named = {option for option in options if _mentions(part, option, is_mark)}
            # "carbon dioxide" does not also count as "carbon".
            named -= {
                one
                for one in named
                for other in named
                if one != other and f" {one} ".casefold() in f" {other} ".casefold()
            }
            if len(named) > 1:
                return None, f"It names several of the options: {', '.join(sorted(named))}."
            found = next(iter(named), None)
        if found is not None:
            return found, ""
    return None, "It settles on none of the options."


def _leading(part: str, options: Sequence[str]) -> str | None:
    """Return the option that the text begins with, if the text then ends or gives a reason.

    "Yes, because …" and "B) …" count; "B, C" does not.
    """
    text = part.lstrip(" \t\n*_\"'`(“‘")
    names = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    begin = re.match(rf"(?i)({names})(?!\w)[*_\"'`)”’]*\s*(?=\Z|[.,;:!)\n—–]|- |because\b|since\b|as\b)", text)
    if begin is None:
        return None
    found = next(option for option in options if option.casefold() == begin[1].casefold())
    rest = text[begin.end() :]
    if re.match(rf"(?i)[\W]*(?:and|or)?[\W]*(?:{names})(?!\w)", rest) and not rest.startswith("."):
        return None
    if len(found) == 1 and not re.match(r"\W*(?:because|since|as)\b", rest):
        first = re.split(r"[.!?\n]", rest.lstrip(".):*_\"'`”’ "), maxsplit=1)[0]
        if any(_mentions(first, other, True) for other in options if other != found):
            return None
    return found


def _mentions(part: str, option: str, is_mark: bool) -> bool:
    if len(option) == 1 and option.isalpha():
        letter = re.escape(option)
        patterns = [rf"\({letter}\)", rf"(?m)^\W*{letter}[).:]", rf"(?i:option|choice|answer)\s+\W?{letter}\b"]
        if is_mark or option.upper() not in {"A", "I"}:
            patterns.append(rf"(?<![\w'’]){letter.upper()}(?![\w'’])")
        found = [match.start() for pattern in patterns for match in re.finditer(pattern, part)]
        return any(not is_denied(part, position) for position in found)
    return bool(find_stated(plain(part), plain(option)))


def plain(text: str) -> str:
    """Return the text in lower case with single spaces, straight apostrophes and hyphens, and no emphasis marks.

    Sentence marks stay.
    """
    folded = text.casefold().replace("’", "'").replace("‘", "'").replace("−", "-").replace("‑", "-")
    return " ".join(re.sub(r"[*_`\"“”]", "", folded).split())
