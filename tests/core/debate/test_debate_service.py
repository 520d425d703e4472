"""Debates from question to trace, and everything that can come between."""

import asyncio
import os
import subprocess
import sys
from uuid import uuid4

import msgspec
import pytest

from tmde_core.debate.service import LOGS_KEPT, derive_trace_id
from tmde_core.debate.signs import hold_sign_of_life
from tmde_core.debate.store import DebateStore
from tmde_core.errors import (
    ConflictError,
    ContextOverflowError,
    InvalidInputError,
    NotFoundError,
    PluginUnavailableError,
    WorkerFailedError,
)
from tmde_core.plugins import Plugins
from tmde_core.prompts import role_of
from tmde_core.records.chat import AdapterRef
from tmde_core.records.debate import ChosenModel, ChosenModels, DebateConfig
from tmde_core.records.judging import Verdict
from tmde_core.records.runtimes import RuntimeCapabilities
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.testing import ACCEPT, DEFAULT_SCRIPT, REVISE, Reply, ScriptedRuntime, scripted_settings

ADAPTER = AdapterRef(id="8a8f7a46-8a5c-4a6f-9d0a-0d6f2f1c9b11", directory="adapters/8a8f")


def of_type(log, type_):
    """The data of a log's events of one type."""
    return [event.data for event in log.events if event.type == type_]


async def test_a_debate_goes_from_question_to_trace(table):
    debate, _log = await table.ask()
    assert debate.status == "completed"
    assert debate.final_answer == "Six times seven is 42."
    assert [round_.number for round_ in debate.rounds] == [1, 2]
    trace = await table.traces.get(debate.trace_id)
    assert trace.query == "What is 6 times 7?"
    assert trace.early_stopped
    assert trace.auto_score == 8.0
    assert trace.judge == "rubric"
    assert set(trace.models) == {"proposer", "skeptic", "synthesizer", "judge"}
    assert trace.models["proposer"].model == "scripted-1"
    assert trace.tokens.prompt > trace.tokens.cached > 0
    assert trace.timings.total_ms > 0


async def test_events_come_in_the_order_of_what_happens(table):
    _, log = await table.ask()
    order = [event.type for event in log.events if event.type != "token"]
    assert order == [
        "start", "retrieval",
        "round_start", "round_end", "round_start", "round_end", "early_stop",
        "synthesis_start", "synthesis", "scoring", "complete",
    ]  # fmt: skip


async def test_the_tokens_joined_are_the_answers(table):
    debate, log = await table.ask()
    for number, round_ in enumerate(debate.rounds, 1):
        for role, text in (("proposer", round_.proposal), ("skeptic", round_.critique_text)):
            pieces = [data["text"] for data in of_type(log, "token") if (data["role"], data["round"]) == (role, number)]
            assert "".join(pieces).strip() == text
            assert len(pieces) > 1


async def test_each_prompt_extends_the_prompt_and_answer_before_it(open_table):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": REVISE})) as table:
        debate, _ = await table.ask(config=DebateConfig(max_rounds=4))
        for role, answers in (
            ("proposer", [round_.proposal for round_ in debate.rounds]),
            ("skeptic", [round_.critique_text for round_ in debate.rounds]),
        ):
            prompts = [request.messages for request in table.runtime.of_role(role)]
            assert len(prompts) == 4
            for before, answer, after in zip(prompts, answers, prompts[1:], strict=False):
                assert after[: len(before)] == before
                assert after[len(before)].role == "assistant"
                assert after[len(before)].content == answer
                assert len(after) == len(before) + 2


async def test_no_early_stop_before_the_least_number_of_rounds(open_table):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": ACCEPT})) as table:
        debate, log = await table.ask(config=DebateConfig(min_rounds=2))
        assert len(debate.rounds) == 2
        assert of_type(log, "early_stop")[0]["round"] == 2


async def test_a_debate_that_stays_disputed_ends_after_the_most_rounds(open_table):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": REVISE})) as table:
        _debate, log = await table.ask(config=DebateConfig(max_rounds=2))
        complete = of_type(log, "complete")[0]
        assert (complete["rounds"], complete["earlyStopped"]) == (2, False)
        assert complete["stopReason"] == "Ended after 2 rounds, the most that are allowed."


