"""Benchmark suites: the descriptor, and the questions and graded answers that it offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tmde_core.records.questions import JudgeAnchor, Question
from tmde_core.sdk.context import Descriptor

__all__ = ["JudgeAnchor", "Question", "SuiteDescriptor"]


class SuiteDescriptor(Descriptor, frozen=True, kw_only=True):
    """A set of questions that a plugin offers."""

    questions: Callable[[], Sequence[Question]]
    quick: tuple[str, ...] = ()
    """Ids of the balanced few that a quick run asks; empty: the first ten."""
    anchors: Callable[[], Sequence[JudgeAnchor]] | None = None
    default: bool = False
    """Asked when a run names no suite."""
