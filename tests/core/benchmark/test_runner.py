"""Runs: asked, scored, counted, cut off and taken up again."""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.conftest import REPOSITORY
from tests.core.benchmark.conftest import QUESTIONS, benchmark_plugins, question
from tmde_core.benchmark.questions.bank import QuestionBank
from tmde_core.benchmark.running.calibration import Rated
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, WorkerFailedError
from tmde_core.records.benchmark import BenchmarkPlan
from tmde_core.records.chat import Message
from tmde_core.records.judging import Criterion, JudgeItem, RegexCheck, Verdict
from tmde_core.records.questions import JudgeAnchor, Question
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.services import open_services
from tmde_core.testing.scripted import Reply

ALONE = BenchmarkPlan(type="full", mode="proposer", repeats=1)


async def finished(services, plan=ALONE):
    run = await services.benchmark.start(plan)
    return await services.benchmark.wait(run.id)


async def test_a_run_asks_every_question_and_measures_what_was_right(services):
    run = await finished(services)
    assert (run.status, run.completed_answers, run.answer_count) == ("completed", 12, 12)
    assert run.metrics.avg_quality_score == pytest.approx(10 / 3)
    assert run.metrics.intervals.quality.low < 10 / 3 < run.metrics.intervals.quality.high
    assert (run.metrics.unscored, run.metrics.failed, run.metrics.conclusive) == (0, 0, True)
    assert run.metrics.early_termination_rate is None


async def test_a_quick_run_asks_the_ten_of_the_suite_once(services):
    run = await finished(services, BenchmarkPlan(type="quick", mode="proposer"))
    results, total = await services.benchmark.results(run.id)
    assert total == 10
    assert {result.question_id for result in results} == {one.id for one in QUESTIONS[:10]}


async def test_a_debate_run_counts_rounds_and_leaves_nothing_to_train_on(services, runtime):
    runtime.script = {
        "proposer": "That is right.",
        "skeptic": '{"issues": [], "score": 9, "verdict": "accept"}',
        "synthesizer": "That is right.",
    }
    run = await finished(services, BenchmarkPlan(type="quick"))
    assert run.metrics.avg_quality_score == 10
    assert run.metrics.avg_debate_rounds == 1
    assert run.metrics.early_termination_rate == 1
    assert (await services.traces.stats()).total == 0
    assert (await services.benchmark.trace(run.id, "q00"))["finalAnswer"] == "That is right."


async def test_an_answer_that_is_only_a_thought_fails_with_the_reason_and_is_never_scored(services, runtime):
    endless = Reply("late", thought="That is right. " * 6_000, stubborn=True)
    runtime.script = lambda request: endless if "number 3?" in request.messages[-1].content else "That is right."
    run = await finished(services)
    results, _ = await services.benchmark.results(run.id)
    (failed,) = [one for one in results if one.status == "failed"]
    assert (failed.quality_score, failed.final_answer, failed.tries) == (None, "", 1)
    assert "so there is no answer" in failed.error
    assert run.metrics.failed == 1


async def test_a_run_stores_thinking_only_where_it_is_set_so_that_older_runs_compare(services):
    run = await finished(services)
    assert all("thinking" not in role for role in run.settings["roles"].values())


async def test_a_result_tells_why_its_answer_ended(services, runtime):
    runtime.script = lambda _: Reply("That is right.", finish_reason="length")
    run = await finished(services)
    results, _ = await services.benchmark.results(run.id)
    assert {one.finish_reason for one in results} == {"length"}


async def test_every_model_call_of_a_run_gives_way_to_debates(services, runtime):
    await finished(services, BenchmarkPlan(type="quick"))
    assert runtime.requests
    assert all(request.background for request in runtime.requests)


async def test_repeats_have_seeds_of_their_own_that_are_the_same_in_every_run(services, runtime):
    plan = BenchmarkPlan(type="quick", mode="proposer", repeats=2)
    await finished(services, plan)
    first = sorted(request.seed for request in runtime.requests)
    runtime.requests.clear()
    await finished(services, plan)
    assert len(set(first)) == 20
    assert sorted(request.seed for request in runtime.requests) == first


