"""Provides seats: a seat holds a role's runtime, model, settings and adapter, and counts the tokens used."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tmde_core.debate.context import Conversation, QuestionTooLongError, TokenSizes
from tmde_core.debate.thinking import THOUGHT_TOKENS, Asking, UnopenedThought, Wish, habits_of
from tmde_core.errors import ContextOverflowError, WorkerFailedError
from tmde_core.records.base import Record
from tmde_core.records.chat import AdapterRef, ChatDelta, ChatEnd, ChatItem, ChatRequest, FinishReason, Message
from tmde_core.records.debate import ChosenModel, DebateConfig, Role
from tmde_core.records.runtimes import RuntimeCapabilities
from tmde_core.records.traces import RoleModel, TokenCounts
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.sdk.thoughts import AnswerReader, Change, HeardAnswer
from tmde_core.settings import Roles, RoleSettings

ROLES: tuple[Role, ...] = ("proposer", "skeptic", "synthesizer", "judge")
SMALLER = 0.75
"""The share of the context used for the single retry after the model refused a prompt that seemed to fit."""


class Spoken(Record, frozen=True):
    """One answer and its duration in milliseconds."""

    text: str
    """The answer without surrounding blanks."""
    exact: str
    """The answer exactly as generated. The next prompt must contain it unchanged for the prompt cache to work."""
    ms: float
    thought: str = ""
    """What the model thought before the answer. It is never part of a prompt."""
    finish_reason: FinishReason | None = None
    """Why the answer ended."""


@dataclass
class TokenCounter:
    """The running token counts of a debate."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def add(self, end: ChatEnd) -> None:
        """Add the token counts of one call."""
        self.prompt += end.prompt_tokens
        self.cached += end.cached_tokens
        self.completion += end.completion_tokens

    def counts(self) -> TokenCounts:
        """Return the counts as a record."""
        return TokenCounts(prompt=self.prompt, cached=self.cached, completion=self.completion)


