"""What a schedule decided, and how it stands."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from tmde_core.records.base import Record

ScheduleName = Literal["finetune", "benchmark"]
Action = Literal["started", "skipped", "failed"]


class ScheduleOutcome(NamedTuple):
    """What came of a schedule that was due, as the service that it is for says."""

    action: Action
    reason: str
    """One sentence for a person."""
    run_id: str | None = None


class Decision(Record):
    """What was decided at one due instant, and why. None is decided twice."""

    schedule: ScheduleName
    due_at: datetime
    decided_at: datetime
    action: Action
    reason: str
    """One sentence for a person."""
    run_id: str | None = None


class ScheduleStatus(Record):
    """How one schedule stands."""

    schedule: ScheduleName
    enabled: bool
    expression: str
    timezone: str
    """IANA name; the machine's where none is set."""
    description: str
    """In words: "every Sunday at 02:00"."""
    next_runs: tuple[datetime, ...] = ()
    """The next five, UTC."""
    last_decision: Decision | None = None
    decisions: tuple[Decision, ...] = ()
    """The last ten, newest first."""