async def test_one_run_at_a_time(services, runtime):
    gate = asyncio.Event()
    runtime.script = lambda _: Reply("That is right.", gate=gate)
    run = await services.benchmark.start(ALONE)
    with pytest.raises(ConflictError, match="is running"):
        await services.benchmark.start(ALONE)
    with pytest.raises(ConflictError, match="Cancel it first"):
        await services.benchmark.delete(run.id)
    gate.set()
    assert (await services.benchmark.wait(run.id)).status == "completed"


async def test_a_cancelled_run_keeps_its_answers_and_goes_on_with_the_others(services, runtime):
    gate, seen = asyncio.Event(), asyncio.Event()

    def answer(request):
        held = "number 11?" in request.messages[-1].content
        if held:
            seen.set()
        return Reply("That is right.", gate=gate if held else None)

    runtime.script = answer
    run = await services.benchmark.start(ALONE)
    await seen.wait()
    cancelled = await services.benchmark.cancel(run.id)
    assert cancelled.status == "cancelled"
    assert 0 < cancelled.completed_answers < 12
    asked = len(runtime.requests)
    gate.set()
    await services.benchmark.resume(run.id)
    ended = await services.benchmark.wait(run.id)
    assert (ended.status, ended.completed_answers) == ("completed", 12)
    assert len(runtime.requests) - asked == 12 - cancelled.completed_answers
    with pytest.raises(ConflictError, match="cannot be resumed: it is completed"):
        await services.benchmark.resume(run.id)


async def test_two_who_cancel_at_once_leave_room_for_the_next_run(services, runtime):
    runtime.script = lambda _: Reply("That is right.", gate=asyncio.Event())
    run = await services.benchmark.start(ALONE)
    ended = await asyncio.gather(*(services.benchmark.cancel(run.id) for _ in range(3)))
    assert [one.status for one in ended] == ["cancelled"] * 3
    runtime.script = lambda _: "That is right."
    assert (await finished(services)).status == "completed"


async def test_a_run_whose_end_is_being_stored_cannot_be_cancelled_any_more(services, monkeypatch):
    storing, go_on = asyncio.Event(), asyncio.Event()
    update = services.stores.benchmark.update

    async def slow(run):
        if run.status == "completed":
            storing.set()
            await go_on.wait()
        await update(run)

    monkeypatch.setattr(services.stores.benchmark, "update", slow)
    run = await services.benchmark.start(ALONE)
    await storing.wait()
    cancelling = asyncio.create_task(services.benchmark.cancel(run.id))
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(ConflictError, match="it is completed"):
        await cancelling
    assert (await finished(services)).status == "completed"


async def test_a_run_is_not_resumed_when_the_rest_would_be_asked_otherwise(opened, runtime):
    gate, seen = asyncio.Event(), asyncio.Event()

    def answer(request):
        seen.set()
        return Reply("That is right.", gate=gate)

    runtime.script = answer
    async with opened() as services:
        run = await services.benchmark.start(ALONE)
        await seen.wait()
        await services.benchmark.cancel(run.id)
        used = services.settings
    gate.set()
    proposer = msgspec.structs.replace(used.roles.proposer, max_tokens=used.roles.proposer.max_tokens + 1)
    changed = msgspec.structs.replace(used, roles=msgspec.structs.replace(used.roles, proposer=proposer))
    async with open_services(changed, benchmark_plugins(runtime)) as services:
        with pytest.raises(ConflictError, match=r"\[roles\] have changed"):
            await services.benchmark.resume(run.id)
        assert (await services.benchmark.get(run.id)).status == "cancelled"


