"""What a training backend is given and what it reports: jobs, examples, commands, estimates and previews."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tmde_core.records.base import Record
from tmde_core.records.chat import Message


class TrainingJob(Record):
    """Everything that a training worker is told. It is the file `job.json` in the run's directory."""

    run_id: str
    """The run's id. The adapter gets the same id."""
    run_dir: str
    """The run's directory: job.json, the dataset, events.jsonl, heartbeat, lock, checkpoints and the worker's log."""
    train_file: str
    """The file to train on: JSON Lines, one `TrainingExample` a line."""
    val_file: str
    """The file to validate on, in the same form. It has no lines if nothing is held out."""
    output_dir: str
    """The directory in which the worker builds the adapter. `RunWorker.staging` creates it."""
    base_model: str
    """Name or path of the base model, as the settings have it."""
    data_dir: str
    """The data directory."""
    config: dict[str, Any]
    """`FineTuneConfig` in its wire form."""
    resume_from: str | None = None
    """The checkpoint directory to go on from; None: begin anew."""


class TrainingExample(Record):
    """One line of a dataset: an Alpaca record, and the same as a chat."""

    instruction: str
    """The question."""
    input: str
    """What was given with the question, such as reasoning templates."""
    output: str
    """The answer to learn."""
    messages: tuple[Message, ...]
    """The chat as the model sees it in a debate. The last message is the answer to learn."""
    trace_id: str
    """The trace that the example comes from."""


class WorkerCommand(Record):
    """How to start the worker: an argument list, never a shell line."""

    argv: tuple[str, ...]
    """The program and its arguments."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Environment variables in addition to those of the server."""


class ResourceEstimate(Record):
    """What a job will need. Unknown figures are None."""

    ram_bytes: int | None = None
    """Main memory."""
    vram_bytes: int | None = None
    """Memory of the graphics card."""
    seconds: float | None = None
    """Time for the whole job."""


class MaskedPiece(Record):
    """A piece of an example as the model sees it, and whether it is learned."""

    text: str
    """The text."""
    supervised: bool
    """Whether the loss counts it."""


class ExampleTokens(Record):
    """How long an example is."""

    trace_id: str
    """The trace that the example comes from."""
    split: Literal["train", "val"]
    """Whether it is trained on or held out."""
    total: int
    """Tokens of the whole example, prompt and answer."""
    supervised: int
    """The tokens of these that the loss counts."""


class PreviewReport(Record):
    """What a backend finds out about a dataset before the run. It is the file `preview.json` in the job's directory."""

    examples: tuple[ExampleTokens, ...]
    """Every example."""
    first_example: tuple[MaskedPiece, ...] = ()
    """The first training example as text. The pieces joined are what the model is given."""
    estimate: ResourceEstimate = ResourceEstimate()
    """What the whole job will need."""
    calibrated: bool = False
    """Whether the estimate comes from a measurement on this machine with this model."""


PREVIEW_FILE = "preview.json"
"""The name of the file that holds a `PreviewReport`."""


class ServedForm(Record):
    """The result of creating an adapter's GGUF form: one JSON line on the worker's standard output."""

    reasons: tuple[str, ...] = ()
    """Why the adapter does not fit its base model, one sentence each. Empty if the file was written."""
    note: str = ""
    """Why there is no GGUF form although the adapter is sound."""
