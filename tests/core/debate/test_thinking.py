"""Debates with thinking models: thoughts are kept apart, and a thought alone is no answer."""

import msgspec
import pytest

from tmde_core.debate.seats import JudgeSession, RoleSession, TokenCounter
from tmde_core.errors import OnlyThoughtError
from tmde_core.plugins import Plugins
from tmde_core.records.chat import ChatDelta, ChatRequest, Message
from tmde_core.records.debate import DebateConfig
from tmde_core.records.judging import JudgeItem
from tmde_core.records.traces import Eligibility
from tmde_core.sdk.thoughts import read_answer
from tmde_core.settings import Roles
from tmde_core.testing import ACCEPT, DEFAULT_SCRIPT, REVISE, Reply, ScriptedRuntime, scripted_settings
from tmde_core.testing.scripted import digit_logprobs

THOUGHT = "Okay, six times seven is forty-two. I am sure."
LONG = " ".join(["Hmm, let me see."] * 300)
FORMS = {"field": None, "tags": ("<think>", "</think>"), "no opening tag": ("", "</think>")}
GRADE = digit_logprobs({"4": 0.6, "5": 0.3, "3": 0.1})


def of_type(log, type_):
    """The data of a log's events of one type."""
    return [event.data for event in log.events if event.type == type_]


def thinker(form, thought=THOUGHT, **changed):
    """A script in which every role thinks, whatever it is asked."""
    texts = {"proposer": "It is 42.", "skeptic": ACCEPT, "synthesizer": "The answer is 42.", "judge": "4"}
    script = {
        role: Reply(text, thought=thought, tags=FORMS[form], stubborn=True, logprobs=GRADE if role == "judge" else None)
        for role, text in texts.items()
    }
    return ScriptedRuntime({**script, **changed}, context=20_000)


def shown(log, role):
    """What a page that follows the events shows of a role at the end: its text and its thought."""
    text = thought = ""
    for event in log.events:
        if event.type in ("token", "thought", "revised") and event.data["role"] == role:
            if event.type == "revised":
                text, thought = event.data["text"], event.data["thought"]
            elif event.type == "token":
                text += event.data["text"]
            else:
                thought += event.data["text"]
    return text.strip(), thought.strip()


@pytest.mark.parametrize("form", FORMS)
async def test_thoughts_are_kept_apart_from_every_answer_of_a_debate(open_table, form):
    async with open_table(thinker(form)) as table:
        debate, log = await table.ask()
        trace = await table.traces.get(debate.trace_id)
        assert trace.final_answer == "The answer is 42."
        assert trace.synthesizer_thought == THOUGHT
        (round_,) = trace.rounds
        assert (round_.proposal, round_.proposer_thought) == ("It is 42.", THOUGHT)
        assert (round_.critique.verdict, round_.critique.malformed, round_.skeptic_thought) == (
            "accept",
            False,
            THOUGHT,
        )
        assert trace.auto_score == 8.0
        assert shown(log, "proposer") == ("It is 42.", THOUGHT)
        assert shown(log, "synthesizer") == ("The answer is 42.", THOUGHT)
        assert not any(THOUGHT in message.content for request in table.runtime.requests for message in request.messages)


async def test_a_thought_without_opening_tag_is_never_shown_as_an_answer_once_the_model_is_known(open_table):
    async with open_table(thinker("no opening tag")) as table:
        _, log = await table.ask()
        written = [data["text"] for data in of_type(log, "token") if data["role"] == "synthesizer"]
        assert "forty-two" not in "".join(written)
        assert any(data["role"] == "synthesizer" for data in of_type(log, "thought"))
        assert shown(log, "synthesizer") == ("The answer is 42.", THOUGHT)


async def test_a_model_that_is_known_to_think_without_opening_tag_may_answer_without_a_thought(open_table):
    async with open_table(thinker("no opening tag", synthesizer="The answer is 42.")) as table:
        debate, log = await table.ask()
        assert debate.final_answer == "The answer is 42."
        assert shown(log, "synthesizer") == ("The answer is 42.", "")


async def test_thoughts_are_not_found_as_answers_and_not_trained_on(open_table):
    async with open_table(thinker("tags")) as table:
        debate, _ = await table.ask()
        from tmde_core.finetune.dataset.selection import choose_answer
        from tmde_core.records.traces import TraceFilter

        assert (await table.traces.list(TraceFilter(q="forty"))).total == 0
        assert choose_answer(await table.traces.get(debate.trace_id)) == "The answer is 42."