async def test_a_model_that_a_role_gets_meanwhile_answers_no_question_of_a_running_benchmark(services, runtime):
    first, changed = asyncio.Event(), asyncio.Event()
    verdict = '{"issues": [], "score": 9, "verdict": "accept"}'

    def answer(request):
        first.set()
        return Reply(verdict if request.json_schema else "That is right.", gate=changed)

    runtime.script = answer
    run = await services.benchmark.start(BenchmarkPlan(type="quick"))
    await first.wait()
    before = {request.model for request in runtime.requests}
    await services.live.change({"roles": {"proposer": {"model": "scripted-2"}, "skeptic": {"model": "scripted-2"}}})
    changed.set()
    assert (await services.benchmark.wait(run.id)).status == "completed"
    assert {request.model for request in runtime.requests} == before


async def test_a_run_that_was_cut_off_is_taken_up_by_the_next_server(opened, runtime):
    gate, seen = asyncio.Event(), asyncio.Event()

    def answer(request):
        held = "number 11?" in request.messages[-1].content
        if held:
            seen.set()
        return Reply("That is right.", gate=gate if held else None)

    runtime.script = answer
    async with opened(serving=True) as services:
        run = await services.benchmark.start(ALONE)
        await seen.wait()
    gate.set()
    async with opened() as services:
        assert (await services.benchmark.get(run.id)).status == "interrupted"
    async with opened(serving=True) as services:
        assert (await services.benchmark.wait(run.id)).status == "completed"


async def test_a_question_that_fails_is_asked_three_times_and_the_run_goes_on(services, runtime):
    def answer(request):
        if "number 3?" in request.messages[-1].content:
            return WorkerFailedError("The server stumbled.")
        return "That is right."

    runtime.script = answer
    run = await finished(services)
    (result,) = await services.benchmark.result(run.id, "q03")
    assert (result.status, result.tries, result.error) == ("failed", 3, "The server stumbled.")
    assert (run.status, run.metrics.failed) == ("completed", 1)
    assert run.metrics.avg_quality_score == 10


async def test_a_defect_on_one_question_fails_that_question_and_the_run_goes_on(services, runtime):
    runtime.script = lambda request: (
        KeyError("a defect") if "number 3?" in request.messages[-1].content else "That is right. \ud83d"
    )
    run = await finished(services)
    assert (run.status, run.completed_answers, run.metrics.failed) == ("completed", 12, 1)
    (result,) = await services.benchmark.result(run.id, "q03")
    assert (result.status, result.tries) == ("failed", 3)
    assert result.error == "An unexpected KeyError; the log has it."
    (result,) = await services.benchmark.result(run.id, "q04")
    assert (result.final_answer, result.quality_score) == ("That is right. ?", 10)


async def test_a_model_that_is_gone_ends_the_run_which_can_be_resumed(services, runtime, model):
    runtime.script = lambda _: WorkerFailedError("The server is gone.")
    run = await finished(services)
    assert run.status == "failed"
    assert "4 questions in a row" in run.error_message
    assert "The server is gone." in run.error_message
    runtime.script = model
    await services.benchmark.resume(run.id)
    assert (await services.benchmark.wait(run.id)).status == "completed"


async def test_no_verdict_is_counted_and_never_zero(services, monkeypatch):
    asked = (*QUESTIONS[:8], *(question(20 + n, open_weight=3.0) for n in range(4)))
    monkeypatch.setattr("tests.core.benchmark.conftest.QUESTIONS", asked)
    run = await finished(services)
    assert (run.metrics.unscored, run.metrics.conclusive) == (4, False)
    assert run.metrics.intervals.quality.n == 8
    assert any("no verdict" in warning for warning in run.warnings)


async def test_what_the_judge_cannot_tell_stays_open_where_the_machine_told_most(services, monkeypatch):
    monkeypatch.setattr("tests.core.benchmark.conftest.QUESTIONS", (question(0, open_weight=0.5), *QUESTIONS[1:]))
    run = await finished(services)
    (result,) = await services.benchmark.result(run.id, "q00")
    assert result.criteria == {"right": 10.0, "style": None}
    assert result.quality_score == 10.0


