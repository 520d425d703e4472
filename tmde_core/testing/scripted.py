"""Provide a model runtime that answers from a script: a fake of the port, for tests of everything above it.

    runtime = ScriptedRuntime({"proposer": ["first", "second"], "skeptic": Reply("{…}", gate=event)})
    plugins = scripted_plugins(runtime)
    settings = scripted_settings(tmp_path)

The runtime streams in pieces. It can wait for an `asyncio.Event`, think before it answers, fail, reach the token limit, count tokens (one per
word), keep a prompt cache and report log-probabilities. It records every request.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tmde_core.errors import AdapterInvalidError, ContextOverflowError, NotFoundError
from tmde_core.plugins import Plugins
from tmde_core.prompts import role_of
from tmde_core.records.chat import (
    AdapterRef,
    ChatDelta,
    ChatEnd,
    ChatItem,
    ChatRequest,
    FinishReason,
    TokenAlternative,
    TokenLogprob,
)
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeCapabilities, RuntimeStatus
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.settings import Roles, Settings, SupervisorSettings

ACCEPT = '{"issues": [], "score": 9, "verdict": "accept"}'
REVISE = '{"issues": [{"severity": "major", "text": "It gives no reason."}], "score": 4, "verdict": "revise"}'


@dataclass(frozen=True)
class Reply:
    """One scripted answer."""

    text: str = ""
    gate: asyncio.Event | None = None
    """An event that the stream waits for after `gate_after` pieces."""
    gate_after: int = 0
    error: Exception | None = None
    """An error that is raised after `error_after` pieces."""
    error_after: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Log-probabilities that are sent with the first piece of the text if the request asks for them."""
    thought: str = ""
    """A thought that comes before the text. Its words take tokens from the same limit."""
    tags: tuple[str, str] | None = None
    """The tags around the thought within the text, such as `("<think>", "</think>")`. An empty first tag stands for a
    prompt that opens the thought. None: the thought comes in a field of its own."""
    stubborn: bool = False
    """Whether the model thinks although the request asks it not to."""
    finish_reason: FinishReason | None = None
    """Why the answer ends; None: `length` at the token limit, else `stop`."""


Answer = str | Reply | Exception
RoleScript = Mapping[str, "Answer | Sequence[Answer] | Callable[[ChatRequest], Answer]"]
Script = RoleScript | Callable[[ChatRequest], Answer]
"""Maps a role to an answer for every call, a list of answers (the last one repeats), or a function of the request."""


def digit_logprobs(probabilities: Mapping[str, float]) -> tuple[TokenLogprob, ...]:
    """Return the log-probabilities of one token. The likeliest of the given tokens is the generated one."""
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    top = tuple(TokenAlternative(token=token, logprob=math.log(p)) for token, p in ranked if p > 0)
    return (TokenLogprob(token=top[0].token, logprob=top[0].logprob, top=top),)


DEFAULT_SCRIPT: RoleScript = {
    "proposer": ["The answer is 42.", "The answer is 42, because six times seven is 42."],
    "skeptic": [REVISE, ACCEPT],
    "synthesizer": "Six times seven is 42.",
    "judge": Reply("4", logprobs=digit_logprobs({"4": 0.6, "5": 0.3, "3": 0.1})),
}
"""A debate of two rounds that ends with acceptance, and with a score of 8 by the rubric judge's formula."""


