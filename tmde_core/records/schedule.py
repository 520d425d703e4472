"""Describes schedules, their state and their decisions."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from tmde_core.records.base import Record

ScheduleName = Literal["finetune", "benchmark"]
Action = Literal["started", "skipped", "failed"]


class ScheduleOutcome(NamedTuple):
    """The result of a scheduled action, as its service reports it."""

    action: Action
    reason: str
    """One sentence for a person."""
    run_id: str | None = None


class ScheduleDecision(Record):
    """The decision at one scheduled time, and its reason. There is at most one decision for each time."""

    schedule: ScheduleName
    due_at: datetime
    decided_at: datetime
    action: Action
    reason: str
    """One sentence for a person."""
    run_id: str | None = None


class ScheduleStatus(Record):
    """The state of one schedule."""

    schedule: ScheduleName
    enabled: bool
    expression: str
    timezone: str
    """IANA name; the machine's time zone if none is set."""
    description: str
    """The schedule in words: "every Sunday at 02:00"."""
    next_runs: tuple[datetime, ...] = ()
    """The next five times, UTC."""
    last_decision: ScheduleDecision | None = None
    decisions: tuple[ScheduleDecision, ...] = ()
    """The last ten decisions, newest first."""
    problem: str = ""
    """Why the setting cannot be used, so the schedule is off; empty if the setting can be used."""