async def test_a_skeptic_that_breaks_the_schema_does_not_break_the_debate(open_table):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": "I like it. Accept!"})) as table:
        debate, _ = await table.ask(config=DebateConfig(max_rounds=2))
        assert debate.status == "completed"
        assert [round_.critique.malformed for round_ in debate.rounds] == [True, True]
        assert debate.rounds[0].critique.issues[0].text == "I like it. Accept!"


@pytest.mark.parametrize(
    ("mode", "skeptic", "synthesized"),
    [
        ("always", ACCEPT, True),
        ("when-disputed", ACCEPT, False),
        ("when-disputed", REVISE, True),
        ("never", REVISE, False),
    ],
)
async def test_synthesis_modes(open_table, mode, skeptic, synthesized):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": skeptic})) as table:
        debate, log = await table.ask(config=DebateConfig(max_rounds=1, synthesis=mode))
        assert bool(table.runtime.of_role("synthesizer")) is synthesized
        said = of_type(log, "synthesis")[0]
        assert said["skipped"] is not synthesized
        assert debate.final_answer == said["text"]
        if not synthesized:
            assert debate.final_answer == debate.rounds[-1].proposal


async def test_an_empty_synthesis_falls_back_to_the_last_proposal(open_table):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "synthesizer": " "})) as table:
        debate, _ = await table.ask()
        assert debate.final_answer == debate.rounds[-1].proposal


async def test_a_model_with_nothing_to_say_fails_the_debate_in_a_sentence(open_table):
    async with open_table(ScriptedRuntime({"proposer": "", "skeptic": "", "synthesizer": ""})) as table:
        debate, _ = await table.ask()
        assert debate.status == "failed"
        assert debate.error_message is not None
        assert "empty answer" in debate.error_message


async def test_the_schema_is_sent_where_the_runtime_can_enforce_it(open_table):
    async with open_table() as table:
        await table.ask()
        assert all(request.json_schema for request in table.runtime.of_role("skeptic"))
        assert not any(request.json_schema for request in table.runtime.of_role("proposer"))
        table.runtime.capabilities = RuntimeCapabilities()
        table.runtime.requests.clear()
        await table.ask()
        assert not any(request.json_schema for request in table.runtime.requests)


async def test_roles_have_their_own_temperature_and_budget(table):
    await table.ask(config=DebateConfig(temperature=1.5, max_tokens=77))
    asked = {role_of(request): (request.temperature, request.max_tokens) for request in table.runtime.requests}
    assert asked == {"proposer": (1.5, 77), "skeptic": (0.3, 256), "synthesizer": (0.3, 77), "judge": (0.0, 1)}


async def test_seeds_repeat_with_the_debates_seed_and_differ_between_calls(table):
    async def seeds(seed):
        table.runtime.requests.clear()
        table.runtime._cursors.clear()
        await table.ask(config=DebateConfig(seed=seed))
        return [request.seed for request in table.runtime.requests]

    first, again, other = await seeds(7), await seeds(7), await seeds(8)
    assert first == again
    assert len(set(first)) == len(first)
    assert not set(first) & set(other)
    assert await seeds(None) == [None] * len(first)


# ------------------------------------------------------------------------------------------ adapters


async def test_only_the_proposer_uses_the_adapter(table):
    table.lora.ref = ADAPTER
    debate, log = await table.ask()
    used = {role_of(request): request.adapter for request in table.runtime.requests}
    assert used == {"proposer": ADAPTER, "skeptic": None, "synthesizer": None, "judge": None}
    assert of_type(log, "start")[0]["adapterId"] == ADAPTER.id
    assert (await table.traces.get(debate.trace_id)).adapter_id == debate.adapter_id == ADAPTER.id


async def test_the_adapter_is_pinned_for_the_whole_debate(open_table):
    gate = asyncio.Event()
    script = {**DEFAULT_SCRIPT, "skeptic": [Reply(REVISE, gate=gate), ACCEPT]}
    async with open_table(ScriptedRuntime(script)) as table:
        table.lora.ref = ADAPTER
        debate = await table.debates.start("Why?")
        table.lora.ref = None
        gate.set()
        await table.debates.wait(debate.id)
        assert [request.adapter for request in table.runtime.of_role("proposer")] == [ADAPTER, ADAPTER]


