"""Define the suite `tmde-50`: fifty questions, ten of each domain, and ten graded anchors.

The anchors show changes of a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files

import msgspec

from tmde_core.sdk.judges import JudgeItem
from tmde_core.sdk.suites import JudgeAnchor, Question, SuiteDescriptor

NAME = "tmde-50"
PUBLISHED = datetime(2026, 11, 24, tzinfo=UTC)

QUICK = (
    "math-01",
    "math-09",
    "code-01",
    "code-04",
    "sci-02",
    "sci-07",
    "reason-01",
    "reason-08",
    "creative-03",
    "creative-10",
)
"""The quick questions: two of each domain; five easy, three medium, two hard. Even a model with 135M parameters answers
most of them, so that a worse model is visible. The others leave room for a better model."""


class _Anchor(msgspec.Struct):
    """One line of anchors.jsonl."""

    question: str
    answer: str
    grade: float
    reference: str
    rubric: str


@cache
def questions() -> tuple[Question, ...]:
    """Return the fifty questions in their order."""
    lines = files("tmde_bench_default").joinpath("questions.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Question) for line in lines)


@cache
def anchors() -> tuple[JudgeAnchor, ...]:
    """Return ten answers, from useless to excellent, with a careful reader's grade. The answers never change."""
    lines = files("tmde_bench_default").joinpath("anchors.jsonl").read_bytes().splitlines()
    return tuple(_anchor(msgspec.json.decode(line, type=_Anchor)) for line in lines)


def _anchor(line: _Anchor) -> JudgeAnchor:
    item = JudgeItem(question=line.question, answer=line.answer, reference=line.reference, rubric=line.rubric)
    return JudgeAnchor(item=item, grade=line.grade)


def suites() -> Sequence[SuiteDescriptor]:
    """Return the suite that the plugin provides."""
    return [
        SuiteDescriptor(
            name=NAME,
            summary="fifty questions in mathematics, coding, science, reasoning and creative writing",
            questions=questions,
            quick=QUICK,
            anchors=anchors,
            default=True,
            created_at=PUBLISHED,
        )
    ]
