"""Debates with the real embedded model."""

import pytest

from tmde_core.records.debate import DebateConfig

pytestmark = pytest.mark.slow


async def test_three_rounds_complete_and_most_of_the_prompts_come_out_of_the_cache(services):
    config = DebateConfig(min_rounds=3, max_rounds=3, max_tokens=64, seed=1)
    started = await services.debates.start("Why is the sky blue?", config)
    debate = await services.debates.wait(started.id)
    assert debate.status == "completed", debate.error_message
    assert len(debate.rounds) == 3
    assert all(round_.proposal for round_ in debate.rounds)
    assert any(round_.critique.score is not None for round_ in debate.rounds)
    tokens = (await services.traces.get(debate.trace_id)).tokens
    share = tokens.cached / tokens.prompt
    # What is new in each call, and the whole prompts of Synthesizer and Judge, cannot be cached; a broken prefix gives far less.
    assert share > 0.4, f"only {tokens.cached} of {tokens.prompt} prompt tokens came out of the cache"


async def test_a_question_with_a_reference_is_answered_and_verified(services):
    config = DebateConfig(
        max_rounds=1,
        max_tokens=32,
        templates=0,
        seed=1,
        temperature=0.0,
        synthesis="never",
        reference="56",
        check="contains",
    )
    started = await services.debates.start("What is 7 times 8?", config)
    debate = await services.debates.wait(started.id)
    assert debate.status == "completed", debate.error_message
    assert "56" in (debate.final_answer or "")
    trace = await services.traces.get(debate.trace_id)
    assert (trace.judge, trace.auto_score) == ("verifier", 10.0)


async def test_a_cancelled_debate_leaves_no_trace(services):
    started = await services.debates.start("Tell me a very long story.", DebateConfig(max_tokens=2000))
    async for event in (await services.debates.events(started.id)).follow():
        if event.type == "token":
            break
    assert (await services.debates.cancel(started.id)).status == "cancelled"
    assert (await services.traces.stats()).total == 0
