"""The loop on scripted models and a worker that pretends to train: every step once, resumable, and an honest table."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from tmde_core.errors import (
    AdapterInvalidError,
    ConflictError,
    InsufficientTracesError,
    InvalidInputError,
    WorkerFailedError,
)
from tmde_core.loop.journal import Journal
from tmde_core.loop.records import Asked, LoopPlan, Practised, Trained
from tmde_core.loop.service import Loop
from tmde_core.loop.watcher import LoopProgress
from tmde_core.plugins import Plugins
from tmde_core.records.chat import ChatRequest
from tmde_core.records.debate import DebateConfig
from tmde_core.records.questions import Question
from tmde_core.records.runtimes import Availability
from tmde_core.records.traces import Eligibility
from tmde_core.records.training import ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import (
    ACCEPT,
    Reply,
    ScriptedRuntime,
    digit_logprobs,
    scripted_plugins,
    scripted_settings,
)

WORKER = """
import sys
from pathlib import Path
from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.sdk.worker.kit import BaseIdentity, RunWorker
from tmde_core.testing.adapters import write_adapter

with RunWorker(Path(sys.argv[1])) as run:
    write_adapter(run.make_staging())
    run.events.progress(1, 1, loss=1.0)
    run.publish(FineTuneMetrics(total_steps=1), BaseIdentity(name="scripted-1"))
