"""What a training run is, what it is asked to do, and what it measured."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tmde_core.record import Record

RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class FineTuneConfig(Record):
    """Hyperparameters; the ranges are checked wherever a config is decoded."""

    lora_rank: Annotated[int, Meta(ge=4, le=128)] = 16
    lora_alpha: Annotated[int, Meta(ge=8, le=256)] = 32
    learning_rate: Annotated[float, Meta(ge=1e-5, le=1e-3)] = 2e-4
    batch_size: Annotated[int, Meta(ge=1, le=32)] = 4
    gradient_accumulation_steps: Annotated[int, Meta(ge=1, le=16)] = 4
    epochs: Annotated[int, Meta(ge=1, le=10)] = 3
    max_seq_length: Annotated[int, Meta(ge=512, le=8192)] = 4096
    warmup_ratio: Annotated[float, Meta(ge=0, le=0.5)] = 0.03
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.01
    lr_scheduler: Literal["cosine", "linear"] = "cosine"
    min_quality_score: Annotated[float, Meta(ge=0, le=10)] = 8.0
    min_traces: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    """Fewest examples that a run starts with (`FINETUNE_MIN_TRACES`)."""
    base_model: str = ""
    """A model of the backend, or a directory of safetensors; empty: the embedded model."""
    backend: str = "cpu"
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 42


class FineTuneMetrics(Record):
    """What a run measured. What was never logged is None."""

    final_train_loss: float | None = None
    final_val_loss: float | None = None
    best_val_loss: float | None = None
    total_steps: int | None = None
    training_time_seconds: float | None = None
    peak_vram_gb: float | None = None
    peak_ram_gb: float | None = None
    perplexity: float | None = None
    """exp of the best validation loss."""
    tokens_per_second: float | None = None
    """Supervised tokens a second of training."""


class FineTuneRun(Record):
    """One training run."""

    id: UUID
    started_at: datetime
    completed_at: datetime | None = None
    status: RunStatus = "pending"
    traces_used: int = 0
    train_examples: int = 0
    val_examples: int = 0
    lora_path: str | None = None
    base_model: str = ""
    config: FineTuneConfig = msgspec.field(default_factory=FineTuneConfig)
    metrics: FineTuneMetrics | None = None
    error_message: str | None = None
    triggered_by: str = "user"
    dataset_hash: str | None = None


class Progress(Record):
    """Where a run stands."""

    step: int
    total_steps: int
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    rss_bytes: int | None = None
    eta_seconds: float | None = None
    status: RunStatus = "running"


class LeftOut(Record):
    """A trace that is not in a dataset, and why."""

    trace_id: UUID
    reason: Literal["duplicate", "leak", "withdrawn", "too-long", "benchmark", "empty"]
    detail: str = ""


class Dataset(Record):
    """A frozen dataset: which traces, which files, and the hash of their content."""

    sha256: str
    trace_ids: tuple[UUID, ...]
    train_examples: int
    val_examples: int
    left_out: tuple[LeftOut, ...] = ()
