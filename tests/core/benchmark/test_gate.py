"""The gate: what becomes of an adapter after it was measured."""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import pytest

from tmde_core.benchmark.gate import decide, make_plan
from tmde_core.benchmark.results.report import difference_words, p_words
from tmde_core.errors import ConflictError, WorkerFailedError
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import BenchmarkPlan, BenchmarkRun, DomainComparison, PairedComparison, RunComparison
from tmde_core.sdk.events import RunFinished
from tmde_core.testing.scripted import Reply

RUN = BenchmarkRun(
    id=UUID(int=1), type="full", mode="proposer", suite="dozen", status="completed", started_at=utc_now()
)


def nothing(_):
    return False


def everything(_):
    return True


def as_the_base(number):
    return number % 3 == 0


async def test_an_adapter_that_is_worse_is_held_back_with_an_alert(services, adapter, model):
    model.right[None] = everything
    harmful = adapter(nothing)
    decision = await services.gate.evaluate(harmful)
    assert decision.gate == "held-back"
    assert decision.reason.startswith("It is worse than the base model: -10.0 points of 10 over 10 questions")
    assert (await services.lora.get(harmful)).gate == "held-back"
    with pytest.raises(ConflictError, match="force"):
        await services.lora.activate(harmful)
    (alert,), _ = await services.notifications.list()
    assert (alert.kind, alert.level) == ("benchmark.worse", "error")


async def test_an_adapter_that_is_better_is_proven_and_left_to_the_person(services, adapter):
    good = adapter(everything)
    decision = await services.gate.evaluate(good)
    assert (decision.gate, decision.activated) == ("proven", False)
    assert await services.lora.get_active() is None


async def test_a_proven_adapter_is_activated_where_that_is_wished(services, adapter):
    await services.live.change({"benchmark": {"autoActivate": True}})
    good = adapter(everything)
    decision = await services.gate.evaluate(good)
    assert decision.activated
    assert (await services.lora.get_active()).id == good


async def test_no_difference_leaves_a_candidate_and_offers_the_full_benchmark(services, adapter):
    same = adapter(as_the_base)
    assert (await services.gate.evaluate(same)).gate == "candidate"
    (told,), _ = await services.notifications.list()
    assert "full benchmark" in told.detail


async def test_a_new_adapter_must_beat_the_active_one_not_only_the_base(services, adapter):
    active = adapter(everything)
    await services.lora.activate(active)
    worse = adapter(as_the_base)
    decision = await services.gate.evaluate(worse)
    assert decision.gate == "held-back"
    assert "the active adapter" in decision.reason
    assert (await services.lora.get_active()).id == active


async def test_the_summary_is_headed_by_what_answers_now_and_not_by_a_candidate(services, adapter):
    candidate = adapter(nothing)
    measured = await services.gate.evaluate(candidate)
    found = await services.benchmark.summarise()
    assert (found.total, found.answering, found.current.id) == (2, None, measured.base_run_id)
    assert (await services.benchmark.summarise(adapter_id=candidate)).current.id == measured.run_id
    better = adapter(everything, age=1)
    await services.lora.activate(better)
    found = await services.benchmark.summarise()
    # It has not been measured: the newest there is.
    assert (found.answering, found.current.id) == (better, measured.run_id)
    own = await services.gate.evaluate(better)
    await services.gate.evaluate(adapter(nothing, age=2))
    assert (await services.benchmark.summarise()).current.id == own.run_id


async def test_a_baseline_that_is_there_is_not_asked_again(services, adapter, runtime):
    await services.gate.evaluate(adapter(everything))
    asked = len(runtime.requests)
    await services.gate.evaluate(adapter(everything, age=1))
    assert len(runtime.requests) - asked == 30


async def test_a_domain_that_falls_vetoes_though_the_whole_is_better(services, adapter, model, monkeypatch):
    from tests.core.benchmark import conftest
    from tmde_core.benchmark.questions.bank import QuestionBank

    asked = tuple(conftest.question(n, "mathematics" if n < 12 else "science") for n in range(40))
    monkeypatch.setattr(QuestionBank, "_questions", staticmethod(lambda _: asked))
    monkeypatch.setattr(QuestionBank, "_quick", staticmethod(lambda *_: frozenset(one.id for one in asked)))
    model.right[None] = lambda number: number < 12 or number % 3 == 0
    decision = await services.gate.evaluate(adapter(lambda number: number >= 12))
    assert decision.gate == "held-back"
    assert "in mathematics" in decision.reason


