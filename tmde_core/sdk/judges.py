"""Judges: the port and its optional parts, its descriptor, and the values they exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from tmde_core.records.base import Record
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


class JudgeDescriptor(Record):
    """A judge that a plugin offers."""

    name: str
    summary: str
    create: Callable[[], Judge]
    needs_model: bool = False
