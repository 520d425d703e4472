"""On the embedded model the quick ten tell a spoilt answer from a whole one: else no gate could hold a harmful adapter back."""

import asyncio
import random

import pytest

from tmde_bench_default.judges.verifier import check_criteria
from tmde_bench_default.suite import QUICK, questions
from tmde_core.benchmark.results.statistics import paired_difference
from tmde_core.prompts import proposer_opening
from tmde_core.sdk.runtimes import ChatDelta, ChatRequest

LEAST_LOSS = 2.0
"""Points of 10."""


@pytest.mark.slow
async def test_word_salad_scores_far_below_the_embedded_models_own_answers(services):
    runtime = await services.runtimes.get(services.workspace.settings.roles.proposer.runtime)
    asked = [question for question in questions() if question.id in QUICK]

    async def answer(question):
        request = ChatRequest(
            model="", messages=proposer_opening(question.query), temperature=0, max_tokens=192, seed=1
        )
        return "".join([item.text async for item in runtime.chat(request) if isinstance(item, ChatDelta)])

    answers = await asyncio.gather(*map(answer, asked))
    whole = [
        (await check_criteria(text, question.criteria)).score for question, text in zip(asked, answers, strict=True)
    ]
    for seed in range(5):
        spoilt = []
        for question, text in zip(asked, answers, strict=True):
            words = text.split()
            random.Random(seed).shuffle(words)
            spoilt.append((await check_criteria(" ".join(words), question.criteria)).score)
        difference = paired_difference(whole, spoilt)
        assert difference.outcome == "worse"
        assert difference.difference <= -LEAST_LOSS