async def test_the_events_count_up_and_end(services):
    run = await services.benchmark.start(ALONE)
    events = [event async for event in (await services.benchmark.events(run.id)).follow()]
    progress = [event.data for event in events if event.type == "progress"]
    assert [one["done"] for one in progress] == list(range(1, 13))
    assert events[0].type == "start"
    assert events[-1].type == "complete"
    assert progress[-1]["etaSeconds"] == 0


async def test_an_adapter_is_measured_without_being_activated(services, adapter):
    identity = adapter(lambda _: True)
    run = await finished(services, BenchmarkPlan(type="quick", mode="proposer", adapter_id=identity))
    assert run.adapter_id == identity
    assert run.metrics.avg_quality_score == 10
    assert await services.lora.get_active() is None


async def test_where_the_proposers_runtime_serves_no_adapters_the_base_model_is_measured(services, adapter):
    identity = adapter(lambda _: True)
    await services.lora.activate(identity)
    runtime = services.runtimes.made("scripted")
    runtime.capabilities = msgspec.structs.replace(runtime.capabilities, adapters=False)
    with pytest.raises(ConflictError, match=r"'scripted' cannot serve adapters, so the adapter .* cannot be measured"):
        await services.benchmark.start(BenchmarkPlan(type="quick", mode="proposer", adapter_id=identity))
    run = await finished(services, BenchmarkPlan(type="quick", mode="proposer"))
    assert run.adapter_id is None
    active = await services.lora.get_active()
    assert (active.id, active.is_active, active.is_valid, active.is_answering) == (identity, True, True, False)
    assert "cannot serve adapters" in services.workspace.find_why_idle()


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (BenchmarkPlan(type="custom"), InvalidInputError, "at least one question"),
        (BenchmarkPlan(type="custom", question_ids=("nope",)), InvalidInputError, "'nope'"),
        (BenchmarkPlan(type="quick", question_ids=("q01",)), InvalidInputError, "`custom`"),
        (BenchmarkPlan(suite="nope"), NotFoundError, "there are: dozen"),
        (BenchmarkPlan(adapter_id=uuid4()), NotFoundError, "no adapter"),
        (BenchmarkPlan(adapter_id=uuid4(), base=True), InvalidInputError, "not both"),
    ],
)
async def test_a_plan_that_cannot_be_run_is_refused_and_leaves_the_way_free(services, plan, error, words):
    with pytest.raises(error, match=words):
        await services.benchmark.start(plan)
    assert (await finished(services)).status == "completed"


async def test_one_asks_only_the_questions_one_chose_one_s_own_among_them(services):
    own = question(99)
    await services.questions.add(own)
    run = await finished(
        services, BenchmarkPlan(type="custom", mode="proposer", question_ids=("q02", "q99"), repeats=1)
    )
    results, _ = await services.benchmark.results(run.id)
    assert [result.question_id for result in results] == ["q02", "q99"]
    await services.questions.remove("q99")
    assert (await services.benchmark.get(run.id)).answer_count == 2


async def test_a_built_in_question_stays_and_an_equal_one_is_refused(services):
    with pytest.raises(ConflictError, match="built in"):
        await services.questions.remove("q01")
    with pytest.raises(NotFoundError):
        await services.questions.remove("nope")
    twin = question(1)
    with pytest.raises(ConflictError, match="id 'q01'"):
        await services.questions.add(twin)
    same = type(twin)(id="other", query=" question NUMBER 1 ", criteria=(Criterion("a", check=RegexCheck("a")),))
    with pytest.raises(ConflictError, match="asks the same"):
        await services.questions.add(same)


