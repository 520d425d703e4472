"""What plugins implement: five ports, and the plain data that crosses them.

A hook (see `tmde_core.hookspecs`) returns *descriptors*. A descriptor is cheap: it names a thing and says how to
make it. Nothing heavy is imported and nothing starts until the core calls `create`, `availability` or `plan`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from tmde_core.record import Record

# --------------------------------------------------------------------------------------------- chat

ChatRole = Literal["system", "user", "assistant"]


class Message(Record):
    """One turn of a chat."""

    role: ChatRole
    content: str


class AdapterRef(Record):
    """A LoRA adapter by id, with the directory that holds its files (safetensors and GGUF form)."""

    id: str
    directory: str


class ChatRequest(Record):
    """What a model is asked. A runtime that lacks a wish ignores it, but never an `adapter`: that it refuses."""

    model: str
    """The runtime's own name of the model; empty means its default."""
    messages: tuple[Message, ...]
    temperature: float = 0.7
    """0 is greedy."""
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: dict[str, Any] | None = None
    """The answer shall be one JSON value of this schema, where the runtime can enforce it."""
    top_logprobs: int = 0
    """How many alternatives to report for each generated token; 0 reports none."""
    adapter: AdapterRef | None = None
    background: bool = False
    """Served only while no foreground request waits."""


class TokenAlternative(Record):
    """A token that could have come at this place, with its natural-log probability (≤ 0)."""

    token: str
    logprob: float


class TokenLogprob(Record):
    """A generated token, its natural-log probability, and the likeliest alternatives, likeliest first."""

    token: str
    logprob: float
    top: tuple[TokenAlternative, ...] = ()


class ChatDelta(Record):
    """A piece of the answer, as it is generated. The pieces joined are the answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ChatEnd(Record):
    """The last item of every successful stream."""

    finish_reason: Literal["stop", "length"]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of `prompt_tokens` came out of the prompt cache."""
    completion_tokens: int = 0
    prompt_ms: float | None = None
    """Time spent reading the prompt, milliseconds, where the runtime says."""
    completion_ms: float | None = None
    """Time spent generating, milliseconds, where the runtime says."""
    model: str = ""
    """The model that answered, by the runtime's own name."""


ChatItem = ChatDelta | ChatEnd

# --------------------------------------------------------------------------------- availability etc.


class Availability(Record):
    """Whether a thing can work on this machine now, and when not, what it lacks and what to do."""

    ok: bool
    reason: str = ""


class ModelInfo(Record):
    """A model that a runtime can serve."""

    name: str
    runtime: str
    context_length: int | None = None
    """Tokens a prompt and its answer may have together."""
    size_bytes: int | None = None
    path: str | None = None
    loaded: bool = False
    default: bool = False
    detail: str = ""


class RuntimeStatus(Record):
    """How a runtime is doing."""

    state: Literal["stopped", "starting", "ready", "restarting", "failed"]
    detail: str = ""
    pid: int | None = None
    restarts: int = 0
    rss_bytes: int | None = None
    adapters: tuple[str, ...] = ()
    """Ids of the adapters that are loaded."""


class RuntimeCapabilities(Record):
    """What a runtime can do beyond plain chat."""

    json_schema: bool = False
    logprobs: bool = False
    adapters: bool = False
    token_counts: bool = False


# ------------------------------------------------------------------------------------ model runtimes


@runtime_checkable
class ModelRuntime(Protocol):
    """Serves chat. One instance serves every caller of the process, concurrently."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    async def start(self) -> None:
        """Get ready to answer. Called once before use; calling it again is harmless.

        Raises:
            WorkerFailedError: the server does not start or cannot be reached; the detail says why.
            InvalidInputError: the model named in the settings does not exist or is damaged.
        """

    async def stop(self) -> None:
        """Release everything. Requests under way end with WorkerFailedError."""

    def chat(self, request: ChatRequest) -> AsyncIterator[ChatItem]:
        """Stream the answer: any number of `ChatDelta`, then exactly one `ChatEnd`.

        Closing the iterator (`aclose`) or cancelling the task that reads it stops the generation.

        Raises:
            ContextOverflowError: the prompt does not fit.
            NotFoundError: the runtime has no such model.
            WorkerFailedError: the server failed under this request.
        """

    async def models(self) -> Sequence[ModelInfo]:
        """What can be named in `ChatRequest.model`."""

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """Tokens in each text, without any template; None where the runtime cannot tell."""

    async def context_length(self, model: str = "") -> int:
        """Tokens that one prompt and its answer may have together."""

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Make the adapter answer requests that name it. Requests under way are not disturbed.

        Raises:
            AdapterInvalidError: the runtime refuses it, or cannot serve adapters.
        """

    async def unload_adapter(self, adapter_id: str) -> None:
        """Forget the adapter; unknown ids are ignored."""

    async def status(self) -> RuntimeStatus:
        """State for `doctor`, the API and the pages; never raises, never starts anything."""