async def test_the_skeptic_and_the_judge_are_asked_without_thinking(table):
    await table.ask()
    asked = {role: {one.thinking for one in table.runtime.of_role(role)} for role in DEFAULT_SCRIPT}
    assert asked == {"proposer": {None}, "skeptic": {False}, "synthesizer": {None}, "judge": {False}}


async def test_a_role_thinks_or_not_as_its_settings_say(open_table, tmp_path):
    settings = scripted_settings(tmp_path)
    roles = settings.roles
    roles = Roles(
        proposer=msgspec.structs.replace(roles.proposer, thinking=False),
        skeptic=msgspec.structs.replace(roles.skeptic, thinking=True),
        synthesizer=roles.synthesizer,
        judge=roles.judge,
    )
    async with open_table(settings=msgspec.structs.replace(settings, roles=roles)) as table:
        await table.ask()
        assert {one.thinking for one in table.runtime.of_role("proposer")} == {False}
        assert {one.thinking for one in table.runtime.of_role("skeptic")} == {True}


@pytest.mark.parametrize("form", FORMS)
async def test_a_thought_that_uses_up_the_limit_gets_tokens_of_its_own(open_table, form):
    async with open_table(thinker(form, LONG)) as table:
        debate, log = await table.ask(config=DebateConfig(judge="none"))
        assert debate.final_answer == "The answer is 42."
        limits = [request.max_tokens for request in table.runtime.of_role("proposer")]
        assert limits == [384, 384 + 4096]
        assert shown(log, "proposer") == ("It is 42.", LONG)
        again = len(table.runtime.of_role("proposer"))
        await table.ask(config=DebateConfig(judge="none"))
        assert len(table.runtime.of_role("proposer")) == again + 1  # the model's habit is remembered


async def test_without_room_for_a_thought_the_model_is_asked_without_thinking(open_table):
    runtime = ScriptedRuntime({**DEFAULT_SCRIPT, "proposer": Reply("It is 42.", thought=LONG)}, context=450)
    async with open_table(runtime) as table:
        debate, _ = await table.ask(config=DebateConfig(max_rounds=1, synthesis="never", judge="none", templates=0))
        assert debate.final_answer == "It is 42."
        assert [request.thinking for request in runtime.of_role("proposer")] == [None, False]


@pytest.mark.parametrize("form", FORMS)
async def test_a_model_that_only_thinks_fails_the_debate_in_a_sentence_that_says_what_to_do(open_table, form):
    endless = " ".join(["Hmm, wait."] * 6_000)
    async with open_table(thinker(form, endless)) as table:
        debate, log = await table.ask()
        if form == "no opening tag":
            # Nothing tells such a thought from an answer that the token limit cut.
            assert (await table.traces.get(debate.trace_id)).finish_reason == "length"
            return
        assert (debate.status, debate.trace_id) == ("failed", None)
        assert "used up all 4,480 tokens" in debate.error_message
        assert "roles.proposer.max_tokens (now 384)" in debate.error_message
        assert "roles.proposer.thinking = false" in debate.error_message
        assert of_type(log, "error")[0]["code"] == "only_thought"
        assert (await table.traces.stats()).total == 0


async def test_if_a_later_round_only_thinks_the_answer_before_it_stands(open_table):
    endless = Reply("late", thought=" ".join(["Hmm."] * 6_000), stubborn=True)
    script = {**DEFAULT_SCRIPT, "proposer": ["It is 42.", endless], "skeptic": REVISE}
    async with open_table(ScriptedRuntime(script, context=20_000)) as table:
        debate, log = await table.ask(config=DebateConfig(synthesis="never"))
        assert debate.final_answer == "It is 42."
        assert "Proposer" in of_type(log, "warning")[0]["detail"]


async def test_a_skeptic_that_only_thinks_does_not_end_the_debate(open_table):
    endless = Reply(ACCEPT, thought=" ".join(["Hmm."] * 6_000), stubborn=True)
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": endless}, context=20_000)) as table:
        debate, _ = await table.ask(config=DebateConfig(max_rounds=1))
        assert (debate.status, debate.rounds[0].critique.malformed) == ("completed", True)