def test_a_domain_vetoes_by_a_p_that_counts_the_domains_of_both_rivals():
    def against(p: float) -> RunComparison:
        whole = PairedComparison(n=50, a=5.0, b=5.0, difference=0.0, low=-1.0, high=1.0, p=0.9)
        fallen = PairedComparison(n=10, a=5.0, b=1.0, difference=-4.0, low=-6.0, high=-2.0, p=p, outcome="worse")
        rest = [DomainComparison(domain=name, quality=whole) for name in ("science", "coding", "reasoning", "creative")]
        domains = (DomainComparison(domain="mathematics", quality=fallen), *rest)
        return RunComparison(a=RUN, b=RUN, comparable=True, quality=whole, domains=domains)

    still = against(0.9)
    assert decide(against(0.006), None) == (
        "held-back",
        "It is significantly worse than the base model in mathematics (-4.0 points of 10, p 0.030).",
    )
    assert decide(against(0.006), msgspec.structs.replace(still, domains=still.domains[1:]))[0] == "candidate"
    assert decide(against(0.004), msgspec.structs.replace(still, domains=still.domains[1:]))[0] == "held-back"


def test_an_interval_that_leaves_zero_out_without_a_verdict_is_told_with_its_p():
    quality = PairedComparison(n=10, a=5.0, b=1.9, difference=-3.1, low=-6.0, high=-0.7, p=0.0625)
    gate, reason = decide(RunComparison(a=RUN, b=RUN, comparable=True, quality=quality), None)
    assert gate == "candidate"
    assert reason.endswith("-3.1 points of 10 over 10 questions, 95 % interval -6.0 to -0.7, p 0.062.")
    assert difference_words(quality) == "-3.1 ± 2.6 points of 10 over 10 questions, p 0.062: not yet distinguishable."


def test_p_is_never_rounded_across_what_decides():
    assert [p_words(p) for p in (0.0004, 0.0496, 0.0499, 0.05, 0.0501, 0.0625, 0.314)] == [
        "p below 0.001", "p 0.0496", "p 0.0499", "p 0.0500", "p 0.0501", "p 0.062", "p 0.31",
    ]  # fmt: skip


async def test_an_active_adapter_that_has_become_worse_is_rolled_back_where_that_is_wished(services, adapter, model):
    await services.live.change({"benchmark": {"autoRollback": True}})
    model.right[None] = everything
    spoiled = adapter(nothing)
    await services.lora.activate(spoiled)
    run = await services.benchmark.start(make_plan())
    await services.gate.after_schedule(await services.benchmark.wait(run.id))
    assert await services.lora.get_active() is None
    kinds = [one.kind for one in (await services.notifications.list())[0]]
    assert "benchmark.rolled_back" in kinds
    newest = (await _events(services))[0]
    assert (newest.triggered_by, newest.success, newest.operation) == ("gate", True, "rollback")


async def test_without_that_wish_it_is_said_and_nothing_is_done(services, adapter, model):
    model.right[None] = everything
    spoiled = adapter(nothing)
    await services.lora.activate(spoiled)
    run = await services.benchmark.start(make_plan())
    await services.gate.after_schedule(await services.benchmark.wait(run.id))
    assert (await services.lora.get_active()).id == spoiled
    (told,), _ = await services.notifications.list()
    assert "Roll it back" in told.detail


async def _events(services):
    found = await services.lora.list_events(10)
    return found[0] if isinstance(found, tuple) else found


async def test_the_schedule_measures_the_active_adapter_and_rolls_a_worse_one_back(opened, adapter, model, data_dir):
    model.right[None] = everything
    async with opened() as services:
        await services.live.change({"benchmark": {"autoRollback": True}})
        good, spoiled = adapter(everything, age=1), adapter(nothing)
        await services.lora.activate(good)
        await services.lora.activate(spoiled)
        verdict, _, run_id = await services.gate.run_scheduled(utc_now())
        assert verdict == "started"
        assert (await services.gate.run_scheduled(utc_now()))[0] == "skipped"
        while services.gate._tasks:
            await asyncio.gather(*services.gate._tasks)
        assert str((await services.benchmark.get(UUID(run_id))).adapter_id) == str(spoiled)
        assert (await services.lora.get_active()).id == good
        kinds = [one.kind for one in (await services.notifications.list())[0]]
        assert "benchmark.rolled_back" in kinds
        newest = (await _events(services))[0]
        assert (newest.triggered_by, newest.operation, newest.adapter_id) == ("gate", "rollback", good)


async def test_a_scheduled_benchmark_that_fails_is_told_of(services, runtime):
    runtime.script = lambda _: WorkerFailedError("Nobody answers at port 9.")
    await services.gate.run_scheduled(utc_now())
    await asyncio.gather(*services.gate._tasks)
    (told,), _ = await services.notifications.list()
    assert (told.kind, told.level) == ("benchmark.schedule_failed", "warning")
    assert "4 questions in a row could not be answered: Nobody answers at port 9." in told.detail