class RuntimeContext(Record):
    """What a runtime may know of its host."""

    data_dir: str
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    """The `[runtimes.NAME]` table of the settings, as it stands there."""

    @property
    def models_dir(self) -> Path:
        """Where model files are kept."""
        return Path(self.data_dir) / "models"


class RuntimeDescriptor(Record):
    """A model runtime that a plugin offers."""

    name: str
    """Unique, lower case; what settings call it."""
    summary: str
    create: Callable[[RuntimeContext], ModelRuntime]
    availability: Callable[[RuntimeContext], Availability]


# ----------------------------------------------------------------------------------------- training


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


@runtime_checkable
class TrainingBackend(Protocol):
    """Plans training; never trains. The supervisor runs the plan in a detached process."""

    def availability(self) -> Availability: ...

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        """What the job will need; unknown figures are None."""

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """The command whose process trains, logs with `tmde_core.finetune.worker` and fills `output_dir`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """


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


@runtime_checkable
class PreviewingBackend(Protocol):
    """A training backend that can also look at a dataset before the run. Optional: others are previewed without tokens."""

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """The command whose process writes a `PreviewReport` as `preview.json` into `job.run_dir`, and trains nothing.

        It may measure for some seconds and remember what it measured. A failure is one sentence on stderr and exit status 1.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """


class ServedForm(Record):
    """What came of making an adapter's served form: one JSON line on the worker's standard output."""

    reasons: tuple[str, ...] = ()
    """Why the adapter does not fit its base model, one sentence each; empty when the file was written."""
    note: str = ""
    """Why there is no served form although the adapter is sound, where that is so."""


