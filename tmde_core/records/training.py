"""Describes what a training backend receives and reports: jobs, examples, commands, estimates and previews."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tmde_core.records.base import Record
from tmde_core.records.chat import Message


class TrainingJob(Record):
    """The complete task of a training worker, stored as `job.json` in the run's directory."""

    run_id: str
    """The run's id. The adapter has the same id."""
    run_dir: str
    """The run's directory: job.json, the dataset, events.jsonl, heartbeat, lock, checkpoints and the worker's log."""
    train_file: str
    """The training file: JSON Lines, one `TrainingExample` per line."""
    val_file: str
    """The validation file, in the same format. It is empty if no example is held out."""
    output_dir: str
    """The directory in which the worker builds the adapter. `RunWorker.make_staging` creates it."""
    base_model: str
    """Name or path of the base model, as in the settings."""
    data_dir: str
    """The data directory."""
    config: dict[str, Any]
    """`FineTuneConfig` with its JSON names."""
    resume_from: str | None = None
    """The checkpoint directory to continue from; None: start from the beginning."""


class TrainingExample(Record):
    """One line of a dataset: an Alpaca record, and the same content as a chat."""

    instruction: str
    """The question."""
    input: str
    """Additional input for the question, such as reasoning templates."""
    output: str
    """The answer to learn."""
    messages: tuple[Message, ...]
    """The chat as the model sees it in a debate. The last message is the answer to learn."""
    trace_id: str
    """The trace that the example comes from."""


class WorkerCommand(Record):
    """The command that starts a worker: an argument list, never a shell command line."""

    argv: tuple[str, ...]
    """The program and its arguments."""
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """Environment variables in addition to those of the server."""


class ResourceEstimate(Record):
    """The resources that a job will need; unknown values are None."""

    ram_bytes: int | None = None
    """Main memory."""
    vram_bytes: int | None = None
    """Memory of the graphics card."""
    seconds: float | None = None
    """Time for the whole job, seconds."""


class MaskedPiece(Record):
    """A piece of an example as the model sees it, and whether the model learns it."""

    text: str
    """The text."""
    supervised: bool
    """Whether the piece counts in the loss."""


class ExampleTokens(Record):
    """The length of an example."""

    trace_id: str
    """The trace that the example comes from."""
    split: Literal["train", "val"]
    """`train`: a training example; `val`: held out for validation."""
    total: int
    """Number of tokens of the whole example, prompt and answer."""
    supervised: int
    """Number of tokens that count in the loss."""


UnusableReason = Literal["too-long", "empty", "cannot-encode", "unreadable"]
"""`too-long`: longer than `maxSeqLength`; `empty`: without an answer; `cannot-encode`: the model's template or
tokenizer cannot write it; `unreadable`: its line is no example."""


class UnusableExample(Record):
    """An example that cannot be trained on with this model. The run leaves it out."""

    trace_id: str
    """The trace that the example comes from. Empty if the line names none."""
    split: Literal["train", "val"]
    """`train`: a training example; `val`: held out for validation."""
    reason: UnusableReason
    """A stable word for programs."""
    detail: str
    """A sentence for people."""


class PreviewReport(Record):
    """A backend's analysis of a dataset before the run, stored as `preview.json` in the job's directory."""

    examples: tuple[ExampleTokens, ...]
    """Every example that can be encoded, also those that are too long."""
    first_example: tuple[MaskedPiece, ...] = ()
    """The first training example as text. All pieces joined are the model's input."""
    estimate: ResourceEstimate = ResourceEstimate()
    """The resources that the whole job will need."""
    calibrated: bool = False
    """Whether the estimate comes from a measurement on this machine with this model."""
    left_out: tuple[UnusableExample, ...] = ()
    """The other examples, and why a run leaves them out."""
    note: str = ""
    """A warning for the person who starts the run, such as that there is no card. Empty: there is none."""


PREVIEW_FILE = "preview.json"
"""The name of the file that holds a `PreviewReport`."""


class ConversionResult(Record):
    """The result of creating an adapter's GGUF form: one JSON line on the worker's standard output."""

    reasons: tuple[str, ...] = ()
    """Why the adapter does not fit its base model, one sentence each. Empty if the file was written."""
    note: str = ""
    """Why there is no GGUF form although the adapter is valid."""
