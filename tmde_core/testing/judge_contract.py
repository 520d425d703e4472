"""What must hold of every judge. Subclass it in a test module and say how the judge is made:

class TestMyJudge(JudgeContract):
    def judge(self):
        return MyJudge()

    needs_model = True
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tmde_core.errors import WorkerFailedError
from tmde_core.records.chat import ChatDelta, ChatEnd, ChatItem, Message, TokenLogprob
from tmde_core.records.judging import JudgeItem, Verdict
from tmde_core.records.runtimes import RuntimeCapabilities
from tmde_core.sdk.judges import Judge


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
        """See `tmde_core.sdk.judges.JudgeModel.chat`."""
        self.prompts.append(tuple(messages))
        if self.error is not None:
            raise self.error
        yield ChatDelta(text=self.text, logprobs=self.logprobs if top_logprobs else ())
        yield ChatEnd(finish_reason="stop", completion_tokens=1)


ITEMS = (
    JudgeItem(question="What is 6 times 7?", answer="42", reference="42", check="number"),
    JudgeItem(question="What is 6 times 7?", answer="42"),
    JudgeItem(question="q", answer=""),
    JudgeItem(question="q", answer="a" * 100_000, reference="a"),
    JudgeItem(question="q", answer="\x00\u2028\ud7ff\U0010ffff}{", reference="(", check="regex"),
    JudgeItem(question="q", answer="a", reference="b", check="no such check", rubric="r"),
)


class JudgeContract:
    """Run by pytest in subclasses called `Test…`."""

    needs_model = False

    def judge(self) -> Judge:
        """The judge under test."""
        raise NotImplementedError

    @pytest.mark.parametrize("item", ITEMS, ids=range(len(ITEMS)))
    async def test_every_item_gets_a_sound_verdict(self, item: JudgeItem) -> None:
        """A score between 0 and 10 or none, and a reason either way."""
        verdict = await self.judge().score(item, ScriptedJudgeModel())
        assert isinstance(verdict, Verdict)
        assert verdict.score is None or (math.isfinite(verdict.score) and 0 <= verdict.score <= 10)
        assert all(0 <= score <= 10 for score in verdict.criteria.values())
        assert verdict.reasons

    async def test_it_tells_the_same_item_the_same_way_twice(self) -> None:
        """Judging leaves nothing behind."""
        judge = self.judge()
        assert await judge.score(ITEMS[0], ScriptedJudgeModel()) == await judge.score(ITEMS[0], ScriptedJudgeModel())

    async def test_without_a_model_there_is_no_verdict_where_one_is_needed(self) -> None:
        """A judge that needs a model and has none says so, and does not score 0."""
        verdict = await self.judge().score(ITEMS[0], None)
        assert (verdict.score is None) is self.needs_model

    async def test_a_model_that_fails_is_never_a_score(self) -> None:
        """Its error may be raised, for the core to turn into no verdict, or be no verdict itself."""
        if not self.needs_model:
            return
        model = ScriptedJudgeModel(error=WorkerFailedError("died"))
        with contextlib.suppress(WorkerFailedError):
            assert (await self.judge().score(ITEMS[0], model)).score is None
