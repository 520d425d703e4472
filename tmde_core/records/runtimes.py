"""What a model runtime reports: whether it can work, its models, its state and what it can do."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record


class Availability(Record):
    """Whether something can work on this machine now. If not, `reason` says what is missing and what to do."""

    ok: bool
    """Whether it can work now."""
    reason: str = ""
    """What is missing and what to do; empty when it can work."""


class ModelInfo(Record):
    """A model that a runtime can serve."""

    name: str
    """The runtime's own name of the model."""
    runtime: str
    """The name of the runtime."""
    context_length: int | None = None
    """Tokens a prompt and its answer may have together."""
    size_bytes: int | None = None
    """Size of the model file; None: unknown."""
    path: str | None = None
    """Where the model file is; None: elsewhere or unknown."""
    loaded: bool = False
    """Whether the model is in memory."""
    default: bool = False
    """Whether a request that names no model gets this one. Exactly one model is the default."""
    detail: str = ""
    """What else a person should know."""


class RuntimeStatus(Record):
    """The state of a runtime."""

    state: Literal["stopped", "starting", "ready", "restarting", "failed"]
    """`restarting`: the server died and is started again; `failed`: it was given up."""
    detail: str = ""
    """Why, in a sentence, where there is more to say."""
    pid: int | None = None
    """Process id of the server that the runtime started; None: there is none."""
    restarts: int = 0
    """How often that server was started again."""
    rss_bytes: int | None = None
    """Memory of that server; None: unknown."""
    adapters: tuple[str, ...] = ()
    """Ids of the adapters that are loaded."""


class RuntimeCapabilities(Record):
    """What a runtime can do beyond plain chat."""

    json_schema: bool = False
    """Whether `ChatRequest.json_schema` is enforced."""
    logprobs: bool = False
    """Whether `ChatRequest.top_logprobs` is answered."""
    adapters: bool = False
    """Whether adapters can be loaded."""
    token_counts: bool = False
    """Whether `count_tokens` returns counts."""
