"""What happened: the typed records that `tmde_event` is called with.

Every event has `at`, the moment it happened in UTC. More kinds may be added in any release: ignore those that you do
not know.
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


class DebateEnded(_Happened, frozen=True, kw_only=True):
    """A debate is over."""

    debate_id: UUID
    status: Literal["completed", "failed", "cancelled"]
    trace_id: UUID | None = None
    """The trace of a completed debate."""
    adapter_id: UUID | None = None
    """The adapter that the Proposer answered with; None: the base model."""
    error_message: str | None = None


class RunFinished(_Happened, frozen=True, kw_only=True):
    """A training run is over."""

    run_id: UUID
    """The id of the adapter as well, where the run was completed."""
    status: Literal["completed", "failed", "cancelled"]
    triggered_by: str
    traces_used: int
    metrics: FineTuneMetrics | None = None
    error_message: str | None = None


class AdapterActivated(_Happened, frozen=True, kw_only=True):
    """Another adapter, or the base model, answers from the next debate on."""

    adapter_id: UUID | None
    """None: the base model."""
    previous_adapter_id: UUID | None
    triggered_by: Literal["user", "api", "rollback", "gate"]


class AdapterDamaged(_Happened, frozen=True, kw_only=True):
    """The bytes of an adapter no longer match its manifest."""

    adapter_id: UUID
    is_active: bool
    reason: str


class BenchmarkEnded(_Happened, frozen=True, kw_only=True):
    """A benchmark run is over."""

    run_id: UUID
    status: Literal["completed", "failed", "cancelled"]
    adapter_id: UUID | None = None
    """Whose answers were measured; None: the base model's."""
    tmde_score: float | None = None
    """0–100; None where the run measured nothing."""


class BenchmarkDecided(_Happened, frozen=True, kw_only=True):
    """The gate has measured an adapter and decided about it."""

    adapter_id: UUID
    gate: Literal["candidate", "proven", "held-back"]
    reason: str
    activated: bool


Event = DebateEnded | RunFinished | AdapterActivated | AdapterDamaged | BenchmarkEnded | BenchmarkDecided
