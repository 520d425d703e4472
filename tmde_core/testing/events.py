"""Provide one event of each kind, for tests of observers."""

from __future__ import annotations

from uuid import uuid4

from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.sdk.events import (
    AdapterActivated,
    AdapterDamaged,
    BenchmarkDecided,
    BenchmarkEnded,
    DebateEnded,
    Event,
    RunFinished,
)


def sample_events() -> list[Event]:
    """Return events of every kind, some with and some without their optional fields."""
    return [
        DebateEnded(debate_id=uuid4(), status="completed", trace_id=uuid4(), adapter_id=uuid4()),
        DebateEnded(debate_id=uuid4(), status="failed", error_message="The model server died."),
        RunFinished(
            run_id=uuid4(),
            status="completed",
            triggered_by="manual",
            traces_used=50,
            metrics=FineTuneMetrics(final_train_loss=1.25, total_steps=12),
        ),
        RunFinished(run_id=uuid4(), status="cancelled", triggered_by="scheduled", traces_used=50),
        AdapterActivated(adapter_id=uuid4(), previous_adapter_id=None, triggered_by="gate"),
        AdapterActivated(adapter_id=None, previous_adapter_id=uuid4(), triggered_by="rollback"),
        AdapterDamaged(adapter_id=uuid4(), is_active=True, reason="adapter_model.safetensors has changed."),
        BenchmarkEnded(run_id=uuid4(), status="completed", adapter_id=uuid4(), tmde_score=61.5),
        BenchmarkEnded(run_id=uuid4(), status="failed"),
        BenchmarkDecided(adapter_id=uuid4(), gate="proven", reason="It is better by 3 points.", activated=True),
    ]
