"""Judges: the port and its optional parts, its descriptor, and the values they exchange."""

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
    """The Judge role's model, bound to its runtime and settings."""

    @property
    def capabilities(self) -> RuntimeCapabilities: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        json_schema: dict[str, Any] | None = None,
        temperature: float = 0.0,
    ) -> AsyncIterator[ChatItem]: ...


@runtime_checkable
class ModelPanel(JudgeModel, Protocol):
    """The Judge's model with others beside it. Optional: a judge that asks several models asks `members`, others never look."""

    @property
    def members(self) -> Sequence[JudgeModel]:
        """All of them, the Judge role's own first; empty where there are no others."""


@runtime_checkable
class Judge(Protocol):
    """Scores answers."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Judge one answer. A judge that needs no model ignores it; one that needs one and has none gives no verdict."""


@runtime_checkable
class CheckingJudge(Protocol):
    """A judge that decides criteria by their `check`. Optional; TMDE's own `verifier` is one."""

    def problems(self, criterion: Criterion) -> Sequence[str]:
        """Why the criterion's check cannot work (a pattern that does not compile, say), one sentence each; empty when it can."""


class JudgeDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A judge that a plugin offers. Its settings table is `[judges.NAME]`."""

    create: Callable[[PluginContext[Any]], Judge]
    needs_model: bool = False
    """Whether it asks the Judge role's model."""
    checks: bool = False
    """Whether it decides criteria by their `check` and answers by their reference, without a model. Where the settings
    say `auto`, the first such judge scores what can be checked, and the `default` judge the rest."""