async def test_a_runtime_without_adapters_is_told_of_and_does_without(open_table):
    runtime = ScriptedRuntime(capabilities=RuntimeCapabilities(json_schema=True, logprobs=True))
    async with open_table(runtime) as table:
        table.lora.ref = ADAPTER
        debate, log = await table.ask()
        assert debate.status == "completed"
        assert "cannot serve adapters" in of_type(log, "warning")[0]["detail"]
        assert (await table.traces.get(debate.trace_id)).adapter_id is None


async def test_a_model_chosen_for_one_question_proposes_and_concludes_without_the_adapter(table):
    table.lora.ref = ADAPTER
    debate, log = await table.ask(config=DebateConfig(model=ChosenModel(model="scripted-1")))
    asked = {role_of(request): (request.model, request.adapter) for request in table.runtime.requests}
    assert asked == {
        "proposer": ("scripted-1", None), "skeptic": ("", None), "synthesizer": ("scripted-1", None), "judge": ("", None)
    }  # fmt: skip
    assert of_type(log, "start")[0]["models"]["proposer"] == {"runtime": "scripted", "model": "scripted-1"}
    assert debate.adapter_id is None
    usual, _ = await table.ask()
    assert usual.adapter_id == ADAPTER.id


async def test_each_role_may_have_a_model_of_its_own_for_one_question(table):
    table.lora.ref = ADAPTER
    here = ChosenModel(runtime="scripted", model="scripted-1")
    _, log = await table.ask(config=DebateConfig(models=ChosenModels(skeptic=here, judge=here)))
    asked = {role_of(request): request.model for request in table.runtime.requests}
    assert asked == {"proposer": "", "skeptic": "scripted-1", "synthesizer": "", "judge": "scripted-1"}
    assert of_type(log, "start")[0]["adapterId"] == ADAPTER.id, "the Proposer is as in the settings"
    _, log = await table.ask(config=DebateConfig(models=ChosenModels(proposer=here)))
    assert of_type(log, "start")[0]["adapterId"] is None


async def test_the_model_of_a_single_role_goes_before_the_one_for_proposing_and_concluding(table):
    both, own = ChosenModel(model="other"), ChosenModel(model="scripted-1")
    await table.ask(config=DebateConfig(model=both, models=ChosenModels(proposer=own, synthesizer=own)))
    assert {role_of(request): request.model for request in table.runtime.requests} == {
        "proposer": "scripted-1", "skeptic": "", "synthesizer": "scripted-1", "judge": ""
    }  # fmt: skip


@pytest.mark.parametrize("role", ["proposer", "skeptic", "synthesizer", "judge"])
async def test_an_unknown_runtime_of_any_role_is_told_before_the_debate(table, role):
    with pytest.raises(PluginUnavailableError, match="no-such"):
        await table.debates.start("Why?", DebateConfig(models=ChosenModels(**{role: ChosenModel(runtime="no-such")})))


async def test_a_follow_up_shows_the_models_the_earlier_question_and_answer(table):
    first, _ = await table.ask("What is 6 times 7?")
    await table.traces.rate(first.trace_id, 2, "It is 42.")
    second, _ = await table.ask("And twice that?", config=DebateConfig(follows=first.trace_id))
    shown = (
        "Earlier question: What is 6 times 7?\nEarlier answer: It is 42.\n\nNow answer this question: And twice that?"
    )
    for role in ("proposer", "skeptic", "synthesizer"):
        assert shown in table.runtime.of_role(role)[-1].messages[1].content
    trace = await table.traces.get(second.trace_id)
    assert (trace.query, trace.follows) == ("And twice that?", first.trace_id)
    third, _ = await table.ask("And half?", config=DebateConfig(follows=second.trace_id))
    assert [one.question for one in (await table.traces.get(third.trace_id)).earlier] == [
        "What is 6 times 7?",
        "And twice that?",
    ]


async def test_a_long_earlier_answer_is_cut_and_only_the_newest_questions_are_shown(table):
    last, _ = await table.ask("Question 0?")
    await table.traces.correct(last.trace_id, "word " * 5_000)
    for number in range(1, 7):
        last, _ = await table.ask(f"Question {number}?", config=DebateConfig(follows=last.trace_id))
    earlier = (await table.traces.get(last.trace_id)).earlier
    assert [one.question for one in earlier] == [f"Question {number}?" for number in range(2, 6)]
    follow_up, _ = await table.ask("Shorter?", config=DebateConfig(follows=(await table.traces.list()).items[-1].id))
    assert len((await table.traces.get(follow_up.trace_id)).earlier[0].answer) <= 2_001