async def test_a_question_is_changed_in_one_step_and_keeps_its_place(services, monkeypatch):
    bank = services.questions
    for number in (98, 99):
        await bank.add(question(number))
    writes = []
    write = services.questions._db.write

    async def watched(statement, values=()):
        writes.append(statement)
        return await write(statement, values)

    monkeypatch.setattr(bank._db, "write", watched)
    changed = msgspec.structs.replace(question(98), query="How else?")
    assert (await services.benchmark.replace_question(changed)).question == changed.query
    assert [one.query for one in await bank.list_own()] == ["How else?", "Question number 99?"]
    assert len(writes) == 1  # whoever dies in the middle leaves the one or the other
    await bank.replace(changed)  # a question does not clash with itself
    for other, error, words in (
        (question(1), ConflictError, "built in and cannot be changed"),
        (question(97), NotFoundError, "no question called 'q97'"),
        (msgspec.structs.replace(changed, query="Question number 99?"), ConflictError, "'q99' asks the same"),
    ):
        with pytest.raises(error, match=words):
            await bank.replace(other)
    assert [one.id for one in await bank.list_own()] == ["q98", "q99"]


class StyleJudge:
    """Gives what the Judge's model says: a figure of 0–10."""

    async def score(self, item, model) -> Verdict:
        said = [
            part.text
            async for part in model.chat((Message("user", "Grade it."),), max_tokens=4)
            if hasattr(part, "text")
        ]
        score = float("".join(said))
        return Verdict(score=score, criteria={one.name: score for one in item.criteria if one.check is None}, judge="rubric")  # fmt: skip


@pytest.fixture
def judged(services, runtime, model):
    """Gives the services a judge whose model says 8, or is away while `judged.away` is set."""

    class Judged:
        away = False

        def answer(self, request):
            if request.messages[-1].content != "Grade it.":
                return model(request)
            return WorkerFailedError("Nobody answers at port 9.") if self.away else "8"

    found = Judged()
    runtime.script = found.answer
    services.plugins.judges.add(
        JudgeDescriptor(
            name="rubric", summary="style", create=lambda _context: StyleJudge(), needs_model=True, default=True
        ),
        "tests",
    )
    return found


async def test_a_judge_that_dies_where_only_it_can_tell_stops_the_run_which_says_so_and_resumes(
    services, monkeypatch, judged
):
    asked = tuple(question(number, open_weight=3.0) for number in range(6))
    monkeypatch.setattr("tests.core.benchmark.conftest.QUESTIONS", asked)
    judged.away = True
    run = await finished(services)
    assert run.status == "failed"
    assert "The judge could not be asked about 4 answers in a row: Nobody answers at port 9." in run.error_message
    judged.away = False
    await services.benchmark.resume(run.id)
    ended = await services.benchmark.wait(run.id)
    assert (ended.status, ended.completed_answers, ended.metrics.unscored) == ("completed", 6, 0)


async def test_a_judge_that_is_away_where_checks_decide_leaves_a_run_that_says_so(services, monkeypatch, judged):
    asked = tuple(question(number, open_weight=0.5) for number in range(6))
    monkeypatch.setattr("tests.core.benchmark.conftest.QUESTIONS", asked)
    judged.away = True
    run = await finished(services)
    assert (run.status, run.metrics.conclusive) == ("completed", True)
    assert run.metrics.avg_quality_score == pytest.approx(10 / 3)
    told = "The judge could not be asked about 6 of 6 answers (Nobody answers at port 9.)"
    assert any(warning.startswith(told) for warning in run.warnings)


async def test_calibrating_with_a_judge_that_is_away_says_why(services, judged):
    judged.away = True
    with pytest.raises(WorkerFailedError, match="port 9"):
        await services.benchmark.calibrate([Rated("Why?", "Because.", 5.0)], "rubric")


