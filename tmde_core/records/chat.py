"""What a model is asked and what it answers: messages, requests, and the items of a streamed answer."""

from __future__ import annotations

from typing import Any, Literal

from tmde_core.records.base import Record

ChatRole = Literal["system", "user", "assistant"]
"""Who says a message."""


class Message(Record):
    """One turn of a chat."""

    role: ChatRole
    """Who says it."""
    content: str
    """The text."""


class AdapterRef(Record):
    """A LoRA adapter: its id, and the directory that holds its files."""

    id: str
    """The adapter's id."""
    directory: str
    """The directory that holds its files."""


class ChatRequest(Record):
    """What a model is asked. A runtime ignores wishes that it cannot fulfil, except `adapter`, which it refuses."""

    model: str
    """The runtime's own name of the model; empty means its default."""
    messages: tuple[Message, ...]
    """The conversation, the oldest message first. The answer continues it."""
    temperature: float = 0.7
    """How freely tokens are sampled. 0 always takes the likeliest one."""
    top_p: float = 0.95
    """Only the likeliest tokens that together have this probability are sampled."""
    max_tokens: int = 512
    """The answer has at most this many tokens."""
    seed: int | None = None
    """Makes sampling repeatable; None: the runtime chooses."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    json_schema: dict[str, Any] | None = None
    """The JSON Schema that the answer has to follow, if the runtime can enforce it."""
    top_logprobs: int = 0
    """How many alternatives to report for each generated token; 0 reports none."""
    adapter: AdapterRef | None = None
    """The adapter that has to answer; None: the base model."""
    background: bool = False
    """Whether it has to wait while other requests do."""


class TokenAlternative(Record):
    """A token that could have come at this place."""

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
    """The likeliest tokens at this place, the likeliest first."""


class ChatDelta(Record):
    """A piece of the answer. The pieces joined are the answer."""

    text: str
    """The next piece of text."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The tokens of this piece, where the request asked for them."""


class ChatEnd(Record):
    """The last item of every successful stream."""

    finish_reason: Literal["stop", "length"]
    """`stop`: the model ended the answer; `length`: the token limit did."""
    prompt_tokens: int = 0
    """Tokens of the prompt."""
    cached_tokens: int = 0
    """The part of `prompt_tokens` that came from the prompt cache."""
    completion_tokens: int = 0
    """Tokens of the answer."""
    prompt_ms: float | None = None
    """Time to read the prompt, milliseconds; None: unknown."""
    completion_ms: float | None = None
    """Time to generate the answer, milliseconds; None: unknown."""
    model: str = ""
    """The runtime's own name of the model that answered."""


ChatItem = ChatDelta | ChatEnd
"""One item of a streamed answer."""
