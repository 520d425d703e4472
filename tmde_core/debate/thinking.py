"""Decides how a model is asked when it may think, and remembers how each model of this process behaves.

A thought takes tokens from the same limit as the answer. If a thought uses up the limit, the model is asked once more:
with tokens for the thought beside those for the answer, or without thinking if the context has no room for that. The
next calls to the same model begin with what has helped.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tmde_core.errors import OnlyThoughtError
from tmde_core.records.debate import Role
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.sdk.thoughts import Change, HeardAnswer
from tmde_core.settings import RoleSettings

THOUGHT_TOKENS = 4_096
"""Tokens that a thought gets beside the answer. Qwen3 and R1 think for 300 to 3,000 tokens about a short question."""

LEAST_THOUGHT_TOKENS = 256
"""With less room for a thought than this, the model is asked without thinking instead."""

CHECKERS: frozenset[Role] = frozenset({"skeptic", "judge"})
"""The roles that are asked without thinking unless their settings say otherwise: their answers are short data."""

_BEGINS_LIKE_A_THOUGHT = re.compile(
    r"\s*(?:okay|ok|alright|hmm+|wait|let me (?:think|see|check|start|re)|we need to|i need to|the user)\b",
    re.IGNORECASE,
)
"""How R1, Qwen3 and gpt-oss begin their thoughts. Answers seldom begin so."""
_FIRST_WORDS = re.compile(
    r"\s*(?:(?:okay|ok|alright|hmm+|wait|first|let|we|so)\s*,?\s*|[<\[◁][\w:|/<>]*)\Z", re.IGNORECASE
)
"""What is left of such a beginning, or of an opening tag, when a judge asks for one token."""


@dataclass
class Habits:
    """How one model behaves in this process. The keys are what `ChatRequest.thinking` asked for."""

    thinks_long: set[bool | None] = field(default_factory=set)
    """A thought has used up the limit of an answer."""
    thinks_unopened: set[bool | None] = field(default_factory=set)
    """The prompt opens the thought, so that it begins without a tag."""
    quiet: set[bool | None] = field(default_factory=set)
    """The model is asked without thinking instead: there is no room for its thought."""
    tried: set[bool | None] = field(default_factory=set)
    """A cut answer that began like a thought was tried with more tokens."""


_KNOWN: dict[int, dict[str, Habits]] = {}


def habits_of(runtime: ModelRuntime, model: str) -> Habits:
    """Return what this process knows about a model. The knowledge ends with the runtime object."""
    models = _KNOWN.get(id(runtime))
    if models is None:
        try:
            weakref.finalize(runtime, _KNOWN.pop, id(runtime), None)
        except TypeError:  # an object that cannot be watched may be replaced by another with the same id
            return Habits()
        models = _KNOWN[id(runtime)] = {}
    return models.setdefault(model, Habits())


def thinking_of(role: Role, settings: RoleSettings) -> bool | None:
    """Return what a role's requests say about thinking."""
    if settings.thinking is None and role in CHECKERS:
        return False
    return settings.thinking


@dataclass(frozen=True)
class Wish:
    """How to ask."""

    thinking: bool | None
    thought_tokens: int
    """Tokens for the thought, beside those for the answer."""


class UnopenedThought:
    """Shows text as a thought until the end of the thought comes.

    For a model whose prompt opens the thought: without this, the thought would look like the answer while it comes.

    Args:
        show: gets what there is to show.
    """

    def __init__(self, show: Callable[[Change], None]) -> None:
        self._show = show
        self._waits = True

    def __call__(self, change: Change) -> None:
        """Show the next change."""
        if self._waits and change.text and not (change.whole or change.thought):
            self._show(Change(thought=change.text))
            return
        # The reader has found the end of the thought, or the thought comes in a field of its own.
        self._waits = False
        self._show(change)

    def end(self, heard: HeardAnswer) -> None:
        """Show the whole answer if no thought has come this time."""
        if self._waits:
            self._show(Change(text=heard.text, thought=heard.thought, whole=True))


