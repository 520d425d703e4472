"""Provide a scripted model for the Judge role, for tests of judges."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tmde_core.records.chat import ChatDelta, ChatEnd, ChatItem, Message, TokenLogprob
from tmde_core.records.runtimes import RuntimeCapabilities


@dataclass
class ScriptedJudgeModel:
    """A `JudgeModel` that answers with one text and log-probabilities, or fails."""

    text: str = "4"
    logprobs: tuple[TokenLogprob, ...] = ()
    error: Exception | None = None
    capabilities: RuntimeCapabilities = field(
        default_factory=lambda: RuntimeCapabilities(logprobs=True, json_schema=True)
    )
    prompts: list[tuple[Message, ...]] = field(default_factory=list)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,  # noqa: ARG002 the port's
        top_logprobs: int = 0,
        json_schema: dict[str, Any] | None = None,  # noqa: ARG002 the port's
        temperature: float = 0.0,  # noqa: ARG002 the port's
    ) -> AsyncGenerator[ChatItem, None]:
        """Record the messages and stream the text, or fail. See `tmde_core.sdk.judges.JudgeModel.chat`."""
        self.prompts.append(tuple(messages))
        if self.error is not None:
            raise self.error
        yield ChatDelta(text=self.text, logprobs=self.logprobs if top_logprobs else ())
        yield ChatEnd(finish_reason="stop", completion_tokens=1)
