"""The suite `tmde-50`: fifty questions, ten of each domain, and ten graded answers that show whether the judge has moved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import msgspec

from tmde_core.sdk.judges import JudgeItem
from tmde_core.sdk.suites import JudgeAnchor, Question, SuiteDescriptor

NAME = "tmde-50"

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
"""Two of each domain; five easy, three medium, two hard. Chosen so that even a model of 135M parameters answers most of them: then a
worse model shows, and the others leave room for a better one."""


class _Anchor(msgspec.Struct):
    """A line of anchors.jsonl."""

    question: str
    answer: str
    grade: float
    reference: str
    rubric: str


@cache
def questions() -> tuple[Question, ...]:
    """The fifty, in their order."""
    lines = files("tmde_bench_default").joinpath("questions.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Question) for line in lines)


@cache
def anchors() -> tuple[JudgeAnchor, ...]:
    """Ten answers, from useless to excellent, with the grade that a careful reader gives them. They never change."""
    lines = files("tmde_bench_default").joinpath("anchors.jsonl").read_bytes().splitlines()
    return tuple(_anchor(msgspec.json.decode(line, type=_Anchor)) for line in lines)


def _anchor(line: _Anchor) -> JudgeAnchor:
    item = JudgeItem(question=line.question, answer=line.answer, reference=line.reference, rubric=line.rubric)
    return JudgeAnchor(item=item, grade=line.grade)


def suites() -> Sequence[SuiteDescriptor]:
    """What the plugin offers."""
    return [
        SuiteDescriptor(
            name=NAME,
            summary="fifty questions in mathematics, coding, science, reasoning and creative writing",
            questions=questions,
            quick=QUICK,
            anchors=anchors,
            default=True,
        )
    ]