async def test_an_adapter_that_silences_the_model_is_held_back_and_not_merely_unmeasured(
    services, adapter, model, runtime
):
    model.right[None] = everything
    silent = adapter(nothing)
    runtime.script = lambda request: "" if request.adapter else model(request)
    decision = await services.gate.evaluate(silent)
    assert (decision.gate, decision.reason[:45]) == ("held-back", "It is worse than the base model: -10.0 points")


async def test_whatever_keeps_an_adapter_from_being_measured_is_told(services, adapter, monkeypatch):
    async def defective(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(services.benchmark, "start", defective)
    await services.gate.begin(adapter(everything))
    await asyncio.gather(*services.gate._tasks)
    (told,), _ = await services.notifications.list()
    assert (told.kind, told.level) == ("benchmark.gate_failed", "warning")
    assert told.detail.startswith("An unexpected RuntimeError; the log has it. Measure")


async def test_who_wants_to_know_more_has_all_questions_asked_twice(services, adapter, runtime):
    decision = await services.gate.evaluate(adapter(everything), full=True)
    run = await services.benchmark.get(decision.run_id)
    assert (run.type, run.answer_count, decision.gate) == ("full", 24, "proven")


async def test_the_server_measures_what_was_trained_while_none_ran_and_once(opened, adapter, model, runtime):
    model.right[None] = everything
    harmful = adapter(nothing)
    async with opened(serving=True) as services:
        async for told in services.notifications.follow():
            if str(told.data["kind"]).startswith("benchmark."):
                break
        assert (await services.lora.get(harmful)).gate == "held-back"
    asked = len(runtime.requests)
    async with opened(serving=True) as services:
        assert not services.gate._tasks
    assert len(runtime.requests) == asked


async def test_a_completed_training_is_followed_by_the_quick_benchmark_where_that_is_wished(opened, adapter, model):
    model.right[None] = everything
    async with opened(serving=True) as services:
        harmful = adapter(nothing)
        run = RunFinished(run_id=harmful, status="completed", triggered_by="manual", traces_used=60)
        await services.live.change({"benchmark": {"afterTraining": False}})
        await services.gate.hear(run)
        await services.live.change({"benchmark": {"afterTraining": True}})
        await services.gate.hear(msgspec.structs.replace(run, status="failed"))
        assert not services.gate._tasks
        await services.gate.hear(run)
        await asyncio.gather(*services.gate._tasks)
        assert [one.gate for one in await services.gate.decisions(adapter_id=harmful)] == ["held-back"]


async def test_two_adapters_compare_with_their_newest_runs_that_asked_the_same(services, adapter):
    worse, better = adapter(nothing, age=1), adapter(everything)
    assert (await services.lora.compare(worse, better)).benchmark is None
    await services.gate.evaluate(worse)
    full = await services.benchmark.start(BenchmarkPlan(type="full", mode="proposer", adapter_id=better))
    await services.benchmark.wait(full.id)
    assert (await services.lora.compare(worse, better)).benchmark is None  # other questions
    await services.gate.evaluate(better)
    found = (await services.lora.compare(worse, better)).benchmark
    assert (found.a.adapter_id, found.b.adapter_id, found.a.type) == (worse, better, "quick")
    assert (found.quality.difference, found.quality.outcome) == (10.0, "better")


async def test_what_the_servers_end_cut_off_is_taken_up_and_nothing_is_asked_twice(opened, adapter, model, runtime):
    model.right[None] = everything
    harmful = adapter(nothing)
    held, seen = asyncio.Event(), asyncio.Event()

    def answer(request):
        late = request.adapter is not None and "number 9?" in request.messages[-1].content
        if late:
            seen.set()
        return Reply(model(request), gate=held if late else None)

    runtime.script = answer
    async with opened(serving=True):
        await seen.wait()
    held.set()
    before = {(r.adapter is None, r.messages[-1].content, r.seed) for r in runtime.requests if "number 9?" not in r.messages[-1].content}  # fmt: skip
    runtime.requests.clear()
    async with opened(serving=True) as services:
        await asyncio.gather(*services.gate._tasks)
        assert [one.gate for one in await services.gate.decisions(adapter_id=harmful)] == ["held-back"]
    again = {(r.adapter is None, r.messages[-1].content, r.seed) for r in runtime.requests}
    assert len(again) == len(runtime.requests)
    assert len(again & before) <= 8  # what was under way at the end
    assert all(not base for base, _, _ in again)