@dataclass
class ScriptedRuntime:
    """A scripted `tmde_core.sdk.runtimes.ModelRuntime`. See the module's docstring."""

    script: Script = field(default_factory=lambda: DEFAULT_SCRIPT)
    capabilities: RuntimeCapabilities = field(
        default_factory=lambda: RuntimeCapabilities(json_schema=True, logprobs=True, adapters=True, token_counts=True)
    )
    context: int = 4096
    name: str = "scripted"
    model: str = "scripted-1"
    requests: list[ChatRequest] = field(default_factory=list)
    ended: list[ChatEnd] = field(default_factory=list)
    loaded: dict[str, AdapterRef] = field(default_factory=dict)
    closed: int = 0
    """The number of streams that were closed before their end."""
    started: bool = False
    vram_bytes: int | None = None
    """Memory of the graphics card that the runtime says it holds while it is started."""
    count_calls: int = 0
    on_request: Callable[[ChatRequest], None] | None = None
    """Called when a request arrives."""
    on_end: Callable[[], None] | None = None
    """Called just before the last item of a stream is yielded."""
    _cursors: dict[str, int] = field(default_factory=dict)
    _cache: list[list[str]] = field(default_factory=list)

    async def start(self) -> None:
        """Mark the runtime as started."""
        self.started = True

    async def stop(self) -> None:
        """Mark the runtime as stopped."""
        self.started = False

    async def chat(self, request: ChatRequest) -> AsyncIterator[ChatItem]:
        """Record the request and stream its scripted answer."""
        self.requests.append(request)
        if self.on_request is not None:
            self.on_request(request)
        self._refuse(request)
        reply = self._reply(request)
        words = [word for message in request.messages for word in message.content.split()]
        cached = max((_common(words, earlier) for earlier in self._cache), default=0)
        pieces = _deltas(reply, thinks=bool(reply.thought) and (request.thinking is not False or reply.stubborn))
        first = next((index for index, piece in enumerate(pieces) if piece.logprobs), -1)
        finished = False
        try:
            for index, piece in enumerate([*pieces[: request.max_tokens], None]):
                if reply.gate is not None and index == reply.gate_after:
                    await reply.gate.wait()
                if reply.error is not None and index == reply.error_after:
                    raise reply.error
                if piece is not None:
                    wanted = request.top_logprobs > 0 and index == first and self.capabilities.logprobs
                    yield piece if wanted else ChatDelta(text=piece.text, thought=piece.thought)
            self._cache.append([*words, *reply.text.split()])
            end = ChatEnd(
                finish_reason=reply.finish_reason or ("length" if len(pieces) > request.max_tokens else "stop"),
                prompt_tokens=len(words),
                cached_tokens=cached,
                completion_tokens=min(len(pieces), request.max_tokens),
                model=request.model or self.model,
            )
            self.ended.append(end)
            finished = True
            if self.on_end is not None:
                self.on_end()
            yield end
        finally:
            self.closed += not finished

    async def models(self) -> Sequence[ModelInfo]:
        """Return the only model, which is the default."""
        return [
            ModelInfo(
                name=self.model, runtime=self.name, context_length=self.context, loaded=self.started, default=True
            )
        ]

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:  # noqa: ARG002 the port's
        """Count words as tokens, or return None if the runtime cannot count tokens."""
        self.count_calls += 1
        return [len(text.split()) for text in texts] if self.capabilities.token_counts else None

    async def context_length(self, model: str = "") -> int:  # noqa: ARG002 the port's
        """Return the configured context length."""
        return self.context

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:  # noqa: ARG002 the port's
        """Record the adapter as loaded, or refuse it if the runtime cannot serve adapters."""
        if not self.capabilities.adapters:
            raise AdapterInvalidError(f"The runtime {self.name!r} cannot serve adapters.")
        self.loaded[adapter.id] = adapter

    async def unload_adapter(self, adapter_id: str) -> None:
        """Remove the adapter from the loaded ones."""
        self.loaded.pop(adapter_id, None)

    async def status(self) -> RuntimeStatus:
        """Return the state of the runtime and the loaded adapters."""
        return RuntimeStatus(
            state="ready" if self.started else "stopped",
            adapters=tuple(self.loaded),
            vram_bytes=self.vram_bytes if self.started else None,
        )

    def of_role(self, role: str) -> list[ChatRequest]:
        """Return the requests that were made for a role."""
        return [request for request in self.requests if role_of(request) == role]

    def _refuse(self, request: ChatRequest) -> None:
        if request.model not in ("", self.model):
            raise NotFoundError(
                f"The runtime {self.name!r} has no model called {request.model!r}; it has {self.model!r}."
            )
        if request.adapter is not None and request.adapter.id not in self.loaded:
            raise AdapterInvalidError(f"The adapter {request.adapter.id} is not loaded.")
        size = sum(len(message.content.split()) for message in request.messages)
        if size >= self.context:
            raise ContextOverflowError(
                f"The prompt has {size} tokens and the model reads {self.context}.", limit=self.context, tokens=size
            )

    def _reply(self, request: ChatRequest) -> Reply:
        if callable(self.script):
            return _as_reply(self.script(request))
        role = role_of(request)
        answers = self.script.get(role, "")
        if callable(answers):
            return _as_reply(answers(request))
        if isinstance(answers, (str, Reply, Exception)):
            return _as_reply(answers)
        index = self._cursors.get(role, 0)
        self._cursors[role] = index + 1
        return _as_reply(answers[min(index, len(answers) - 1)])


def scripted_plugins(runtime: ScriptedRuntime, base: Plugins | None = None) -> Plugins:
    """Return `base`, or an empty catalog, with `runtime` added."""
    plugins = base or Plugins()
    plugins.runtimes.add(
        RuntimeDescriptor(
            name=runtime.name,
            summary="answers from a script",
            create=lambda _context: runtime,
            availability=lambda _context: Availability(ok=True),
        ),
        "tmde_core.testing",
    )
    return plugins


def scripted_settings(data_dir: Path, runtime: str = "scripted") -> Settings:
    """Return settings on `data_dir` in which the scripted runtime plays every role."""
    shipped = msgspec.structs.asdict(Roles())
    roles = {name: msgspec.structs.replace(role, runtime=runtime) for name, role in shipped.items()}
    return Settings(
        data_dir=str(data_dir),
        supervisor=SupervisorSettings(niceness=0),  # simulated training need not yield to other tests
        roles=Roles(**roles),
    )


def _deltas(reply: Reply, *, thinks: bool) -> list[ChatDelta]:
    """Return the pieces of a reply: one word each."""
    text = [ChatDelta(text=word) for word in _words(reply.text)]
    if text and reply.logprobs:
        text[0] = ChatDelta(text=text[0].text, logprobs=reply.logprobs)
    if not thinks:
        return text
    if reply.tags is None:
        return [*(ChatDelta(thought=word) for word in _words(reply.thought)), *text]
    opening, closing = reply.tags
    return [*(ChatDelta(text=word) for word in (opening, *_words(reply.thought), closing, "\n\n") if word), *text]


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _as_reply(answer: Answer) -> Reply:
    if isinstance(answer, Reply):
        return answer
    return Reply(error=answer) if isinstance(answer, Exception) else Reply(answer)


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))
