"""Benchmark suites: the descriptor, and the questions and graded answers of a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from tmde_core.records.questions import JudgeAnchor, Question
from tmde_core.sdk.context import Descriptor

__all__ = ["JudgeAnchor", "Question", "SuiteDescriptor"]


class SuiteDescriptor(Descriptor, frozen=True, kw_only=True):
    """A set of questions that a plugin offers."""

    questions: Callable[[], Sequence[Question]]
    """Returns the questions. TMDE calls it when the suite is used, not at start-up."""
    quick: tuple[str, ...] = ()
    """Ids of the questions that a quick run asks; empty: the first ten questions."""
    anchors: Callable[[], Sequence[JudgeAnchor]] | None = None
    """Returns graded answers that each run scores again; None: the suite has none."""
    default: bool = False
    """Whether this suite is used when a run names no suite."""
    created_at: datetime | None = None
    """When the questions were published, with a time zone; None: not known."""