sys.exit(run.exit_code)
"""

PLAN = LoopPlan(tries=3, min_traces=2, parallel=2)


class PretendingBackend:
    def availability(self) -> Availability:
        return Availability(ok=True)

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        return ResourceEstimate()

    def plan(self, job: TrainingJob) -> WorkerCommand:
        return WorkerCommand(argv=(sys.executable, "-c", WORKER, str(Path(job.run_dir) / "job.json")))


def questions(practice: int = 4, held_out: int = 6) -> list[Question]:
    def one(number: int, split: str) -> Question:
        return Question(
            id=f"{split}-{number}",
            query=f"What is {number} times 7?",
            reference=str(number * 7),
            check="number",
            domain="sevens",
            split=split,
        )

    return [one(n, "practice") for n in range(2, 2 + practice)] + [one(n, "held-out") for n in range(20, 20 + held_out)]


def learns(request: ChatRequest) -> Reply:
    """Knows its sevens with the adapter; without it only when it is asked with a temperature."""
    query = next(message.content for message in request.messages if message.role == "user")
    if "What is" not in query:  # the activation's probe
        return Reply("Red and blue.", logprobs=digit_logprobs({"R": 0.9 if request.adapter else 0.5}))
    number = int(query.split("What is ", 1)[1].split()[0])
    right = request.adapter is not None or request.temperature > 0
    return Reply(f"It is {number * 7 if right else 1}.")


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return ScriptedRuntime(script={"proposer": learns, "skeptic": ACCEPT})


@pytest.fixture
async def opened(tmp_path: Path, runtime: ScriptedRuntime):
    plugins = scripted_plugins(runtime, Plugins.load())
    plugins.backends.add(
        BackendDescriptor(name="pretend", summary="pretends", create=lambda _: PretendingBackend()), "tests"
    )
    data = tmp_path / "data"
    data.mkdir()
    settings = scripted_settings(data)
    settings = msgspec.structs.replace(settings, finetune=msgspec.structs.replace(settings.finetune, backend="pretend"))
    async with open_services(settings, plugins) as services:
        yield services


def loop_on(
    services: Services, asked: list[Question], plan: LoopPlan = PLAN, watcher: LoopProgress | None = None
) -> Loop:
    journal = Journal.of(services.settings.data_path / "loops", asked, plan)
    parts = (services.workspace, services.debates, services.traces, services.finetune, services.lora)
    return Loop(*parts, asked, plan, journal, watcher or LoopProgress())


async def test_a_loop_trains_on_what_scored_activates_it_and_reports_the_gain(opened: Services):
    report = await loop_on(opened, questions()).run()
    assert (report.overall.before, report.overall.after, report.outcome) == (0.0, 1.0, "better")
    assert report.practice_solved == 4
    active = await opened.lora.get_active()
    assert active is not None
    assert str(active.id) == report.adapter_id == report.last.adapter_id
    assert report.last.answer == "It is 140."


async def test_the_last_debate_is_kept_but_never_trained_on(opened: Services):
    report = await loop_on(opened, questions()).run()
    trace = await opened.traces.rate(UUID(report.last.trace_id), 10)
    assert trace.id not in [one.id for one in await opened.traces.list_eligible(Eligibility(min_quality=8.0))]


async def test_held_out_questions_are_asked_greedily_of_the_proposer_alone_and_leave_no_traces(opened, runtime):
    await loop_on(opened, questions()).run()
    held_out = [r for r in runtime.requests if any(" 21 times" in m.content for m in r.messages)]
    assert [(r.temperature, r.adapter is not None) for r in held_out] == [(0.0, False), (0.0, True)]
    queries = [trace.query for trace in (await opened.traces.list(limit=100)).items]
    assert "What is 21 times 7?" not in queries


async def test_a_loop_that_was_cut_off_goes_on_where_it_stopped(opened, runtime):
    class Unplugged(LoopProgress):
        pieces = 0

        def piece(self, right: bool | None) -> None:
            self.pieces += 1
            if self.pieces == 8:
                raise RuntimeError("unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        await loop_on(opened, questions(), watcher=Unplugged()).run()
    done = Journal.of(opened.settings.data_path / "loops", questions(), PLAN)
    before = Counter(asked.question_id for asked in done.all(Asked))
    assert len(before) == 6
    report = await loop_on(opened, questions()).run()
    assert report.outcome == "better"
    journal = Journal.of(opened.settings.data_path / "loops", questions(), PLAN)
    assert set(Counter((asked.phase, asked.question_id) for asked in journal.all(Asked)).values()) == {1}
    assert set(Counter((one.question_id, one.attempt) for one in journal.all(Practised)).values()) == {1}
    assert len(journal.all(Trained)) == 1


async def test_a_finished_loop_reports_again_without_asking_anything(opened, runtime):
    first = await loop_on(opened, questions()).run()
    asked = len(runtime.requests)
    assert await loop_on(opened, questions()).run() == first
    assert len(runtime.requests) == asked


async def test_a_question_is_tried_again_until_it_scores_or_the_tries_are_used_up(opened, runtime):
    runtime.script = {"proposer": "I do not know.", "skeptic": ACCEPT}
    with pytest.raises(InsufficientTracesError):
        await loop_on(opened, questions(practice=2)).run()
    practised = Journal.of(opened.settings.data_path / "loops", questions(practice=2), PLAN).all(Practised)
    assert Counter(one.question_id for one in practised) == {"practice-2": 3, "practice-3": 3}
    assert len({one.trace_id for one in practised}) == 6


async def test_a_model_that_keeps_failing_stops_the_loop_with_its_reason(opened, runtime):
    def breaks(request: ChatRequest) -> Reply:
        error = WorkerFailedError("The model server died.") if request.temperature > 0 else None
        return Reply("It is 1.", error=error)

    runtime.script = {"proposer": breaks, "skeptic": ACCEPT}
    with pytest.raises(WorkerFailedError, match=r"5 debates failed in a row.*The model server died"):
        await loop_on(opened, questions()).run()


async def test_a_held_out_question_among_the_traces_to_train_on_is_refused(opened: Services):
    debate = await opened.debates.start("What is  21 TIMES 7", DebateConfig(templates=0))
    await opened.debates.wait(debate.id)
    page = await opened.traces.list()
    await opened.traces.rate(page.items[0].id, 9)
    with pytest.raises(ConflictError, match="held-out question 'held-out-21'"):
        await loop_on(opened, questions()).run()


async def test_a_runtime_that_cannot_serve_adapters_is_refused_before_anything_is_asked(opened, runtime):
    runtime.capabilities = msgspec.structs.replace(runtime.capabilities, adapters=False)
    with pytest.raises(AdapterInvalidError, match="cannot serve adapters, so a loop could not use what it trains"):
        await loop_on(opened, questions()).run()
    assert runtime.requests == []


async def test_a_file_without_both_splits_is_refused(opened: Services):
    with pytest.raises(InvalidInputError, match=r"4 with .* 0 with"):
        loop_on(opened, questions(held_out=0))


@pytest.mark.parametrize("query", ["what is 2 TIMES 7", "What is ２ times\u00a07\u200b？"])
async def test_a_practice_question_that_is_also_held_out_is_refused(opened: Services, query: str):
    twice = [*questions(), Question(id="again", query=query, split="held-out")]
    with pytest.raises(InvalidInputError, match="also a held-out one"):
        loop_on(opened, twice)


async def test_two_processes_cannot_run_one_loop(opened: Services):
    held, waiting = loop_on(opened, questions()), loop_on(opened, questions())
    with held.journal.held(), pytest.raises(ConflictError, match="Another process runs this loop"):
        await waiting.run()


def test_a_torn_last_line_of_the_journal_is_cut_off(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.append(Trained(run_id="one"))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"kind": "trained", "runI')
    journal = Journal(tmp_path)
    journal.append(Trained(run_id="two"))
    assert [entry.run_id for entry in Journal(tmp_path).all(Trained)] == ["one", "two"]


def test_another_plan_or_other_questions_are_another_loop_and_again_is_a_new_one(tmp_path: Path):
    first = Journal.of(tmp_path, questions(), PLAN)
    assert Journal.of(tmp_path, list(reversed(questions())), PLAN).directory == first.directory
    assert Journal.of(tmp_path, questions(), LoopPlan()).directory != first.directory
    assert Journal.of(tmp_path, questions(practice=3), PLAN).directory != first.directory
    assert Journal.of(tmp_path, questions(), PLAN, again=True).directory == first.directory
