"""Questions whose answers can be checked or judged, and the graded answers that hold a judge to its scale."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record
from tmde_core.records.judging import Criterion, JudgeItem


class Question(Record):
    """A question whose answer can be checked or judged."""

    id: str
    query: str
    reference: str | None = None
    check: str | None = None
    domain: str = "general"
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    rubric: str | None = None
    split: str | None = None
    """In a practice file: `practice` or `held-out`."""
    criteria: tuple[Criterion, ...] = ()
    """Named, weighted criteria of a benchmark question."""


class JudgeAnchor(Record):
    """A frozen, graded answer. It is rescored at each run, so that a judge that has moved is noticed."""

    item: JudgeItem
    grade: float
    """What a careful person gives it, 0–10."""
