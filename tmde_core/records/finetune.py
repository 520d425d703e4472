"""Describes training runs: their hyperparameters, attempts, progress, datasets and metrics."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record
from tmde_core.records.traces import Eligibility
from tmde_core.records.training import MaskedPiece

TrainingRunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
TrainingTrigger = Literal["manual", "scheduled", "api"]
"""`manual`: a person at a page or a command. `scheduled`: the schedule. `api`: a program."""
TRAINING_ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


GROUPS = ("Learning", "Adapter", "Batches", "Data")
"""The groups of hyperparameters in the order in which they are shown."""


class FineTuneConfig(Record):
    """Hyperparameters; their ranges are checked whenever a configuration is decoded."""

    lora_rank: Annotated[
        int,
        Meta(
            ge=4,
            le=128,
            title="LoRA rank",
            description="How much the adapter can hold. More learns more detail, takes more memory and forgets more.",
            extra={"group": "Adapter"},
        ),
    ] = 16
    lora_alpha: Annotated[
        int,
        Meta(
            ge=8,
            le=256,
            title="LoRA alpha",
            description="How strongly the adapter speaks: its weight is alpha divided by rank. Twice the rank is usual.",
            extra={"group": "Adapter"},
        ),
    ] = 32
    learning_rate: Annotated[
        float,
        Meta(
            ge=1e-5,
            le=1e-3,
            title="Learning rate",
            description=(
                "How far each step goes. Too high and the loss jumps or is no number; too low and little is learned."
            ),
            extra={"group": "Learning"},
        ),
    ] = 2e-4
    batch_size: Annotated[
        int,
        Meta(
            ge=1,
            le=32,
            title="Batch size",
            description="Examples that are looked at together. Halve it when memory runs out.",
            extra={"group": "Batches"},
        ),
    ] = 4
    gradient_accumulation_steps: Annotated[
        int,
        Meta(
            ge=1,
            le=16,
            title="Accumulation steps",
            description=(
                "Batches that make up one step. Twice as many with half the batch learns the same in less memory."
            ),
            extra={"group": "Batches"},
        ),
    ] = 4
    epochs: Annotated[
        int,
        Meta(
            ge=1,
            le=10,
            title="Epochs",
            description="How often every example is seen. Too often, and answers are learned by heart.",
            extra={"group": "Learning"},
        ),
    ] = 3
    max_seq_length: Annotated[
        int,
        Meta(
            ge=512,
            le=8192,
            title="Longest example",
            description="Longer examples are left out and listed, never cut. Memory grows with the longest one.",
            extra={"group": "Batches", "unit": "tokens"},
        ),
    ] = 4096
    warmup_ratio: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            title="Warm-up",
            description="Share of the steps in which the rate rises from nothing.",
            extra={"group": "Learning"},
        ),
    ] = 0.03
    eval_steps: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            title="Validate every … steps",
            description="Looks at the held-out examples so often, beside the end of each epoch. 0: only then.",
            extra={"group": "Batches"},
        ),
    ] = 0
    weight_decay: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            title="Weight decay",
            description="AdamW's. Pulls the weights towards zero, which works against learning by heart.",
            extra={"group": "Learning"},
        ),
    ] = 0.01
    lr_scheduler: Annotated[
        Literal["cosine", "linear"],
        Meta(
            title="Schedule of the rate",
            description="How the rate falls after the warm-up: along a cosine, or evenly.",
            extra={"group": "Learning"},
        ),
    ] = "cosine"
    min_quality_score: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            title="Lowest score",
            description="Only answers that are rated or scored at least this are learned from.",
            extra={"group": "Data"},
        ),
    ] = 8.0
    cut_answers: Annotated[
        Literal["leave-out", "use"],
        Meta(
            title="Cut answers",
            description=(
                "Answers that the token limit or a filter cut off. `leave-out`: learned from only if you rated or corrected them."
            ),
            extra={"group": "Data"},
        ),
    ] = "leave-out"
    min_traces: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            title="Fewest examples",
            description="With fewer examples no run begins.",
            extra={"group": "Data"},
        ),
    ] = 50
    base_model: Annotated[
        str,
        Meta(
            title="Base model",
            description="A base model that `tmde models list` shows, or the path of its weights. Empty: the Proposer's.",
            extra={"group": "Adapter"},
        ),
    ] = ""
    backend: Annotated[
        str,
        Meta(
            title="Backend",
            description="What trains: `tmde backends list` lists them. `auto`: the best one that works here.",
            extra={"group": "Backend"},
        ),
    ] = "auto"
    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=2**31 - 1,
            title="Seed",
            description="The same seed and examples give the same adapter.",
            extra={"group": "Adapter"},
        ),
    ] = 42

    @property
    def eligibility(self) -> Eligibility:
        """Which traces a run with this configuration may use."""
        return Eligibility(min_quality=self.min_quality_score, use_cut_answers=self.cut_answers == "use")


class FineTuneMetrics(Record):
    """The measurements of a run. A value that was never logged is None."""

    final_train_loss: float | None = None
    """Loss of the last step."""
    final_val_loss: float | None = None
    """Loss of the last validation."""
    best_val_loss: float | None = None
    """The lowest validation loss."""
    total_steps: int | None = None
    """Number of completed optimizer steps."""
    training_time_seconds: float | None = None
    """Time spent in these steps, seconds."""
    peak_vram_gb: float | None = None
    """Peak memory use of the graphics card, gigabytes."""
    peak_ram_gb: float | None = None
    """Peak use of main memory, gigabytes."""
    perplexity: float | None = None
    """The exponential of the best validation loss."""
    tokens_per_second: float | None = None
    """Learned tokens per second of training."""
    left_out: int | None = None
    """Number of examples of the dataset that the run left out, because this model cannot be trained on them."""
    device: str | None = None
    """What the run was computed on: the name of the card, or `CPU`."""
    quantisation: str | None = None
    """How the base model was held: `4-bit`, `16-bit` or `32-bit`."""
    micro_batch: int | None = None
    """Number of examples that were computed at the same time."""


AttemptOutcome = Literal["running", "completed", "failed", "cancelled", "killed", "hung", "out-of-memory", "paused"]
"""`paused`: the worker that looked after it ended, and the run waited for the next one."""


class RunAttempt(Record):
    """One process that worked on a run.

    A run has several attempts if it was resumed or tried again with smaller batches.
    """

    number: int
    """Counts from 1."""
    started_at: datetime
    batch_size: int
    gradient_accumulation_steps: int
    ended_at: datetime | None = None
    outcome: AttemptOutcome = "running"
    reason: str = ""
    """Why the attempt ended, for a person."""
    resumed_from_step: int | None = None
    automatic: bool = False
    """Whether TMDE started the attempt because of how the previous one ended. A person started the other attempts."""


class FineTuneRun(Record):
    """One training run."""

    id: UUID
    started_at: datetime
    completed_at: datetime | None = None
    status: TrainingRunStatus = "pending"
    traces_used: int = 0
    train_examples: int = 0
    val_examples: int = 0
    lora_path: str | None = None
    base_model: str = ""
    config: FineTuneConfig = msgspec.field(default_factory=FineTuneConfig)
    metrics: FineTuneMetrics | None = None
    error_message: str | None = None
    triggered_by: TrainingTrigger = "manual"
    dataset_hash: str | None = None
    name: str = ""
    """What people call the run: the given name, or the date with a word or two of what the run learns."""
    notice: str = ""
    """What to know about the run now, in sentences: whether a worker is there that it waits for, or what it means for
    the models while it uses the graphics card. Else empty. Not stored."""
    attempts: tuple[RunAttempt, ...] = ()
    queued: bool = False
    """Whether the run waits until a `tmde worker` takes it."""


class TrainingProgress(Record):
    """The progress of a run."""

    step: int
    total_steps: int
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    rss_bytes: int | None = None
    eta_seconds: float | None = None
    step_seconds: float | None = None
    """Time since the previous step in the same process, seconds."""
    status: TrainingRunStatus = "running"


class LeftOut(Record):
    """A trace that a dataset does not include, and why."""

    trace_id: UUID
    reason: Literal[
        "duplicate",
        "leak",
        "withdrawn",
        "too-long",
        "benchmark",
        "empty",
        "low-score",
        "cut",
        "cannot-encode",
        "unreadable",
    ]
    detail: str = ""


class Dataset(Record):
    """A frozen dataset: its traces, and the hash of its content."""

    sha256: str
    """Hash of the examples."""
    trace_ids: tuple[UUID, ...]
    """The traces that became examples."""
    train_examples: int
    """Examples that are trained on."""
    val_examples: int
    """Examples that are held out for validation."""
    left_out: tuple[LeftOut, ...] = ()
    """The traces that did not become examples, and why."""


class TokenBucket(Record):
    """One bar of a histogram: the number of examples with `low` ≤ tokens < `high`."""

    low: int
    high: int
    examples: int


class MemoryFit(Record, frozen=True):
    """Whether a run fits into the memory that is free now."""

    place: Literal["card", "ram"]
    """`card`: the graphics card; `ram`: main memory."""
    verdict: Literal["fits", "tight", "too-large", "unknown"]
    """`tight`: the estimate fits, but an error of 20 % would not. `unknown`: the free memory is not known."""
    needed_bytes: int
    free_bytes: int | None = None
    """What is free now, and what the runtimes give back that are paused for the run."""
    total_bytes: int | None = None
    device: str = ""
    """The name of the graphics card; empty for main memory."""
    text: str = ""
    """The verdict with its figures, in sentences."""
    remedies: tuple[str, ...] = ()
    """What to change, one sentence each; empty if the run fits."""


class FineTunePreview(Record):
    """What a run with this configuration would do. No run is started."""

    config: FineTuneConfig
    examples: int
    train_examples: int
    val_examples: int
    required: int
    refusal: str | None = None
    """Why `start` would refuse a run now; None: the run would begin."""
    left_out: tuple[LeftOut, ...] = ()
    """At most a hundred traces per reason."""
    left_out_by_reason: dict[str, int] = msgspec.field(default_factory=dict)
    """The number of all traces left out, by reason."""
    total_tokens: int | None = None
    supervised_tokens: int | None = None
    longest: int | None = None
    """Number of tokens of the longest example."""
    histogram: tuple[TokenBucket, ...] = ()
    first_example: tuple[MaskedPiece, ...] = ()
    total_steps: int | None = None
    estimated_seconds: float | None = None
    estimated_ram_bytes: int | None = None
    estimated_vram_bytes: int | None = None
    calibrated: bool = False
    """Whether the estimates come from a measurement on this machine, of this model or of earlier runs."""
    basis: str = ""
    """Which estimates were measured and which were computed, in sentences; empty if there are none."""
    fits: tuple[MemoryFit, ...] = ()
    """Whether the run fits: into the graphics card, into main memory, or both. Empty if its need is not known."""
    note: str = ""
    """Why values are missing, or what the backend warns of; empty if neither."""
    pause: str = ""
    """Which runtimes the run would pause while it uses the graphics card, in sentences; empty if none."""


class TraceLineage(Record):
    """What was learned from one trace."""

    trace_id: UUID
    runs: tuple[UUID, ...] = ()
    adapters: tuple[UUID, ...] = ()
    """The adapters of the completed runs, including those deleted since."""
