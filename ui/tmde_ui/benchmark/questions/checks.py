"""Convert a person's own question to form fields and back. Nothing here draws."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.records.judging import (
    Check,
    ChoiceCheck,
    CodeCheck,
    CountCheck,
    Criterion,
    FactsCheck,
    FormCheck,
    NumberCheck,
    RegexCheck,
)
from tmde_core.records.questions import Question

KINDS = (
    ("number", "a number"),
    ("choice", "one of several options"),
    ("facts", "facts it must state"),
    ("regex", "a pattern"),
    ("count", "its length"),
    ("form", "its format"),
    ("code", "Python code that passes tests"),
    ("judge", "a judge, by the description"),
)
"""Kind of check → its name. The check decides whether a criterion is met. `judge` has no check."""

FORMS = (
    ("must-use", "uses these words, separated by commas"),
    ("starts-with", "starts with"),
    ("ends-with", "ends with"),
    ("acrostic", "the first letters of the lines spell this word"),
    ("list", "a list with this many items"),
    ("no-letter", "does not use this letter"),
    ("unique-words", "no word is repeated"),
    ("json", "JSON that matches this schema"),
)

COUNTED = ("words", "lines", "sentences", "characters")

BETWEEN_WORDINGS = "|"
"""Separates equally acceptable wordings of a fact."""

_PART = re.compile(r"c(\d+)-name")


def encode_fields(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the typed question in the format that `custom.question_from` checks.

    Raises:
        InvalidInputError: a number is invalid. The context has `field`: `criteria[0].check` for the first criterion.
    """
    numbers = sorted(int(found[1]) for name in fields if (found := _PART.fullmatch(name)))
    wire: dict[str, Any] = {
        "question": fields.get("query", ""),
        "domain": fields.get("domain", ""),
        "difficulty": fields.get("difficulty", "medium"),
        "criteria": [_criterion(place, f"c{number}-", fields) for place, number in enumerate(numbers)],
    }
    for name, key in (("reference", "referenceAnswer"), ("rubric", "scoringRubric"), ("question-id", "id")):
        if text := fields.get(name, "").strip():
            wire[key] = text
    return wire


def blocks(fields: Mapping[str, str]) -> list[int]:
    """Return the numbers of the criteria's blocks, in the order of the criteria."""
    return sorted(int(found[1]) for name in fields if (found := _PART.fullmatch(name)))


def decode_criterion(number: int, criterion: Criterion) -> dict[str, str]:
    """Return a criterion as the fields of block `number`."""
    prefix = f"c{number}-"
    kind, values = _typed(criterion.check)
    given = {
        "name": criterion.name,
        "weight": f"{criterion.weight:g}",
        "kind": kind,
        "description": criterion.description,
    }
    return {f"{prefix}{name}": text for name, text in {**given, **values}.items()}


def is_checked(question: Question) -> bool:
    """Return whether a program can check at least a part of an answer."""
    return any(one.check is not None for one in question.criteria) or bool(question.reference)


# ------------------------------------------------------------------------------------------- reading


def _criterion(place: int, prefix: str, fields: Mapping[str, str]) -> dict[str, Any]:
    def typed(name: str) -> str:
        return fields.get(f"{prefix}{name}", "")

    def number(name: str, word: str, default: float | None = None) -> float | None:
        text = typed(name).strip().replace(",", ".")
        if not text and default is not None:
            return default
        try:
            return float(text)
        except ValueError:
            field = f"criteria[{place}].check"
            wrong = f"{text[:40]!r} is not a number" if text else "a number is missing"
            raise InvalidInputError(f"{field}: {wrong}. Enter {word}.", field=field) from None

    def whole(name: str) -> int | None:
        text = typed(name).strip()
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            field = f"criteria[{place}].check"
            raise InvalidInputError(f"{field}: {text[:40]!r} is not a whole number.", field=field)
        return int(text)

    kind = typed("kind")
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "number": lambda: {
            "value": number("value", "the right answer"),
            "tolerance": number("tolerance", "the tolerance", 0.0),
        },
        "choice": lambda: {"options": _lines(typed("options")), "answer": typed("answer").strip()},
        "facts": lambda: {
            "facts": [_wordings(line) for line in _lines(typed("facts"))],
            "forbidden": _lines(typed("forbidden")),
        },
        "regex": lambda: {"pattern": typed("pattern"), "absent": bool(typed("absent"))},
        "count": lambda: {"of": typed("of"), "minimum": whole("minimum") or 0, "maximum": whole("maximum")},
        "form": lambda: {"form": typed("form"), "value": typed("form-value")},
        "code": lambda: {"tests": _lines(typed("tests"))},
    }
    found: dict[str, Any] = {
        "name": typed("name").strip(),
        "weight": number("weight", "the weight", 1.0),
        "description": typed("description").strip(),
    }
    if kind in checks:
        found["check"] = {"kind": kind, **checks[kind]()}
    return found


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _wordings(line: str) -> list[str]:
    return [wording.strip() for wording in line.split(BETWEEN_WORDINGS) if wording.strip()]


# ------------------------------------------------------------------------------------------- writing


def _typed(check: Check | None) -> tuple[str, dict[str, str]]:
    """Return the kind of a check and its values as a person would type them."""
    match check:
        case NumberCheck():
            return "number", {"value": f"{check.value:.12g}", "tolerance": f"{check.tolerance:.12g}"}
        case ChoiceCheck():
            return "choice", {"options": "\n".join(check.options), "answer": check.answer}
        case FactsCheck():
            facts = "\n".join(f" {BETWEEN_WORDINGS} ".join(fact) for fact in check.facts)
            return "facts", {"facts": facts, "forbidden": "\n".join(check.forbidden)}
        case RegexCheck():
            return "regex", {"pattern": check.pattern, "absent": "on" if check.absent else ""}
        case CountCheck():
            most = "" if check.maximum is None else str(check.maximum)
            return "count", {"of": check.of, "minimum": str(check.minimum), "maximum": most}
        case FormCheck():
            return "form", {"form": check.form, "form-value": check.value}
        case CodeCheck():
            return "code", {"tests": "\n".join(check.tests)}
        case None:
            return "judge", {}