async def test_what_does_not_exist_cannot_be_followed_up(table):
    with pytest.raises(NotFoundError):
        await table.debates.start("And?", DebateConfig(follows=uuid4()))


async def test_a_model_that_does_not_exist_is_told(table):
    with pytest.raises(PluginUnavailableError, match="no-such"):
        await table.debates.start("Why?", DebateConfig(model=ChosenModel(runtime="no-such")))
    debate, _ = await table.ask(config=DebateConfig(model=ChosenModel(model="other")))
    assert (debate.status, "no model called 'other'" in debate.error_message) == ("failed", True)


# ----------------------------------------------------------------------------- failing and cancelling


@pytest.mark.parametrize("role", ["proposer", "skeptic", "synthesizer"])
async def test_a_worker_that_dies_fails_the_debate_and_leaves_no_trace(open_table, role):
    broken = Reply("one two three", error=WorkerFailedError("The model server died."), error_after=2)
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, role: broken})) as table:
        debate, log = await table.ask()
        assert (debate.status, debate.error_message) == ("failed", "The model server died.")
        assert log.events[-1].data == {"code": "worker_failed", "detail": "The model server died."}
        assert await table.database.value("SELECT count(*) FROM traces") == 0


async def test_a_defect_is_reported_without_its_traceback(open_table):
    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "skeptic": RuntimeError("oops")})) as table:
        debate, log = await table.ask()
        assert debate.status == "failed"
        assert log.events[-1].data["code"] == "internal"
        assert "RuntimeError" in log.events[-1].data["detail"]


async def test_a_trace_that_cannot_be_stored_fails_the_debate(table, monkeypatch):
    async def full(trace):
        raise WorkerFailedError("The disk is full.")

    monkeypatch.setattr(table.traces, "add", full)
    debate, _ = await table.ask()
    assert (debate.status, debate.trace_id) == ("failed", None)


@pytest.mark.parametrize("role", ["proposer", "skeptic", "synthesizer", "judge"])
async def test_cancelling_stops_the_generation_and_leaves_no_trace(open_table, role):
    reached = asyncio.Event()
    never = asyncio.Event()

    def on_request(request):
        if role_of(request) == role:
            reached.set()

    runtime = ScriptedRuntime({**DEFAULT_SCRIPT, role: Reply("a b c", gate=never, gate_after=0)}, on_request=on_request)
    async with open_table(runtime) as table:
        debate = await table.debates.start("Why?")
        await reached.wait()
        cancelled = await asyncio.wait_for(table.debates.cancel(debate.id), 60)
        assert cancelled.status == "cancelled"
        assert runtime.closed == 1
        assert await table.database.value("SELECT count(*) FROM traces") == 0
        assert (await table.debates.events(debate.id)).events[-1].type == "cancelled"
        with pytest.raises(ConflictError):
            await table.debates.cancel(debate.id)


async def test_cancelling_right_after_the_start_works(open_table):
    async with open_table(ScriptedRuntime({"proposer": Reply("a", gate=asyncio.Event())})) as table:
        debate = await table.debates.start("Why?")
        assert (await table.debates.cancel(debate.id)).status == "cancelled"
        assert table.debates.running() == []


async def test_two_who_cancel_at_once_both_see_it_cancelled(open_table):
    async with open_table(ScriptedRuntime({"proposer": Reply("a", gate=asyncio.Event())})) as table:
        debate = await table.debates.start("Why?")
        ended = await asyncio.gather(*(table.debates.cancel(debate.id) for _ in range(3)))
        assert [one.status for one in ended] == ["cancelled"] * 3
        assert table.debates.running() == []
        assert (await table.debates.events(debate.id)).events[-1].type == "cancelled"


async def test_while_the_trace_is_being_written_it_is_too_late_to_cancel(table, monkeypatch):
    writing, go_on = asyncio.Event(), asyncio.Event()
    add = table.traces.add

    async def slow(trace):
        writing.set()
        await go_on.wait()
        await add(trace)

    monkeypatch.setattr(table.traces, "add", slow)
    debate = await table.debates.start("Why?")
    await writing.wait()
    cancelling = asyncio.create_task(table.debates.cancel(debate.id))
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(ConflictError):
        await cancelling
    ended = await table.debates.get(debate.id)
    assert ended.status == "completed"
    assert await table.traces.get(ended.trace_id)


