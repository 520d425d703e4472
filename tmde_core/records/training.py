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
    """Path of the base model's weights: a directory with config.json and safetensors, or a GGUF file. If TMDE has no
    weights of it, its name; a backend may have weights of its own."""
    data_dir: str
    """The data directory."""
    config: dict[str, Any]
    """`FineTuneConfig` with its JSON names."""
    base_model_name: str = ""
    """The name of the base model, for the manifest; empty: unknown, so the backend names it."""
    base_model_source: str = ""
    """Its repository on a hub, which other tools expect in `base_model_name_or_path`; empty: unknown."""
    dequantize: WorkerCommand | None = None
    """If `base_model` is a GGUF file: the command that converts it to a directory of safetensors and prints the path of
    the directory as its last line. None: no backend here can. `tmde_core.sdk.worker.prepare_weights` runs it."""
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


class MemoryParts(Record, frozen=True):
    """What the memory of a job consists of, in bytes.

    If a job does not fit, TMDE computes from the parts which LoRA rank and which length would.
    """

    model_bytes: int
    """The weights of the base model."""
    adapter_bytes: int
    """The adapter with its gradients and the state of the optimiser. It grows with the LoRA rank."""
    example_bytes: int
    """The activations of the longest example. They grow with its tokens."""
    other_bytes: int = 0
    """Everything else, such as CUDA and the libraries."""
    weight_bits: int | None = None
    """The bits of one weight of the base model: 4, 16 or 32. None: unknown."""


class ResourceEstimate(Record):
    """The resources that a job will need; unknown values are None."""

    ram_bytes: int | None = None
    """Main memory."""
    vram_bytes: int | None = None
    """Memory of the graphics card."""
    seconds: float | None = None
    """Time for the whole job, seconds."""
    device: str = ""
    """The name of the graphics card that the job will use. Empty: unknown, or no card."""
    parts: MemoryParts | None = None
    """What `vram_bytes` consists of, or `ram_bytes` if the job needs no card. None: unknown."""


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
    """Whether the estimate comes from a measurement on this machine, of this model or of earlier runs."""
    basis: str = ""
    """Which figures of the estimate were measured and which were computed, in sentences. Empty: TMDE says it by
    `calibrated`."""
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


Quantization = Literal["base", "Q8_0", "F16"]
"""How the weights of a merged model are stored: each as in the base model, or all as Q8_0 or F16."""


class MergeQuality(Record):
    """How much a merged model answers like its base model with the adapter. Both are asked the same fixed questions."""

    asked: int
    """The number of questions."""
    right_apart: int
    """The right answers of the base model with the adapter."""
    right_merged: int
    """The right answers of the merged model."""
    positions: int
    """The number of places in the answers at which the probabilities of the next token were compared."""
    same_token: float
    """The share of places at which both find the same token the likeliest, from 0 to 1."""
    difference: float
    """The mean difference of the log-probabilities of the likeliest tokens."""
    effect: float
    """The same difference between the base model alone and with the adapter: what the adapter changes."""
    flaws: tuple[str, ...] = ()
    """Why the merged model is too far from what was merged, one sentence each. Empty if it is good enough."""


class MergeResult(Record):
    """The result of merging an adapter into its base model."""

    reasons: tuple[str, ...] = ()
    """Why there is no merged model, one sentence each. Empty if the file was written."""
    out_of_space: bool = False
    """The disk is too full for the merged model."""
    base_file: str = ""
    """The name of the GGUF file of the base model that was merged."""
    size_bytes: int = 0
    """The size of the merged model."""
    types: dict[str, int] = msgspec.field(default_factory=dict)
    """The number of tensors of each type in the merged model."""
    notes: tuple[str, ...] = ()
    """What a person should know about the file, in sentences."""
    quality: MergeQuality | None = None
    """The comparison; None if the merged model could not be asked. A note then says why."""


class MergeProgress(Record):
    """One JSON line on the standard output of a process that merges. The last line has the result."""

    step: Literal["preparing", "merging", "checking", "done"]
    """What the process does: convert the base model, write the file, compare it."""
    share: float = 0.0
    """The share of the step that is done, from 0 to 1."""
    result: MergeResult | None = None
    """The result, in the last line."""
