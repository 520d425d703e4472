"""Turns the right answer of a data set's line into a reference and a criterion that checks it.

A number is read whole or not at all: `1,234`, `3/4`, `50%` and `3e8` are numbers; `10:30`, `007` and `1,23` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.finetune.dataset.same_question import fold_characters

Parts = dict[str, Any]
"""Fields of a question: `query`, `reference`, and `criteria` or `rubric`."""

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
MAX_WORDING_WORDS = 12
MAX_WORDING_LENGTH = 120
"""A longer answer is a text. No answer repeats a text word by word, so a judge compares it."""
MAX_WORDINGS = 200
MAX_DIGITS = 15
"""A float holds so many digits exactly."""
FRACTION_TOLERANCE = 1e-6

_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s?[$€£]?\s?(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<part>\.\d+)?(?P<power>[eE][-+]?\d{1,2})?\s?%?"
)
_FRACTION = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<top>\d{1,9})\s?/\s?(?P<under>\d{1,9})|\\[dt]?frac\{(?P<top2>\d{1,9})\}\{(?P<under2>\d{1,9})\})"
)
_ONE_LETTER = re.compile(r"\(?(?P<letter>[A-Za-z])[).]?")
_SPACES = re.compile(r"\\[!,;: ]\s*")
"""LaTeX's small spaces, which stand between the digits of long numbers."""
_BEFORE_NUMBER = re.compile(r"[A-Za-z]\s?=\s?(?=[-+\d\\$])")
_BEHIND_NUMBER = re.compile(r"\s?(?:\^\{?\\circ\}?|°|\([A-Za-z ]{1,30}\))$")
"""What stands behind a number and is no part of it: degrees, and the unit in ASDiv's `9 (apples)`."""
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{(?P<inner>[^{}]+)\}")
_YES_OR_NO = (("yes", "no"), ("true", "false"))


def answer_parts(query: str, target: Any) -> Parts:
    """Return a question without options, with a check of its answer.

    Raises:
        InvalidInputError: There is no answer, or its shape is unknown.
    """
    if isinstance(target, bool):
        return _either(query, "yes" if target else "no", _YES_OR_NO[0])
    wordings = _distinct(final_answer(one) for one in read_wordings(target))
    if not wordings:
        raise InvalidInputError("target: there is none, so nothing can be checked.", field="target")
    reference = wordings[0]
    for pair in _YES_OR_NO:
        if len(wordings) == 1 and reference.rstrip(".").casefold() in pair:
            return _either(query, reference.rstrip("."), pair)
    if len(wordings) == 1 and (letter := bare_letter(reference)) is not None:
        # A fact such as "A" or "I" would stand in nearly every answer.
        return _checked(query, reference, {"kind": "choice", "answer": letter, "options": list(LETTERS)})
    numbers = [read_number(one) for one in wordings]
    if numbers[0] is not None and all(one == numbers[0] for one in numbers):
        value, tolerance = numbers[0]
        check: Parts = {"kind": "number", "value": value}
        if tolerance:
            check["tolerance"] = tolerance
        return _checked(query, reference, check)
    short = [one for one in _without_full_stops(wordings) if _is_short(one)][:MAX_WORDINGS]
    if not short:
        return {"query": query, "reference": reference}
    return _checked(query, reference, {"kind": "facts", "facts": [short]})


def bare_letter(text: str) -> str | None:
    """Return the letter that a text such as `B`, `(B)` or `B)` is; None if it is something else."""
    found = _ONE_LETTER.fullmatch(text.strip())
    return found["letter"].upper() if found else None


def _without_full_stops(wordings: Iterable[str]) -> list[str]:
    """Return the wordings, and each that ends like a sentence also without the full stop."""
    both = [form for one in wordings for form in (one, re.sub(r"(?<=[^\W\d_]{3})[.。]$", "", one))]
    return _distinct(both)


