"""Questions whose answers can be checked or judged, and graded answers that show whether a judge keeps its scale."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record
from tmde_core.records.judging import Criterion, JudgeItem


class Question(Record):
    """A question whose answer can be checked or judged."""

    id: str
    """Unique within the suite."""
    query: str
    """The question as the model is asked."""
    reference: str | None = None
    """A right answer, where there is one."""
    check: str | None = None
    """How `reference` is compared: number, choice, exact, contains or regex."""
    domain: str = "general"
    """The subject, such as `arithmetic`; results are also grouped by it."""
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    """How hard it is; results are also grouped by it."""
    rubric: str | None = None
    """What a good answer has, in words."""
    split: str | None = None
    """In a practice file: `practice` or `held-out`. Suites leave it out."""
    criteria: tuple[Criterion, ...] = ()
    """What counts in an answer, by name and weight."""


class JudgeAnchor(Record):
    """A graded answer that each run scores again, so that a judge whose scale has moved is noticed."""

    item: JudgeItem
    """The question with the graded answer."""
    grade: float
    """The score that a careful person gives it, 0–10."""
