"""The words and figures of training on the pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneRun, LeftOut
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count

STATUS: Mapping[str, tuple[str, str]] = {
    "pending": ("starting", "accent"),
    "running": ("training", "accent"),
    "completed": ("done", "good"),
    "failed": ("failed", "critical"),
    "cancelled": ("cancelled", "major"),
}
"""Run status → word and kind of chip."""

LEFT_OUT: Mapping[str, str] = {
    "duplicate": "same question as another",
    "leak": "too close to a benchmark question",
    "withdrawn": "withdrawn",
    "too-long": "longer than the longest example",
    "benchmark": "came from a benchmark run",
    "empty": "without an answer",
    "low-score": "with too low a score or none",
    "cannot-encode": "not writable for this model",
    "unreadable": "not readable",
    "cut": "cut off, and not rated by you",
}

BY: Mapping[str, str] = {
    "manual": "by you",
    "api": "through the API",
    "scheduled": "by the schedule",
}


def status_of(run: FineTuneRun) -> tuple[str, str]:
    """Return the word and the kind of chip for a run's status."""
    return ("waiting", "accent") if run.queued and run.status == "pending" else STATUS[run.status]


def format_run_time(run: FineTuneRun, now: datetime | None = None) -> str:
    """Return how long a run took, or has taken so far."""
    end = run.completed_at or now or utc_now()
    return format_milliseconds(max(1.0, (end - run.started_at).total_seconds() * 1000))


def format_trace_count(run: FineTuneRun) -> str:
    """Return the number of traces: `62 traces`."""
    return count(run.traces_used, "trace")


def left_out(by_reason: Mapping[str, int]) -> str:
    """Return `3 left out: 2 same question as another, 1 withdrawn`."""
    parts = ", ".join(f"{number:,} {LEFT_OUT.get(reason, reason)}" for reason, number in by_reason.items() if number)
    return f"{sum(by_reason.values()):,} left out: {parts}"


def why(one: LeftOut) -> str:
    """Return why one trace was left out."""
    return one.detail or f"It is {LEFT_OUT.get(one.reason, one.reason)}."