@dataclass
class RoleSession:
    """One role of one debate, ready to ask its model."""

    role: Role
    settings: RoleSettings
    runtime: ModelRuntime
    tally: TokenCounter
    seed: int | None = None
    adapter: AdapterRef | None = None
    background: bool = False
    answered_by: str = ""
    _sizes: TokenSizes = field(init=False)

    def __post_init__(self) -> None:
        self._sizes = TokenSizes(self.runtime, self.settings.model)

    @property
    def model(self) -> RoleModel:
        """The model of this seat, named as the runtime reports it, or as the settings do before the first answer."""
        return RoleModel(runtime=self.settings.runtime, model=self.answered_by or self.settings.model)

    async def limit(self) -> int:
        """Return how many tokens a prompt and its answer may have together."""
        return await self.runtime.context_length(self.settings.model)

    async def fits(self, opening: Sequence[Message]) -> bool:
        """Return whether an opening leaves room for the whole answer."""
        room = await self.limit() - self.settings.max_tokens
        return await self._sizes.total(opening, room) <= room

    async def _room_after(self, prompt: Sequence[Message]) -> int:
        """Return how many tokens the context has left after a prompt."""
        limit = await self.limit()
        return limit - await self._sizes.total(prompt, max(0, limit - THOUGHT_TOKENS - self.settings.max_tokens))

    async def speak(
        self,
        conversation: Conversation,
        round_number: int,
        on_change: Callable[[Change], None],
        json_schema: dict[str, Any] | None = None,
    ) -> Spoken:
        """Ask the model and stream its answer and its thought.

        Retry once with a smaller prompt if the model rejects the length, and once with tokens for the thought (or
        without thinking) if the model only thinks.

        Raises:
            ContextOverflowError: The question alone does not fit.
            OnlyThoughtError: The model thought and gave no answer, twice.
            WorkerFailedError: The runtime failed.
        """
        limit = await self.limit()
        try:
            return await self._attempt(conversation, limit, round_number, on_change, json_schema)
        except QuestionTooLongError:
            raise
        except ContextOverflowError as refused:
            told = refused.context.get("limit")
            smaller = min(limit, told) if isinstance(told, int) and told > 0 else limit
            try:
                return await self._attempt(conversation, int(smaller * SMALLER), round_number, on_change, json_schema)
            except QuestionTooLongError:
                raise refused from None

    async def _attempt(
        self,
        conversation: Conversation,
        limit: int,
        round_number: int,
        on_change: Callable[[Change], None],
        json_schema: dict[str, Any] | None,
    ) -> Spoken:
        fitted = await conversation.fit(self._sizes, limit, self.settings.max_tokens)
        request = ChatRequest(
            model=self.settings.model,
            messages=fitted.messages,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            max_tokens=fitted.max_tokens,
            seed=derive_seed(self.seed, self.role, round_number),
            json_schema=json_schema if self.runtime.capabilities.json_schema else None,
            adapter=self.adapter,
            background=self.background,
        )
        began = time.perf_counter()
        heard = await self.ask(request, fitted.room, on_change)
        if heard.finish_reason == "content_filter" and not heard.text.strip():
            raise WorkerFailedError(
                f"The server's filter stopped the {self.role.capitalize()}'s answer before its first word. Ask differently, "
                "or choose another model."
            )
        return Spoken(
            text=heard.text.strip(),
            exact=heard.text,
            ms=round((time.perf_counter() - began) * 1000, 3),
            thought=heard.thought,
            finish_reason=heard.finish_reason,
        )

    async def ask(
        self, request: ChatRequest, room: int | None = None, on_change: Callable[[Change], None] | None = None
    ) -> HeardAnswer:
        """Ask the model, and once more if it only thinks.

        Args:
            request: the request; its `thinking` is decided here, and `max_tokens` is the limit of the answer.
            room: tokens that the context has left after the prompt; None: they are counted if they matter.
            on_change: gets what there is to show. After a new attempt it begins from nothing.

        Raises:
            OnlyThoughtError: The model thought and gave no answer.
            WorkerFailedError: The runtime failed.
        """
        habits = habits_of(self.runtime, self.settings.model)

        async def room_left() -> int:
            return room if room is not None else await self._room_after(request.messages)

        asking = Asking(self.role, self.settings, habits, request.max_tokens, room_left)
        wish = await asking.first()
        heard = await self._hear(request, wish, on_change)
        if await asking.may_be_thought(heard, wish):
            more = await asking.with_more(wish)
            longer = await self._again(request, more, on_change)
            if longer.thought:
                heard, wish = longer, more
                habits.thinks_long.add(wish.thinking)
            elif on_change is not None:
                on_change(Change(text=heard.text, whole=True))
        if asking.is_thought(heard, wish) and (better := await asking.again(heard, wish)) is not None:
            heard, wish = await self._again(request, better, on_change), better
        if not asking.is_thought(heard, wish):
            return heard
        if heard.finish_reason == "stop" and not heard.unfinished:
            return heard  # it thought, and then answered with nothing
        raise asking.failed(heard, wish)

    async def _again(self, request: ChatRequest, wish: Wish, on_change: Callable[[Change], None] | None) -> HeardAnswer:
        if on_change is not None:
            on_change(Change(whole=True))
        return await self._hear(request, wish, on_change)

    async def _hear(self, request: ChatRequest, wish: Wish, on_change: Callable[[Change], None] | None) -> HeardAnswer:
        request = msgspec.structs.replace(
            request, thinking=wish.thinking, max_tokens=request.max_tokens + wish.thought_tokens
        )
        reader = AnswerReader()
        opens = wish.thinking in habits_of(self.runtime, self.settings.model).thinks_unopened
        thought = UnopenedThought(on_change) if opens and on_change is not None else None
        show = thought or on_change
        async with aclosing(self.stream(request)) as stream:
            async for item in stream:
                change = reader.end(item) if isinstance(item, ChatEnd) else reader.add(item)
                if change is not None and show is not None:
                    show(change)
        heard = reader.heard()
        if thought is not None:
            thought.end(heard)
        return heard

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatItem, None]:
        """Yield the runtime's stream and count its tokens; stop the generation when the caller leaves the stream.

        Raises:
            WorkerFailedError: The stream ended without a `ChatEnd`.
        """
        ended = False
        async with _closing(self.runtime.chat(request)) as stream:
            async for item in stream:
                if isinstance(item, ChatEnd):
                    ended = True
                    self.tally.add(item)
                    self.answered_by = item.model or self.answered_by
                yield item
        if not ended:
            raise WorkerFailedError(
                f"The model server of the {self.role} broke off in the middle of its answer. Try again."
            )