async def test_stop_cancels_what_runs(open_table):
    async with open_table(ScriptedRuntime({"proposer": Reply("a", gate=asyncio.Event())})) as table:
        debates = [await table.debates.start(f"Why {number}?") for number in range(3)]
        assert len(table.debates.running()) == 3
        await table.debates.stop()
        assert [(await table.debates.get(debate.id)).status for debate in debates] == ["cancelled"] * 3


# --------------------------------------------------------------------------------------- watching


async def test_followers_see_a_running_debate_from_its_beginning(open_table):
    gate = asyncio.Event()
    script = {**DEFAULT_SCRIPT, "proposer": [Reply("one two three", gate=gate, gate_after=1), "done"]}
    async with open_table(ScriptedRuntime(script)) as table:
        debate = await table.debates.start("Why?")
        log = await table.debates.events(debate.id)
        async for event in log.follow():
            if event.type == "token":
                assert event.data["text"] == "one"
                break
        assert (await table.debates.get(debate.id)).status == "running"
        gate.set()
        types = [event.type async for event in log.follow()]
        assert types[0] == "start"
        assert types[-1] == "complete"


async def test_many_debates_run_at_once(table):
    table.runtime.script = {role: answers for role, answers in DEFAULT_SCRIPT.items() if role != "skeptic"} | {
        "skeptic": ACCEPT
    }
    debates = await asyncio.gather(*(table.debates.start(f"Question {number}?") for number in range(20)))
    ended = await asyncio.gather(*(table.debates.wait(debate.id) for debate in debates))
    assert {debate.status for debate in ended} == {"completed"}
    assert len({debate.trace_id for debate in ended}) == 20


async def test_the_newest_logs_stay_in_memory_and_older_ones_tell_how_it_ended(table):
    table.runtime.script = {**DEFAULT_SCRIPT, "skeptic": ACCEPT}
    first, _ = await table.ask()
    assert len((await table.debates.events(first.id)).events) > 5
    for number in range(LOGS_KEPT):
        await table.ask(f"Question {number}?")
    (event,) = (await table.debates.events(first.id)).events
    assert event.type == "complete"
    assert event.data["traceId"] == str(first.trace_id)


async def test_unknown_debates_are_not_found(table):
    for call in (table.debates.get, table.debates.events, table.debates.cancel, table.debates.wait):
        with pytest.raises(NotFoundError):
            await call(uuid4())


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("x" * 32_769, "32,769 bytes"),
        ("é" * 16_385, "32,770 bytes"),
        ("a\x00b", "U+0000"),
        ("\x89PNG\r\n\x1a\n", "U+0089"),
        ("\ud800", "U+D800"),
    ],
)
async def test_bad_questions_are_refused_in_one_sentence(table, query, says):
    with pytest.raises(InvalidInputError, match="question") as caught:
        await table.debates.start(query)
    assert says in caught.value.detail
    assert await table.database.value("SELECT count(*) FROM debates") == 0


async def test_a_question_of_exactly_the_limit_is_accepted(open_table):
    async with open_table(ScriptedRuntime({"proposer": Reply("a", gate=asyncio.Event())})) as table:
        assert (await table.debates.start("x" * 32_768)).status == "running"


async def test_contradicting_rounds_are_refused(table):
    with pytest.raises(InvalidInputError, match="minRounds is 5 and maxRounds 2"):
        await table.debates.start("Why?", DebateConfig(min_rounds=5, max_rounds=2))


async def test_a_check_without_a_reference_is_refused(table):
    with pytest.raises(InvalidInputError, match="no reference"):
        await table.debates.start("Why?", DebateConfig(check="number"))


async def test_an_unknown_judge_is_refused_before_anything_starts(table):
    with pytest.raises(InvalidInputError, match="no judge called 'nobody'"):
        await table.debates.start("Why?", DebateConfig(judge="nobody"))
    assert table.debates.running() == []


async def test_an_unknown_runtime_is_refused_before_anything_starts(open_table, tmp_path):
    async with open_table(settings=scripted_settings(tmp_path, runtime="nowhere")) as table:
        with pytest.raises(PluginUnavailableError, match="no model runtime called 'nowhere'"):
            await table.debates.start("Why?")
        assert await table.database.value("SELECT count(*) FROM debates") == 0


