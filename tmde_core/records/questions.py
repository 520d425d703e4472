"""Describes questions whose answers can be checked or judged, and graded answers that detect a drifting judge."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record
from tmde_core.records.judging import Criterion, JudgeItem


class Question(Record):
    """A question whose answer can be checked or judged."""

    id: str
    """Unique within the suite."""
    query: str
    """The text that the model is asked."""
    reference: str | None = None
    """A right answer; None: there is none."""
    check: str | None = None
    """How the answer is compared with `reference`: number, choice, exact, contains or regex."""
    domain: str = "general"
    """The subject: a suite's question names one of `mathematics`, `coding`, `science`, `reasoning`, `creative`.

    Results are also grouped by this field.
    """
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    """The difficulty. Results are also grouped by this field."""
    rubric: str | None = None
    """The properties of a good answer, in words."""
    split: str | None = None
    """In a practice file: `practice` or `held-out`. Suites omit it."""
    criteria: tuple[Criterion, ...] = ()
    """The criteria for an answer, with their weights."""


class JudgeAnchor(Record):
    """A graded answer that each run scores again, to detect that the judge's scale has drifted."""

    item: JudgeItem
    """The question with the graded answer."""
    grade: float
    """The score that a careful person gives the answer, 0–10."""
