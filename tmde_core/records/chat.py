"""What a model is asked and what it answers: messages, requests and the items of a streamed answer."""

from __future__ import annotations

from typing import Any, Literal

from tmde_core.records.base import Record

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