async def test_an_unknown_model_fails_the_debate_in_a_sentence(open_table, tmp_path):
    settings = scripted_settings(tmp_path)
    roles = msgspec.structs.replace(
        settings.roles, proposer=msgspec.structs.replace(settings.roles.proposer, model="gpt-9")
    )
    async with open_table(settings=msgspec.structs.replace(settings, roles=roles)) as table:
        debate, log = await table.ask()
        assert debate.status == "failed"
        assert "'gpt-9'" in log.events[-1].data["detail"]


# ------------------------------------------------------------------------------------------ context


async def test_a_question_that_cannot_fit_fails_with_the_figures(open_table):
    async with open_table(ScriptedRuntime(context=200)) as table:
        debate, log = await table.ask("word " * 300)
        assert debate.status == "failed"
        assert log.events[-1].data["code"] == "context_overflow"
        assert "200" in log.events[-1].data["detail"]
        assert table.runtime.requests == []


async def test_many_long_rounds_fit_a_small_context(open_table):
    long = " ".join(f"word{index}." for index in range(60))
    script = {**DEFAULT_SCRIPT, "proposer": long, "skeptic": REVISE, "synthesizer": long}
    async with open_table(ScriptedRuntime(script, context=420)) as table:
        debate, _ = await table.ask(config=DebateConfig(max_rounds=10, max_tokens=100))
        assert debate.status == "completed", debate.error_message
        assert len(debate.rounds) == 10


async def test_a_refused_prompt_is_tried_once_more_with_less(open_table):
    refusals = iter([ContextOverflowError("Too long.", limit=400)])
    long = " ".join(f"word{index}" for index in range(90))

    def proposer(request):
        if len(request.messages) > 4 and (refusal := next(refusals, None)):
            return refusal
        return long

    async with open_table(ScriptedRuntime({**DEFAULT_SCRIPT, "proposer": proposer, "skeptic": REVISE})) as table:
        debate, _ = await table.ask(config=DebateConfig(max_rounds=3, max_tokens=100))
        assert debate.status == "completed"
        sizes = [
            sum(len(message.content.split()) for message in request.messages)
            for request in table.runtime.of_role("proposer")
        ]
        assert len(sizes) == 4
        assert sizes[3] < sizes[2]


async def test_a_prompt_that_is_refused_twice_fails_the_debate(open_table):
    async with open_table(ScriptedRuntime({"proposer": ContextOverflowError("Too long.", limit=4096)})) as table:
        debate, log = await table.ask()
        assert debate.status == "failed"
        assert log.events[-1].data == {"code": "context_overflow", "detail": "Too long."}
        assert len(table.runtime.requests) == 2


async def test_templates_that_do_not_fit_are_left_out_and_said_so(open_table):
    async with open_table(ScriptedRuntime(context=500)) as table:
        debate, log = await table.ask("Prove by contradiction that no such theorem exists. " + "word " * 50)
        assert debate.status == "completed"
        assert "left out" in of_type(log, "warning")[0]["detail"]
        assert debate.templates_used == ()


async def test_templates_are_shown_to_the_proposer_and_recorded(table):
    debate, log = await table.ask("Prove that the square root of 2 is irrational.")
    assert debate.templates_used == ("Proof by contradiction",)
    assert of_type(log, "retrieval")[0]["templates"][0]["methodology"] == "contradiction"
    assert "Assume the opposite" in table.runtime.of_role("proposer")[0].messages[1].content
    assert (await table.traces.get(debate.trace_id)).domain == "mathematics"


# ------------------------------------------------------------------------------------------ scoring


async def test_a_reference_is_checked_by_the_verifier(table):
    debate, log = await table.ask(config=DebateConfig(reference="42", check="number"))
    assert of_type(log, "scoring")[0]["judge"] == "verifier"
    assert (await table.traces.get(debate.trace_id)).auto_score == 10.0
    assert not table.runtime.of_role("judge")


async def test_no_judge_is_no_verdict(table):
    _debate, log = await table.ask(config=DebateConfig(judge="none"))
    assert of_type(log, "complete")[0]["score"] is None
    assert "judge" not in of_type(log, "start")[0]["models"]


class RaisingJudge:
    async def score(self, item, model):
        raise ZeroDivisionError("by zero")


