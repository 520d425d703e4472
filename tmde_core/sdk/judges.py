"""Judges: the protocol and its optional parts, the descriptor, and the values that judges receive and return."""

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
    """The model of the Judge role, with the runtime and settings of that role."""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What the model's runtime supports beyond plain chat."""

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
    """The model of the Judge role together with other models.

    A judge may ask all `members`; most judges ignore them.
    """

    @property
    def members(self) -> Sequence[JudgeModel]:
        """All models, the Judge role's own model first. Empty if there are no others."""


@runtime_checkable
class Judge(Protocol):
    """Scores answers."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Score one answer. A judge that needs a model but receives none returns no verdict."""


@runtime_checkable
class CheckingJudge(Protocol):
    """A judge that decides criteria by their `check`. This protocol is optional."""

    def problems(self, criterion: Criterion) -> Sequence[str]:
        """Return why the criterion's check cannot work, one sentence each; empty if it can work."""


class JudgeDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A judge that a plugin offers. Its settings table is `[judges.NAME]`."""

    create: Callable[[PluginContext[Any]], Judge]
    """Creates the judge."""
    needs_model: bool = False
    """Whether the judge asks the Judge role's model. Only then `score` receives the model."""
    checks: bool = False
    """Whether the judge decides by checks and reference answers, without a model. If the settings say `auto`, the
    first such judge scores what can be checked, and the `default` judge scores the rest."""
    rules: int = 1
    """The version of the judge's rules. Raise it when the same answer may get another score than before. Runs that
    were scored by different versions are not compared."""