def judge_of(reply):
    """The Judge's seat, at a model that answers with one reply."""
    runtime = ScriptedRuntime(lambda _: reply, context=20_000)
    return JudgeSession(RoleSession("judge", Roles().judge, runtime, TokenCounter())), runtime


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_rubric_judge_gets_its_verdict_from_a_thinking_model(form, stubborn):
    model, runtime = judge_of(Reply("4", thought=THOUGHT, tags=FORMS[form], stubborn=stubborn, logprobs=GRADE))
    from tmde_bench_default.judges.rubric import RubricJudge

    item = JudgeItem(question="What is 6 times 7?", answer="42")
    assert (await RubricJudge().score(item, model)).score == 8.0
    asked = len(runtime.requests)
    assert asked == (2 if stubborn else 1)
    assert (await RubricJudge().score(item, model)).score == 8.0
    assert len(runtime.requests) == asked + 1


async def test_a_judge_reads_the_verdict_though_the_first_token_is_only_a_part_of_a_tag():
    def reply(request):
        cut = request.max_tokens == 1
        return Reply("<th", finish_reason="length") if cut else Reply("<think>Hm.</think> 4", logprobs=None)

    runtime = ScriptedRuntime(reply, context=20_000)
    model = JudgeSession(RoleSession("judge", Roles().judge, runtime, TokenCounter()))
    items = [item async for item in model.chat((Message(role="user", content="Grade."),), max_tokens=1)]
    assert [item.text for item in items if isinstance(item, ChatDelta) and item.text] == ["4"]


async def test_a_judge_that_only_thinks_gives_no_verdict_and_says_why(open_table):
    endless = Reply("4", thought=" ".join(["Hmm."] * 6_000), stubborn=True, logprobs=GRADE)
    async with open_table(
        ScriptedRuntime({**DEFAULT_SCRIPT, "judge": endless}, context=20_000), Plugins.load()
    ) as table:
        debate, _ = await table.ask()
        trace = await table.traces.get(debate.trace_id)
        assert trace.auto_score is None
        assert "although it was asked not to think" in trace.score_reasons[0]


async def test_a_model_that_answers_plainly_is_asked_once(table):
    await table.ask()
    assert len(table.runtime.requests) == 6


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_cut_answer_is_remembered_and_not_trained_on_unless_a_person_says_so(open_table, reason):
    cut = Reply("Six times seven is", finish_reason=reason)
    script = {**DEFAULT_SCRIPT, "skeptic": ACCEPT, "proposer": cut, "synthesizer": cut}
    async with open_table(ScriptedRuntime(script)) as table:
        debate, log = await table.ask()
        trace = await table.traces.get(debate.trace_id)
        assert (trace.finish_reason, trace.rounds[0].proposer_finish_reason) == (reason, reason)
        assert debate.finish_reason == of_type(log, "complete")[0]["finishReason"] == reason
        whole, any_ = Eligibility(min_quality=8.0), Eligibility(min_quality=8.0, use_cut_answers=True)
        assert await table.traces.list_eligible(whole) == []
        assert [one.id for one in await table.traces.list_eligible(any_)] == [trace.id]
        stats = await table.traces.stats()
        assert (stats.eligible, stats.cut) == (0, 1)
        assert (await table.traces.count_ineligible("cut", 8.0, 10))[0] == 1
        await table.traces.rate(trace.id, 9)
        assert [one.id for one in await table.traces.list_eligible(whole)] == [trace.id]
        assert (await table.traces.stats()).cut == 0


async def test_a_filter_that_leaves_nothing_fails_the_debate_in_a_sentence(open_table):
    script = {**DEFAULT_SCRIPT, "proposer": Reply("", finish_reason="content_filter")}
    async with open_table(ScriptedRuntime(script)) as table:
        debate, _ = await table.ask()
        assert debate.status == "failed"
        assert "filter" in debate.error_message


async def test_a_stream_is_read_without_its_thought_wherever_a_plugin_asks():
    runtime = ScriptedRuntime(lambda _: Reply("42", thought=THOUGHT, tags=FORMS["tags"]))
    heard = await read_answer(runtime.chat(ChatRequest(model="", messages=(Message(role="user", content="6*7?"),))))
    assert (heard.text, heard.thought, heard.finish_reason) == ("42", THOUGHT, "stop")
    items = [item async for item in runtime.chat(ChatRequest(model="", messages=(), thinking=False))]
    assert "".join(item.text for item in items if isinstance(item, ChatDelta)) == "42"


async def test_the_error_of_a_thought_alone_names_the_limit():
    model, _ = judge_of(Reply("4", thought=" ".join(["Hmm."] * 6_000), stubborn=True))
    with pytest.raises(OnlyThoughtError) as raised:
        [item async for item in model.chat((Message(role="user", content="Grade."),), max_tokens=1)]
    assert raised.value.context["maxTokens"] == 4097