@dataclass
class Asking:
    """The attempts of one call.

    Args:
        role: who asks.
        settings: the role's settings.
        habits: what is known about the model.
        answer_tokens: the limit of the answer.
        room: returns how many tokens the context has left after the prompt. Asked only for a model that thinks.
    """

    role: Role
    settings: RoleSettings
    habits: Habits
    answer_tokens: int
    room: Callable[[], Awaitable[int]]
    _room: int | None = None

    def __post_init__(self) -> None:
        self.wanted = thinking_of(self.role, self.settings)

    async def _most(self) -> int:
        """Return how many tokens a thought may have beside the answer."""
        if self._room is None:
            self._room = await self.room()
        return max(0, min(THOUGHT_TOKENS, self._room - self.answer_tokens))

    async def first(self) -> Wish:
        """Return how to ask at first."""
        if self.wanted in self.habits.quiet:
            return Wish(False, 0)
        thinks = self.wanted is True or self.wanted in self.habits.thinks_long
        return Wish(self.wanted, await self._most() if thinks else 0)

    def is_thought(self, heard: HeardAnswer, wish: Wish) -> bool:
        """Return whether a model only thought. Learn from what it said."""
        if heard.unopened:
            self.habits.thinks_unopened.add(wish.thinking)
        if heard.only_thought:
            return True
        cut = heard.finish_reason == "length" and not heard.thought
        return cut and wish.thinking in self.habits.thinks_unopened

    async def may_be_thought(self, heard: HeardAnswer, wish: Wish) -> bool:
        """Return whether a cut answer may be the beginning of a thought that the prompt opened.

        Only its end would tell, so this asks once for each model whether to try with more tokens.
        """
        if (
            heard.finish_reason != "length"
            or heard.thought
            or wish.thought_tokens
            or wish.thinking in self.habits.tried
        ):
            return False
        few = len(heard.text) < 20 and bool(heard.text.strip()) and bool(_FIRST_WORDS.match(heard.text))
        if not (few or _BEGINS_LIKE_A_THOUGHT.match(heard.text)) or await self._most() < LEAST_THOUGHT_TOKENS:
            return False
        self.habits.tried.add(wish.thinking)
        return True

    async def with_more(self, wish: Wish) -> Wish:
        """Return the same wish with tokens for the thought."""
        return Wish(wish.thinking, await self._most())

    async def again(self, heard: HeardAnswer, wish: Wish) -> Wish | None:
        """Return how to ask again after only a thought; None if nothing more can be tried."""
        ended_itself = heard.finish_reason == "stop"
        if not ended_itself and not wish.thought_tokens and await self._most() >= LEAST_THOUGHT_TOKENS:
            self.habits.thinks_long.add(wish.thinking)
            return await self.with_more(wish)
        if wish.thinking is False:
            return None
        if not ended_itself and not wish.thought_tokens:
            self.habits.quiet.add(wish.thinking)
        return Wish(False, 0)

    def failed(self, heard: HeardAnswer, wish: Wish) -> OnlyThoughtError:
        """Return the error for a model that only thinks."""
        limit = self.answer_tokens + wish.thought_tokens
        who = self.role.capitalize()
        raise_it = f"raise roles.{self.role}.max_tokens (now {self.settings.max_tokens:,})"
        if heard.finish_reason == "stop":
            return OnlyThoughtError(
                f"The {who}'s model thought, but ended without an answer. Switch thinking off with "
                f"roles.{self.role}.thinking = false, or choose another model.",
                maxTokens=limit,
            )
        if wish.thinking is False:
            return OnlyThoughtError(
                f"The {who}'s model thought for all of its {limit:,} tokens although it was asked not to think, so there is "
                f"no answer. Choose another model, or {raise_it}.",
                maxTokens=limit,
            )
        return OnlyThoughtError(
            f"The {who}'s thought used up all {limit:,} tokens, so there is no answer. {raise_it.capitalize()}, or switch "
            f"thinking off with roles.{self.role}.thinking = false.",
            maxTokens=limit,
        )
