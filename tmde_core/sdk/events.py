"""Defines the events that `tmde_event` receives.

Any release may add kinds of events. An observer ignores the kinds that it does not know.
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
    """When the event happened, in UTC."""


class DebateEnded(_Happened, frozen=True, kw_only=True):
    """A debate ended."""

    debate_id: UUID
    """The debate."""
    status: Literal["completed", "failed", "cancelled"]
    """How the debate ended."""
    trace_id: UUID | None = None
    """The trace of a completed debate; None: the debate was not completed."""
    adapter_id: UUID | None = None
    """The adapter that the Proposer used; None: the base model."""
    error_message: str | None = None
    """Why the debate failed; None: it did not fail."""


class RunFinished(_Happened, frozen=True, kw_only=True):
    """A training run ended."""

    run_id: UUID
    """The run. The adapter of a completed run has the same id."""
    status: Literal["completed", "failed", "cancelled"]
    """How the run ended."""
    triggered_by: str
    """What started the run, `manual`, `scheduled` or `api`."""
    traces_used: int
    """Number of traces that the run was trained on."""
    metrics: FineTuneMetrics | None = None
    """The measurements of a completed run."""
    error_message: str | None = None
    """Why the run failed; None: it did not fail."""


class AdapterActivated(_Happened, frozen=True, kw_only=True):
    """An adapter, or the base model, became active."""

    adapter_id: UUID | None
    """The active adapter; None: the base model."""
    previous_adapter_id: UUID | None
    """The adapter that was active before; None: the base model."""
    triggered_by: Literal["user", "api", "rollback", "gate"]
    """What caused the activation. `rollback`: a person rolled back; `gate`: a benchmark decided."""


class AdapterDamaged(_Happened, frozen=True, kw_only=True):
    """The files of an adapter no longer match its manifest."""

    adapter_id: UUID
    """The adapter."""
    is_active: bool
    """Whether this is the active adapter."""
    reason: str
    """The mismatch, in a sentence."""


class BenchmarkEnded(_Happened, frozen=True, kw_only=True):
    """A benchmark run ended."""

    run_id: UUID
    """The benchmark run."""
    status: Literal["completed", "failed", "cancelled"]
    """How the run ended."""
    adapter_id: UUID | None = None
    """The adapter that was measured; None: the base model."""
    tmde_score: float | None = None
    """The score of the run, 0–100; None: nothing was measured."""


class BenchmarkDecided(_Happened, frozen=True, kw_only=True):
    """The gate measured an adapter and made a decision about it."""

    adapter_id: UUID
    """The adapter."""
    gate: Literal["candidate", "proven", "held-back"]
    """`proven`: better than the base model or the active adapter; `held-back`: worse; `candidate`: undecided."""
    reason: str
    """The reason, in a sentence."""
    activated: bool
    """Whether the gate also activated the adapter."""


Event = DebateEnded | RunFinished | AdapterActivated | AdapterDamaged | BenchmarkEnded | BenchmarkDecided
"""Every kind of event."""
