"""Events: the records that `tmde_event` is called with.

More kinds may be added in any release. An observer ignores the kinds that it does not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from tmde_core.records.base import Record, utc_now
from tmde_core.records.finetune import FineTuneMetrics

__all__ = [
    "AdapterActivated",
    "AdapterDamaged",
    "BenchmarkDecided",
    "BenchmarkEnded",
    "DebateEnded",
    "Event",
    "RunFinished",
]


class _Happened(Record, frozen=True, kw_only=True):
    at: datetime = msgspec.field(default_factory=utc_now)
    """The moment it happened, in UTC."""


class DebateEnded(_Happened, frozen=True, kw_only=True):
    """A debate is over."""

    debate_id: UUID
    """The debate."""
    status: Literal["completed", "failed", "cancelled"]
    """How it ended."""
    trace_id: UUID | None = None
    """The trace of a completed debate."""
    adapter_id: UUID | None = None
    """The adapter that the Proposer answered with; None: the base model."""
    error_message: str | None = None
    """Why it failed; None unless it did."""


class RunFinished(_Happened, frozen=True, kw_only=True):
    """A training run is over."""

    run_id: UUID
    """The run. If it was completed, the adapter has the same id."""
    status: Literal["completed", "failed", "cancelled"]
    """How it ended."""
    triggered_by: str
    """Who started it, such as `user` or `schedule`."""
    traces_used: int
    """How many traces it was trained on."""
    metrics: FineTuneMetrics | None = None
    """What a completed run measured."""
    error_message: str | None = None
    """Why it failed; None unless it did."""


class AdapterActivated(_Happened, frozen=True, kw_only=True):
    """Another adapter, or the base model, answers from now on."""

    adapter_id: UUID | None
    """The adapter that answers now; None: the base model."""
    previous_adapter_id: UUID | None
    """What answered before; None: the base model."""
    triggered_by: Literal["user", "api", "rollback", "gate"]
    """Who activated it. `rollback`: a person went back; `gate`: a benchmark decided."""


class AdapterDamaged(_Happened, frozen=True, kw_only=True):
    """The bytes of an adapter no longer match its manifest."""

    adapter_id: UUID
    """The adapter."""
    is_active: bool
    """Whether it is the one that answers."""
    reason: str
    """What does not match, in a sentence."""


class BenchmarkEnded(_Happened, frozen=True, kw_only=True):
    """A benchmark run is over."""

    run_id: UUID
    """The benchmark run."""
    status: Literal["completed", "failed", "cancelled"]
    """How it ended."""
    adapter_id: UUID | None = None
    """The adapter that was measured; None: the base model."""
    tmde_score: float | None = None
    """The score of the run, 0–100; None if it measured nothing."""


class BenchmarkDecided(_Happened, frozen=True, kw_only=True):
    """The gate has measured an adapter and decided about it."""

    adapter_id: UUID
    """The adapter."""
    gate: Literal["candidate", "proven", "held-back"]
    """`proven`: better than the base model or the active adapter; `held-back`: worse; `candidate`: undecided."""
    reason: str
    """Why, in a sentence."""
    activated: bool
    """Whether the adapter was activated as well."""


Event = DebateEnded | RunFinished | AdapterActivated | AdapterDamaged | BenchmarkEnded | BenchmarkDecided
"""Every kind of event."""
