"""Judges: the protocol and its optional parts, the descriptor, and the values that judges are given and return."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from tmde_core.records.chat import ChatItem, Message
from tmde_core.records.judging import (
    Check,
    ChoiceCheck,
    CodeCheck,
    CountCheck,
    Criterion,
    FactsCheck,
    FormCheck,
    JudgeItem,
    NumberCheck,
    RegexCheck,
    Verdict,
)
from tmde_core.records.runtimes import RuntimeCapabilities
from tmde_core.sdk.context import MakingDescriptor, PluginContext

__all__ = [
    "ChatItem",
    "Check",
    "CheckingJudge",
    "ChoiceCheck",
    "CodeCheck",
    "CountCheck",
    "Criterion",
    "FactsCheck",
    "FormCheck",
    "Judge",
    "JudgeDescriptor",
    "JudgeItem",
    "JudgeModel",
    "Message",
    "ModelPanel",
    "NumberCheck",
    "RegexCheck",
    "RuntimeCapabilities",
    "Verdict",
]


class JudgeModel(Protocol):
    """The Judge role's model, with the runtime and settings of that role."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What the model's runtime can do beyond plain chat."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        json_schema: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> AsyncIterator[ChatItem]:
        """Stream the model's answer, as `tmde_core.sdk.runtimes.ModelRuntime.chat` does."""


@runtime_checkable
class ModelPanel(JudgeModel, Protocol):
    """The Judge role's model together with others. A judge may ask all `members`; most judges ignore them."""

    @property
    def members(self) -> Sequence[JudgeModel]:
        """Every model, the Judge role's own first. Empty if there are no others."""


@runtime_checkable
class Judge(Protocol):
    """Scores answers."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Score one answer. A judge that needs a model and is given none gives no verdict."""


@runtime_checkable
class CheckingJudge(Protocol):
    """A judge that decides criteria by their `check`. Optional."""

    def problems(self, criterion: Criterion) -> Sequence[str]:
        """Return why the criterion's check cannot work, one sentence each. Empty if it can work."""


class JudgeDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A judge that a plugin offers. Its settings table is `[judges.NAME]`."""

    create: Callable[[PluginContext[Any]], Judge]
    """Makes the judge."""
    needs_model: bool = False
    """Whether it asks the Judge role's model. The model is only then given to `score`."""
    checks: bool = False
    """Whether it decides by checks and reference answers, without a model. Where the settings say `auto`, the first such
    judge scores what can be checked, and the `default` judge scores the rest."""
