"""Converts between questions as runs ask them and questions as they are listed, with a rubric in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from tmde_core.records.benchmark import BenchmarkQuestion
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

INNER_NAMES = {"question": "query", "referenceAnswer": "reference", "scoringRubric": "rubric"}
"""Outer name → the name in `Question`. Answers and bodies have outer names; question files may have either."""
OUTER_NAMES = {inner: outer for outer, inner in INNER_NAMES.items()}
_NUMBER = re.compile(r"[-+]?\d{1,15}(\.\d{1,15})?")


MOST_CHECKED_WORDS = 12
"""A reference with more words is a text that a judge compares."""

SAME_AS_REFERENCE = "The answer says the same as the reference answer."


def list_question(
    question: Question, suite: str, created_at: datetime | None, *, built_in: bool = False, quick: bool = False
) -> BenchmarkQuestion:
    """Return a question as it is listed."""
    return BenchmarkQuestion(
        id=question.id,
        domain=question.domain,
        difficulty=question.difficulty,
        question=question.query,
        reference_answer=question.reference or "",
        scoring_rubric=question.rubric or describe_criteria(question.criteria),
        is_built_in=built_in,
        created_at=created_at,
        suite=suite,
        check=question.check,
        criteria=question.criteria,
        quick=quick,
    )


def as_asked(listed: BenchmarkQuestion) -> Question:
    """Return a listed question as runs ask it."""
    described = listed.scoring_rubric == describe_criteria(listed.criteria)
    return Question(
        id=listed.id,
        query=listed.question,
        reference=listed.reference_answer or None,
        check=listed.check,
        domain=listed.domain,
        difficulty=listed.difficulty,
        rubric=None if described else listed.scoring_rubric,
        criteria=listed.criteria,
    )


def with_check(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a question file; one that has only a reference gets a check or a rubric for this reference.

    A short reference is looked for in the answer. An answer is never word for word a long one, so a judge compares them.
    """
    reference = entry.get("referenceAnswer", entry.get("reference"))
    if not isinstance(reference, str) or not reference.strip():
        return dict(entry)
    if any(entry.get(name) for name in ("check", "criteria", "rubric", "scoringRubric")):
        return dict(entry)
    plain = reference.strip()
    if len(plain.split()) > MOST_CHECKED_WORDS:
        return {**entry, "rubric": SAME_AS_REFERENCE}
    check: dict[str, Any] = {"kind": "facts", "facts": [[plain]]}
    if _NUMBER.fullmatch(plain):
        check = {"kind": "number", "value": float(plain)}
    return {**entry, "criteria": [{"name": "right", "check": check}]}


def describe_criteria(criteria: Iterable[Criterion]) -> str:
    """Return the criteria as a rubric in words, one line each."""
    return "\n".join(f"{one.name}: {_in_words(one)}" for one in criteria)


def _in_words(criterion: Criterion) -> str:
    said = [criterion.description.strip().rstrip(".")]
    if criterion.check is not None:
        said.append(describe_check(criterion.check))
    return ". ".join(part for part in said if part) + "."


def describe_check(check: Check) -> str:
    """Return what an automatic check demands, without a full stop."""
    match check:
        case NumberCheck():
            around = f", give or take {check.tolerance:g}" if check.tolerance else ""
            return f"The answer is the number {check.value:.15g}{around}"
        case ChoiceCheck():
            return f"The answer is {check.answer!r}, out of {', '.join(check.options)}"
        case FactsCheck():
            facts = "; ".join(" or ".join(fact) for fact in check.facts)
            wrong = f". It does not state: {'; '.join(check.forbidden)}" if check.forbidden else ""
            return f"The answer states: {facts}{wrong}"
        case RegexCheck():
            return f"The pattern {check.pattern} {'does not occur' if check.absent else 'occurs'}"
        case CountCheck():
            most = "" if check.maximum is None else f", at most {check.maximum}"
            return f"The answer has at least {check.minimum}{most} {check.of}"
        case FormCheck():
            return f"The form is {check.form}{f' {check.value}' if check.value else ''}"
        case CodeCheck():
            return f"The code passes {len(check.tests)} tests"