async def test_a_judge_that_moved_is_noticed_by_the_frozen_answers(services, monkeypatch, judged):
    frozen = tuple(
        JudgeAnchor(JudgeItem(question=f"{n}?", answer="So.", rubric="Is it so?"), grade=8) for n in range(3)
    )
    monkeypatch.setattr(
        QuestionBank,
        "anchors",
        lambda _: [(f"a{n}", Question(id=f"a{n}", query=one.item.question, rubric="Is it so?"), one.item.answer)
                   for n, one in enumerate(frozen)],
    )  # fmt: skip
    before = await finished(services)
    assert (before.metrics.judge_drift, before.warnings) == (0.0, ())
    monkeypatch.setattr(
        type(judged), "answer", lambda self, request: "3" if "Grade" in request.messages[-1].content else "x"
    )
    services.runtimes.made("scripted").script = judged.answer
    after = await finished(services)
    assert after.metrics.judge_drift == 5.0
    assert any("The judge has moved" in warning for warning in after.warnings)


@pytest.mark.parametrize("mode", ["proposer", "debate"])
async def test_a_model_that_says_nothing_at_all_gets_nothing_for_it(services, runtime, mode):
    def answer(request):
        silent = any("number 3?" in message.content for message in request.messages)
        return "" if silent else "That is right."

    runtime.script = answer
    run = await finished(services, BenchmarkPlan(type="full", mode=mode, repeats=1))
    (result,) = await services.benchmark.result(run.id, "q03")
    assert (result.status, result.quality_score, result.tries) == ("scored", 0.0, 3)
    assert result.reasons == ("The model gave an empty answer.",)
    assert (run.metrics.failed, run.metrics.unscored) == (0, 0)


CUT_OFF = """
import asyncio, sys
from pathlib import Path
from tests.core.benchmark.conftest import benchmark_plugins
from tmde_core.records.benchmark import BenchmarkPlan
from tmde_core.services import open_services
from tmde_core.testing.scripted import Reply, ScriptedRuntime, scripted_settings

def answer(request):
    number = int(request.messages[-1].content.split("number ")[1].split("?")[0])
    return "That is right." if number < 7 else Reply("late", gate=asyncio.Event())

async def main():
    plugins = benchmark_plugins(ScriptedRuntime(answer))
    async with open_services(scripted_settings(Path(sys.argv[1])), plugins, serving=True) as services:
        run = await services.benchmark.start(BenchmarkPlan(type="full", mode="proposer", repeats=1))
        async for event in (await services.benchmark.events(run.id)).follow():
            if event.type == "progress" and event.data["done"] == 7:
                print(run.id, flush=True)

asyncio.run(main())
"""


async def test_a_run_whose_process_was_killed_goes_on_with_the_unanswered_questions_only(opened, runtime, data_dir):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CUT_OFF, str(data_dir), stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    identity = UUID((await process.stdout.readline()).decode().strip())
    process.kill()
    await process.wait()
    runtime.script = lambda _: "That is right."
    async with opened(serving=True) as services:
        ended = await services.benchmark.wait(identity)
        assert (ended.status, ended.completed_answers, ended.metrics.avg_quality_score) == ("completed", 12, 10.0)
    asked = sorted(int(request.messages[-1].content.split("number ")[1].rstrip("?")) for request in runtime.requests)
    assert asked == [7, 8, 9, 10, 11]


async def test_a_run_warns_when_the_judge_is_the_proposers_own_model(services, data_dir, runtime, monkeypatch):
    assert (await finished(services)).warnings == ()  # checks decide everything
    monkeypatch.setattr("tests.core.benchmark.conftest.QUESTIONS", (question(0, open_weight=0.5), *QUESTIONS[1:]))
    rubric = JudgeDescriptor(
        name="rubric", summary="style", create=lambda _context: StyleJudge(), needs_model=True, default=True
    )
    services.plugins.judges.add(rubric, "tests")
    run = await finished(services)
    assert run.warnings[0].startswith("The judge is the Proposer's own model")
    roles = services.settings.roles
    other = msgspec.structs.replace(roles, judge=msgspec.structs.replace(roles.judge, model="scripted-2"))
    changed = msgspec.structs.replace(services.settings, roles=other)
    async with open_services(changed, benchmark_plugins(runtime)) as opened:
        run = await opened.benchmark.start(ALONE)
        assert run.warnings == ()
        await opened.benchmark.wait(run.id)