def letter_parts(query: str, letter: str, letters: Iterable[str]) -> Parts:
    """Return a question whose answer is one of several letters."""
    return _checked(query, letter, {"kind": "choice", "answer": letter, "options": list(letters)})


def _either(query: str, reference: str, pair: tuple[str, str]) -> Parts:
    check = {"kind": "choice", "answer": reference.casefold(), "options": list(pair)}
    return _checked(f"{query}\n\nAnswer {pair[0]} or {pair[1]}.", reference, check)


def _checked(query: str, reference: str, check: Parts) -> Parts:
    return {"query": query, "reference": reference, "criteria": [{"name": "right", "check": check}]}


def _is_short(wording: str) -> bool:
    return len(wording) <= MAX_WORDING_LENGTH and len(wording.split()) <= MAX_WORDING_WORDS


def read_wordings(target: Any) -> list[str]:
    """Return all wordings of a right answer: a text, a number, a list of them, or TriviaQA's and SQuAD's mappings.

    Raises:
        InvalidInputError: The shape is unknown.
    """
    if target is None:
        return []
    if isinstance(target, str):
        return [target] if target.strip() else []
    if isinstance(target, bool):
        return ["yes" if target else "no"]
    if isinstance(target, int | float):
        return [str(int(target)) if isinstance(target, float) and target.is_integer() else str(target)]
    if isinstance(target, list) and not any(isinstance(one, list) for one in target):
        return [wording for one in target for wording in read_wordings(one)]
    if isinstance(target, Mapping):
        named = {"".join(filter(str.isalnum, str(name).casefold())): value for name, value in target.items()}
        for names in (("value", "aliases", "normalizedaliases"), ("text",)):
            if any(name in named for name in names):
                return [wording for name in names if name in named for wording in read_wordings(named[name])]
    return _refuse(target)


def _refuse(target: Any) -> list[str]:
    if not target or all(one in (None, "") for one in target):
        return []
    raise InvalidInputError("answer: a text, a number, or a list of wordings belongs there.", field="answer")


def _distinct(texts: Iterable[str]) -> list[str]:
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(text.casefold(), text)
    return list(found.values())


def final_answer(text: str) -> str:
    r"""Return what follows gsm8k's `####`, or what stands in the last `\boxed{}`; else the text.

    Raises:
        InvalidInputError: Nothing follows the `####`.
    """
    if "####" in text:
        final = text.rsplit("####", 1)[1].strip()
        if not final:
            raise InvalidInputError("answer: nothing follows the `####`.", field="answer")
        return final
    boxed = text.rfind("\\boxed{")
    if boxed >= 0:
        start = boxed + len("\\boxed{")
        depth = 1
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return _bare(text[start:place].strip() or text.strip())
    return _bare(text.strip())


def _bare(text: str) -> str:
    found = _WRAPPED.fullmatch(text)
    return found["inner"].strip() if found else text


def read_number(text: str) -> tuple[float, float] | None:
    """Return the number that a text is, and the tolerance of its check; None if the text is not one number."""
    plain = fold_characters(text).strip().strip("$" if text.count("$") == 2 else "").strip()
    plain = _SPACES.sub("", plain).replace("\\%", "%").replace("\\$", "$")
    plain = _BEHIND_NUMBER.sub("", _BEFORE_NUMBER.sub("", plain, count=1))
    if found := _FRACTION.fullmatch(plain):
        top, under = int(found["top"] or found["top2"]), int(found["under"] or found["under2"])
        if not under:
            return None
        value = top / under * (-1 if found["sign"] == "-" else 1)
        return value, 0.0 if len(repr(value)) <= MAX_DIGITS else FRACTION_TOLERANCE
    found = _NUMBER.fullmatch(plain)
    if found is None:
        return None
    whole = found["whole"].replace(",", "")
    if len(whole + (found["part"] or "")) > MAX_DIGITS or (len(whole) > 1 and whole.startswith("0")):
        return None
    return float(f"{found['sign']}{whole}{found['part'] or ''}{found['power'] or ''}"), 0.0
