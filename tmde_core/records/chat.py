"""Describes chats with models: messages, requests, and the items of a streamed answer."""

from __future__ import annotations

from typing import Any, Literal

from tmde_core.records.base import Record

ChatRole = Literal["system", "user", "assistant"]
"""The author of a message."""


FinishReason = Literal["stop", "length", "content_filter"]
"""`stop`: the model ended the answer; `length`: the token limit ended it; `content_filter`: the server's filter cut
it."""


_CUTS: dict[FinishReason, str] = {
    "length": "Cut off at the token limit.",
    "content_filter": "Cut off by the server's filter.",
}


def describe_cut(reason: FinishReason | None) -> str | None:
    """Return a sentence that says how an answer was cut off; None if it was not."""
    return None if reason is None else _CUTS.get(reason)


class Message(Record):
    """One turn of a chat."""

    role: ChatRole
    """The author of the message."""
    content: str
    """The text."""


class AdapterRef(Record):
    """A LoRA adapter: its id, and the directory that holds its files."""

    id: str
    """The adapter's id."""
    directory: str
    """The directory that holds its files."""


class ChatRequest(Record):
    """A request to a model. A runtime ignores options that it does not support. It refuses an unsupported `adapter`."""

    model: str
    """The runtime's own name of the model; empty: its default model."""
    messages: tuple[Message, ...]
    """The conversation, the oldest message first. The answer continues the conversation."""
    temperature: float = 0.7
    """How freely tokens are sampled. 0 always chooses the likeliest token."""
    top_p: float = 0.95
    """Only the likeliest tokens that together have this probability are sampled."""
    max_tokens: int = 512
    """The most tokens that the answer may have."""
    seed: int | None = None
    """Makes sampling repeatable; None: the runtime chooses."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    json_schema: dict[str, Any] | None = None
    """The JSON Schema that the answer must follow, if the runtime can enforce it."""
    top_logprobs: int = 0
    """How many alternatives to report for each generated token; 0 reports none."""
    adapter: AdapterRef | None = None
    """The adapter that answers; None: the base model."""
    background: bool = False
    """Whether the request waits while other requests run."""
    thinking: bool | None = None
    """False: a thinking model answers without thinking, if the runtime can ask for that. True: it thinks. None: the
    model's own habit."""


class TokenAlternative(Record):
    """A token that was possible at this position."""

    token: str
    """The token's text."""
    logprob: float
    """Its natural-log probability, at most 0."""


class TokenLogprob(Record):
    """A generated token and its alternatives."""

    token: str
    """The token's text."""
    logprob: float
    """Its natural-log probability, at most 0."""
    top: tuple[TokenAlternative, ...] = ()
    """The likeliest tokens at this position, the likeliest first."""


class ChatDelta(Record):
    """A piece of the answer or of the thought before it. All texts joined are the answer."""

    text: str = ""
    """The next piece of the answer."""
    thought: str = ""
    """The next piece of the model's thought. A thought is never part of the answer."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The tokens of this piece, if the request asked for them."""


class ChatEnd(Record):
    """The last item of every successful stream."""

    finish_reason: FinishReason
    """Why the answer ended."""
    prompt_tokens: int = 0
    """Number of tokens of the prompt."""
    cached_tokens: int = 0
    """The part of `prompt_tokens` that came from the prompt cache."""
    completion_tokens: int = 0
    """Number of tokens of the answer."""
    prompt_ms: float | None = None
    """Time to read the prompt, milliseconds; None: unknown."""
    completion_ms: float | None = None
    """Time to generate the answer, milliseconds; None: unknown."""
    model: str = ""
    """The runtime's own name of the model that answered."""


ChatItem = ChatDelta | ChatEnd
"""One item of a streamed answer."""