@asynccontextmanager
async def _closing(stream: AsyncIterator[ChatItem]) -> AsyncIterator[AsyncIterator[ChatItem]]:
    """Close a runtime's stream on leaving.

    `aclosing` does not fit: the port promises an iterator, and not every iterator can be closed.
    """
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


@dataclass
class JudgeSession:
    """The Judge's seat in the form that judges use: `tmde_core.sdk.judges.ModelPanel`."""

    seat: RoleSession
    members: Sequence[JudgeSession] = ()
    """The seats of a panel, starting with the Judge's own seat; empty if there is no panel."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities of the Judge's runtime."""
        return self.seat.runtime.capabilities

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        json_schema: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> AsyncGenerator[ChatItem, None]:
        """Ask the Judge's model.

        The stream holds the answer alone, after a thought if there is one: a judge need not know about thoughts.
        """
        request = ChatRequest(
            model=self.seat.settings.model,
            messages=tuple(messages),
            temperature=temperature,
            top_p=self.seat.settings.top_p,
            max_tokens=max_tokens,
            seed=derive_seed(self.seat.seed, "judge", 0),
            json_schema=json_schema if self.capabilities.json_schema else None,
            top_logprobs=top_logprobs,
            background=self.seat.background,
        )
        heard = await self.seat.ask(request)
        if heard.thought:
            yield ChatDelta(thought=heard.thought)
        yield ChatDelta(text=heard.text, logprobs=heard.logprobs)
        yield heard.end or ChatEnd(finish_reason="stop")


def derive_seed(seed: int | None, role: Role, round_number: int) -> int | None:
    """Return a separate seed for each call.

    One debate seed thereby repeats the whole debate, and no two calls share a random stream.
    """
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}:{role}:{round_number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def merge_roles(roles: Roles, config: DebateConfig) -> Roles:
    """Return the roles of the settings with the debate's own choices applied."""
    roles = _seat_models(roles, config)
    return msgspec.structs.replace(
        roles,
        proposer=_with(roles.proposer, config.max_tokens, config.temperature),
        synthesizer=_with(roles.synthesizer, config.max_tokens, None),
    )


def _seat_models(roles: Roles, config: DebateConfig) -> Roles:
    """Return the roles with the models that the debate chooses."""
    seated: dict[str, RoleSettings] = {}
    if config.model is not None:
        # Both roles speak with one voice, so the Proposer's runtime is the default of both.
        model = msgspec.structs.replace(config.model, runtime=config.model.runtime or roles.proposer.runtime)
        seated = {name: _seat(getattr(roles, name), model) for name in ("proposer", "synthesizer")}
    for name in ROLES if config.models is not None else ():
        chosen: ChosenModel | None = getattr(config.models, name)
        if chosen is not None:
            seated[name] = _seat(getattr(roles, name), chosen)
    return msgspec.structs.replace(roles, **seated)


def _seat(role: RoleSettings, chosen: ChosenModel) -> RoleSettings:
    return msgspec.structs.replace(role, runtime=chosen.runtime or role.runtime, model=chosen.model)


def _with(role: RoleSettings, max_tokens: int | None, temperature: float | None) -> RoleSettings:
    return msgspec.structs.replace(
        role,
        temperature=role.temperature if temperature is None else temperature,
        max_tokens=role.max_tokens if max_tokens is None else max_tokens,
    )
