"""Describes what a model runtime reports: its availability, models, state and capabilities."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record


class Availability(Record):
    """Whether a plugin can work on this machine now. If not, `reason` says what is missing and what to do."""

    ok: bool
    """Whether the plugin can work now."""
    reason: str = ""
    """What is missing and what to do; empty if the plugin can work."""


class ModelInfo(Record):
    """A model that a runtime can serve."""

    name: str
    """The runtime's own name of the model."""
    runtime: str
    """The name of the runtime."""
    context_length: int | None = None
    """The most tokens that a prompt and its answer may have together."""
    size_bytes: int | None = None
    """Size of the model file; None: unknown."""
    path: str | None = None
    """The path of the model file; None: elsewhere or unknown."""
    loaded: bool = False
    """Whether the model is in memory."""
    default: bool = False
    """Whether this model serves requests that name no model. Exactly one model is the default."""
    detail: str = ""
    """Further information for people."""
    aliases: tuple[str, ...] = ()
    """Further names of the same model, such as its publisher's. Upper and lower case do not matter."""
    shipped: bool = False
    """Whether it is a small model that comes with TMDE, so that everything works at once."""

    def answers_to(self, name: str) -> bool:
        """Return whether the name means this model."""
        return name == self.name or name.strip().casefold() in {alias.casefold() for alias in self.aliases}


class RuntimeStatus(Record):
    """The state of a runtime."""

    state: Literal["stopped", "starting", "ready", "restarting", "failed", "paused"]
    """`restarting`: the server died and is being started again; `failed`: the runtime has given up on the server;
    `paused`: TMDE has stopped the runtime until a training run has left the graphics card."""
    detail: str = ""
    """The reason, in a sentence; may be empty."""
    pid: int | None = None
    """Process id of the server that the runtime started; None: there is none."""
    restarts: int = 0
    """How often the server was started again."""
    rss_bytes: int | None = None
    """Memory of the server; None: unknown."""
    vram_bytes: int | None = None
    """Memory that the runtime's own server holds on graphics cards; None: none, or unknown. TMDE may pause a runtime that
    reports it while a training run needs the card."""
    adapters: tuple[str, ...] = ()
    """Ids of the loaded adapters."""


class RuntimeCapabilities(Record):
    """What a runtime supports beyond plain chat."""

    json_schema: bool = False
    """Whether `ChatRequest.json_schema` is enforced."""
    logprobs: bool = False
    """Whether `ChatRequest.top_logprobs` is supported."""
    adapters: bool = False
    """Whether adapters can be loaded."""
    adapters_note: str = ""
    """Why adapters cannot be loaded and what to do, or what to know about how they are loaded, in sentences; empty if
    there is nothing to say."""
    token_counts: bool = False
    """Whether `count_tokens` returns counts."""