@runtime_checkable
class ConvertingBackend(Protocol):
    """A training backend that can also make the served form of an adapter that it has not trained. Optional: without one, an
    adapter from an archive can be kept, listed and exported, but not be served by a runtime that wants another form.
    """

    def convert(self, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
        """The command whose process compares the adapter with its base model, writes `adapter.gguf` beside the weights, and prints
        a `ServedForm`; None when this backend does not know the base model. A failure is one sentence on stderr and exit status 1.

        Args:
            adapter_dir: holds `adapter_model.safetensors` and `adapter_config.json`, both checked for themselves.
            base_model: as the adapter names it; nobody has checked it.
        """


class BackendDescriptor(Record):
    """A training backend that a plugin offers."""

    name: str
    summary: str
    create: Callable[[Path], TrainingBackend]
    """Given the data directory."""
    environment: str = sys.prefix
    """The directory of the Python environment that its workers run in; left out, TMDE's own."""


# ------------------------------------------------------------------------------------------- judges


class NumberCheck(Record, tag_field="kind", tag="number"):
    """The answer's number (the last one it commits to) is `value` within `tolerance`, in the same unit."""

    value: float
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    """Absolute."""


class ChoiceCheck(Record, tag_field="kind", tag="choice"):
    """The answer commits to one of `options`, and that is `answer`."""

    answer: str
    options: tuple[str, ...]


class FactsCheck(Record, tag_field="kind", tag="facts"):
    """The answer states the facts: each is a tuple of wordings, any of which will do. The score is the share stated."""

    facts: tuple[tuple[str, ...], ...]
    forbidden: tuple[str, ...] = ()
    """Wordings that make the answer wrong."""


class RegexCheck(Record, tag_field="kind", tag="regex"):
    """The pattern occurs in the answer, or with `absent` does not. Case is ignored but in `(?-i:…)`."""

    pattern: str
    absent: bool = False


class CountCheck(Record, tag_field="kind", tag="count"):
    """How long the answer is."""

    of: Literal["words", "lines", "sentences", "characters"]
    minimum: Annotated[int, Meta(ge=0)] = 0
    maximum: Annotated[int, Meta(ge=0)] | None = None


class FormCheck(Record, tag_field="kind", tag="form"):
    """The form of a text: first letters of its lines, words it must use, how it begins or ends, JSON of a shape."""

    form: Literal["acrostic", "must-use", "starts-with", "ends-with", "json", "list", "no-letter", "unique-words"]
    value: str = ""
    """`acrostic`: the word; `must-use`: words between commas; `json`: a JSON Schema; `list`: number of items; `no-letter`: the letter."""


class CodeCheck(Record, tag_field="kind", tag="code"):
    """The Python code in the answer passes tests, each a line of assertions that is run by itself; the score is the share passed."""

    tests: tuple[str, ...]
    seconds: Annotated[float, Meta(gt=0, le=30)] = 5.0
    """For all tests together."""


Check = NumberCheck | ChoiceCheck | FactsCheck | RegexCheck | CountCheck | FormCheck | CodeCheck


class Criterion(Record):
    """One thing that counts in an answer. With a `check` a machine tells; without one a judge does, by the description."""

    name: str
    weight: Annotated[float, Meta(gt=0, le=100)] = 1.0
    description: str = ""
    check: Check | None = None


class JudgeItem(Record):
    """One answer to be judged."""

    question: str
    answer: str
    reference: str | None = None
    check: str | None = None
    """How `reference` is compared: number, choice, exact, contains or regex. None: the judge decides."""
    rubric: str | None = None
    criteria: tuple[Criterion, ...] = ()
    """What counts, by name and weight; empty: `check` and `rubric` say it all."""


class Verdict(Record):
    """What a judge says. `score` None is "no verdict", which is never the same as 0."""

    score: float | None
    """0–10."""
    reasons: tuple[str, ...] = ()
    criteria: dict[str, float] = msgspec.field(default_factory=dict)
    """Score of each criterion, 0–10."""
    judge: str = ""


class JudgeModel(Protocol):
    """The Judge role's model, bound to its runtime and settings."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        json_schema: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> AsyncIterator[ChatItem]: ...


@runtime_checkable
class ModelPanel(JudgeModel, Protocol):
    """The Judge's model with others beside it. Optional: a judge that asks several models asks `members`, others never look."""

    @property
    def members(self) -> Sequence[JudgeModel]:
        """All of them, the Judge role's own first; empty where there are no others."""


@runtime_checkable
class Judge(Protocol):
    """Scores answers."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Judge one answer. A judge that needs no model ignores it; one that needs one and has none gives no verdict."""


@runtime_checkable
class CheckingJudge(Protocol):
    """A judge that decides criteria by their `check`. Optional; TMDE's own `verifier` is one."""

    def problems(self, criterion: Criterion) -> Sequence[str]:
        """Why the criterion's check cannot work (a pattern that does not compile, say), one sentence each; empty when it can."""


class JudgeDescriptor(Record):
    """A judge that a plugin offers."""

    name: str
    summary: str
    create: Callable[[], Judge]
    needs_model: bool = False


# ------------------------------------------------------------------------------- suites, registries


class Question(Record):
    """A question whose answer can be checked or judged."""

    id: str
    query: str
    reference: str | None = None
    check: str | None = None
    domain: str = "general"
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    rubric: str | None = None
    split: str | None = None
    """In a practice file: `practice` or `held-out`."""
    criteria: tuple[Criterion, ...] = ()
    """Named, weighted criteria of a benchmark question."""


class JudgeAnchor(Record):
    """A frozen, graded answer. It is rescored at each run, so that a judge that has moved is noticed."""

    item: JudgeItem
    grade: float
    """What a careful person gives it, 0–10."""


class SuiteDescriptor(Record):
    """A set of questions that a plugin offers."""

    name: str
    summary: str
    questions: Callable[[], Sequence[Question]]
    quick: tuple[str, ...] = ()
    """Ids of the balanced few that a quick run asks; empty: the first ten."""
    anchors: Callable[[], Sequence[JudgeAnchor]] | None = None
    default: bool = False
    """Asked when a run names no suite."""


class RegistryDescriptor(Record):
    """A template registry client that a plugin offers (its port comes with the registry)."""

    name: str
    summary: str
    create: Callable[[Mapping[str, Any]], Any]