class WildJudge:
    async def score(self, item, model):
        return Verdict(score=float("nan"))


def unmakeable():
    raise LookupError("no voice")


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        (RaisingJudge, "ZeroDivisionError"),
        (WildJudge, "not between 0 and 10"),
        (unmakeable, "The judge 'mine' cannot be created: its plugin raised LookupError: no voice."),
        (lambda: None, "The judge 'mine' cannot be created: its plugin returned nothing."),
    ],
)
async def test_a_judge_that_fails_costs_no_debate_and_gives_no_score(open_table, judge, says):
    plugins = Plugins()
    plugins.judges.add(JudgeDescriptor(name="mine", summary="", create=lambda _context: judge()), "test")
    async with open_table(plugins=plugins) as table:
        debate, log = await table.ask(config=DebateConfig(judge="mine"))
        assert debate.status == "completed"
        scoring = of_type(log, "scoring")[0]
        assert scoring["score"] is None
        assert says in scoring["reasons"][0]


async def test_a_judges_worker_that_dies_gives_no_verdict(open_table):
    script = {**DEFAULT_SCRIPT, "judge": Reply(error=WorkerFailedError("The judge's server died."))}
    async with open_table(ScriptedRuntime(script)) as table:
        debate, log = await table.ask()
        assert debate.status == "completed"
        assert "The judge's server died." in of_type(log, "scoring")[0]["reasons"][0]


# --------------------------------------------------------------------------------- after a crash


async def test_what_a_dead_process_left_running_is_interrupted(table):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    debate = (await left_running(table, dead.pid)).id
    await table.debates.settle()
    assert (await table.debates.get(debate)).status == "interrupted"
    (event,) = (await table.debates.events(debate)).events
    assert event.data["code"] == "interrupted"


async def test_a_living_process_keeps_its_debates(table):
    debate = await left_running(table, os.getppid())
    await table.debates.settle()
    assert (await table.debates.get(debate.id)).status == "running"
    with pytest.raises(ConflictError, match="another TMDE process"):
        await table.debates.cancel(debate.id)
    with pytest.raises(ConflictError, match="another TMDE process"):
        await table.debates.events(debate.id)


async def test_a_process_in_another_container_keeps_its_debates(table):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    debate = await left_running(table, dead.pid)  # this process id means nothing here
    data_dir = table.settings.data_path
    sign = hold_sign_of_life(data_dir, debate.id)
    await table.debates.settle()
    assert (await table.debates.get(debate.id)).status == "running"
    sign.release()
    await table.debates.settle()
    assert (await table.debates.get(debate.id)).status == "interrupted"
    assert not list((data_dir / "debates").iterdir())


async def test_a_debate_leaves_no_file_behind(table):
    debate, _ = await table.ask()
    assert debate.status == "completed"
    assert not list((table.settings.data_path / "debates").iterdir())


async def test_a_process_that_is_younger_than_the_debate_does_not_own_it(table):
    debate = await left_running(table, os.getppid(), created_at="2001-01-01T00:00:00.000Z")
    await table.debates.settle()
    assert (await table.debates.get(debate.id)).status == "interrupted"


async def test_settling_leaves_the_debates_that_run_here_alone(open_table):
    async with open_table(ScriptedRuntime({"proposer": Reply("a", gate=asyncio.Event())})) as table:
        debate = await table.debates.start("Why?")
        await table.debates.settle()
        assert (await table.debates.get(debate.id)).status == "running"


async def test_a_crash_between_trace_and_row_is_settled_as_completed(table):
    debate, _ = await table.ask()
    await table.database.write("UPDATE debates SET status = 'running', trace_id = NULL WHERE id = ?", (str(debate.id),))
    await table.debates.settle()
    settled = await table.debates.get(debate.id)
    assert (settled.status, settled.trace_id) == ("completed", derive_trace_id(debate.id))
    assert settled.final_answer == debate.final_answer


async def left_running(table, pid, created_at=None):
    """A row as a process with that pid would have written it."""
    debate, _ = await table.ask(config=DebateConfig(judge="none"))
    other = msgspec.structs.replace(debate, id=uuid4(), status="running", trace_id=None)
    await DebateStore(table.database).add(other, pid)
    if created_at:
        await table.database.write("UPDATE debates SET created_at = ? WHERE id = ?", (created_at, str(other.id)))
    return other
