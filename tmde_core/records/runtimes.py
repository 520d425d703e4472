"""What a model runtime reports: whether it can work, its models, its state and its capabilities."""

from __future__ import annotations

from typing import Literal

from tmde_core.records.base import Record


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
