"""What a training backend is told and what it reports: jobs, examples, commands, estimates and previews."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tmde_core.records.base import Record
from tmde_core.records.chat import Message


class TrainingJob(Record):
    """Everything that a training worker is told. Written to `job.json` in the run's directory."""

    run_id: str
    run_dir: str
    """Holds job.json, the dataset, events.jsonl, heartbeat, lock, checkpoints and the worker's log."""
    train_file: str
    """JSON Lines, one `TrainingExample` a line."""
    val_file: str
    output_dir: str
    """Where the worker builds the adapter; it does not exist yet. The core publishes it."""
    base_model: str
    """Name or path of the base model, as the settings have it."""
    data_dir: str
    config: dict[str, Any]
    """`FineTuneConfig` in its wire form."""
    resume_from: str | None = None


class TrainingExample(Record):
    """One line of a dataset: an Alpaca record, plus the chat that it stands for."""

    instruction: str
    input: str
    output: str
    messages: tuple[Message, ...]
    """What the model sees in a debate: system and user turns, then the answer as the assistant turn."""
    trace_id: str


class WorkerCommand(Record):
    """How to start the worker: an argument list, never a shell line."""

    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Added to the environment of the server."""


class ResourceEstimate(Record):
    """What a job will need."""

    ram_bytes: int | None = None
    vram_bytes: int | None = None
    seconds: float | None = None


class MaskedPiece(Record):
    """A stretch of an example as the model sees it, and whether it is learned from."""

    text: str
    supervised: bool


class ExampleTokens(Record):
    """How long an example is."""

    trace_id: str
    split: Literal["train", "val"]
    total: int
    """Tokens of the whole example, prompt and answer."""
    supervised: int
    """Of these, the tokens that the loss counts."""


class PreviewReport(Record):
    """What a backend finds out about a dataset before it is trained on: `preview.json` in the job's directory."""

    examples: tuple[ExampleTokens, ...]
    first_example: tuple[MaskedPiece, ...] = ()
    """The first training example decoded; the pieces joined are what the model is given."""
    estimate: ResourceEstimate = ResourceEstimate()
    calibrated: bool = False
    """Whether the estimate rests on something measured on this machine with this model."""


PREVIEW_FILE = "preview.json"


class ServedForm(Record):
    """What came of making an adapter's served form: one JSON line on the worker's standard output."""

    reasons: tuple[str, ...] = ()
    """Why the adapter does not fit its base model, one sentence each; empty when the file was written."""
    note: str = ""
    """Why there is no served form although the adapter is sound, where that is so."""
