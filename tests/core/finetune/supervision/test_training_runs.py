"""Runs from start to end, with a real worker process that only pretends to train."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import msgspec
import psutil
import pytest

from tests.core.finetune.conftest import make_trace
from tmde_core.benchmark.gate import GateService
from tmde_core.errors import (
    ConflictError,
    InsufficientStorageError,
    InsufficientTracesError,
    InvalidInputError,
    NotFoundError,
    PluginUnavailableError,
    WorkerFailedError,
)
from tmde_core.finetune.dataset.selection import query_hash
from tmde_core.finetune.supervision import supervisor
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.questions import Question
from tmde_core.records.training import TrainingJob, WorkerCommand
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.worker.kit import RunWorker
from tmde_core.services import open_services
from tmde_core.settings import SupervisorSettings, load_settings

SERVER = Path(__file__).parents[1].joinpath("stand_in_server.py")
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


def config(base_model: str = "quick", **changes) -> FineTuneConfig:
    return FineTuneConfig(backend="stand-in", base_model=base_model, min_traces=5, **changes)


async def seen(services, run, type_: str):
    """The first event of a type."""
    async for event in services.finetune.events(run.id).follow():
        if event.type == type_:
            return event
    raise AssertionError(f"the run ended without a {type_}")


async def appeared(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.02)


def no_process_of(run) -> bool:
    return not supervisor.find_processes(str(run.id))


async def test_a_run_goes_from_traces_to_a_published_adapter(services):
    run = await services.finetune.start(config())
    assert (run.status, run.traces_used, run.train_examples, run.val_examples) == ("pending", 20, 17, 3)
    ended = await services.finetune.wait(run.id)
    assert (ended.status, ended.error_message) == ("completed", None)
    assert ended.metrics.total_steps == 3
    assert ended.base_model == "stand-in-base"
    assert ended.completed_at >= ended.started_at
    adapter = await services.lora.get(run.id)
    assert adapter.is_valid
    assert adapter.path == ended.lora_path
    assert adapter.traces_used == 20
    assert [progress.step for progress in await services.finetune.metrics(run.id)] == [1, 2, 3]
    assert await services.finetune.get_current() is None
    assert await services.finetune.list() == ([ended], 1)


async def test_lineage_is_answered_in_both_directions(services):
    run = await services.finetune.wait((await services.finetune.start(config())).id)
    traces = await services.finetune.list_traces(run.id)
    assert len(traces) == 20
    withdrawal = await services.traces.withdraw(traces[3].id, "It is wrong.")
    assert withdrawal.adapters == (run.id,)
    again = await services.finetune.wait((await services.finetune.start(config())).id)
    assert traces[3].id not in [trace.id for trace in await services.finetune.list_traces(again.id)]


async def test_the_worker_is_detached_and_told_everything_in_a_file(services):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    (worker,) = supervisor.find_processes(str(run.id))
    run_dir = services.finetune.run_dir(run.id)
    assert supervisor._session(worker.pid) == worker.pid
    job = json.loads((run_dir / "job.json").read_text())
    assert (job["runId"], job["config"]["minTraces"]) == (str(run.id), 5)
    assert Path(job["outputDir"]).parent == services.stores.adapters.directory
    (run_dir / "go").touch()
    assert (await services.finetune.wait(run.id)).status == "completed"


async def test_the_worker_stands_back_for_everything_else(services):
    back = msgspec.structs.replace(services.settings, supervisor=SupervisorSettings(niceness=7))
    async with open_services(back, services.plugins) as others:
        run = await others.finetune.start(config("waits"))
        await seen(others, run, "progress")
        (worker,) = supervisor.find_processes(str(run.id))
        assert worker.nice() == 7
        if AUTOGROUP.exists() and AUTOGROUP.read_text().strip() == "1":
            # Without this the niceness of a process in a session of its own counts for nothing.
            assert Path(f"/proc/{worker.pid}/autogroup").read_text().split()[-2:] == ["nice", "7"]
        await others.finetune.cancel(run.id)


async def test_the_end_of_a_run_is_told_to_people_and_its_adapter_is_given_to_the_gate(stand_in, data_dir, monkeypatch):
    given = []

    async def noted(_gate, event) -> None:
        given.append(event.run_id)

    monkeypatch.setattr(GateService, "hear", noted)
    async with stand_in(data_dir, serving=True) as services:
        for number in range(20):
            await services.traces.add(make_trace(f"What is {number} times 7?", minutes=number))
        run = await services.finetune.wait((await services.finetune.start(config("quick"))).id)
        (told,), _ = await services.notifications.list()
        assert (told.kind, told.href) == ("finetune.completed", f"/finetune/versions?adapter={run.id}")
        assert given == [run.id]


async def test_a_run_is_running_once_its_worker_reports(services):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    while (current := await services.finetune.get_current()).status == "pending":
        await asyncio.sleep(0.02)
    assert (current.id, current.status) == (run.id, "running")
    await services.finetune.cancel(run.id)


async def test_a_second_start_is_a_conflict_that_names_the_first(services):
    run = await services.finetune.start(config("waits"))
    with pytest.raises(ConflictError, match=str(run.id)):
        await services.finetune.start(config())
    await services.finetune.cancel(run.id)


async def test_of_two_starts_at_once_in_two_processes_one_wins_and_nothing_is_left_of_the_other(
    services, stand_in, data_dir
):
    async with stand_in(data_dir) as other:
        outcomes = await asyncio.gather(
            services.finetune.start(config("waits")), other.finetune.start(config("waits")), return_exceptions=True
        )
    (run,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 1
    assert [path.name for path in (data_dir / "runs").iterdir()] == [str(run.id)]
    await services.finetune.cancel(run.id)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("raises", "RuntimeError: the flux is not a number"),
        ("memory-for-0", "not enough memory.*Lower the batch size.*A batch of one example is the smallest"),
        (
            "killed",
            r"was killed by signal 9 \(SIGKILL\): .* process. Its log ends: about to be killed .* happened 3 times",
        ),
        ("spoils-its-adapter", "adapter is damaged: .*adapter_model.safetensors has changed"),
    ],
)
async def test_a_failed_run_says_why_and_leaves_no_half_adapter(services, what, reason):
    run = await services.finetune.start(config(what))
    if what == "spoils-its-adapter":
        (services.finetune.run_dir(run.id) / "go").touch()
    ended = await services.finetune.wait(run.id)
    assert ended.status == "failed"
    assert re.search(reason, ended.error_message), ended.error_message
    assert not list(services.stores.adapters.directory.glob(".staging-*"))
    assert await services.lora.get_active() is None
    assert (await seen(services, run, "error" if what != "spoils-its-adapter" else "complete")) is not None


async def test_a_worker_that_dies_before_it_says_anything_is_quoted(services, monkeypatch):
    def plan(_self, _job: TrainingJob) -> WorkerCommand:
        return WorkerCommand(argv=(sys.executable, "-c", "import no_such_module"))

    backend = type(services.plugins.backends.get("stand-in").create(Path()))
    monkeypatch.setattr(backend, "plan", plan)
    run = await services.finetune.wait((await services.finetune.start(config())).id)
    assert run.status == "failed"
    assert "exit status 1" in run.error_message
    assert "No module named 'no_such_module'" in run.error_message
    assert (await seen(services, run, "error")).data["detail"] == run.error_message


async def test_a_program_that_is_not_there_fails_the_run_and_the_call(services):
    with pytest.raises(WorkerFailedError, match=r"/no/such/program.*No such file"):
        await services.finetune.start(config("no-program"))
    (run,), _ = await services.finetune.list()
    assert run.status == "failed"
    assert "No such file" in run.error_message


async def test_cancelling_ends_the_worker_and_publishes_nothing(services):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    cancelled = await services.finetune.cancel(run.id)
    assert cancelled.status == "cancelled"
    assert not supervisor.is_alive(services.finetune.run_dir(run.id))
    assert no_process_of(run)
    assert not list(services.stores.adapters.directory.glob("[!.]*"))
    assert await seen(services, run, "cancelled")


async def test_cancelling_at_once_ends_a_worker_that_has_hardly_begun(services):
    run = await services.finetune.start(config("waits"))
    assert (await services.finetune.cancel(run.id)).status == "cancelled"
    assert no_process_of(run)


async def test_cancelling_ends_a_grandchild_in_a_session_of_its_own(services, monkeypatch):
    monkeypatch.setattr(supervisor.end, "__defaults__", (0.3,))
    run = await services.finetune.start(config("grandchild"))
    note = services.finetune.run_dir(run.id) / "grandchild"
    await appeared(note)
    grandchild = psutil.Process(int(note.read_text()))
    assert (await services.finetune.cancel(run.id)).status == "cancelled"
    assert not supervisor._lives(grandchild)


async def test_a_worker_that_ignores_sigterm_is_killed_and_counts_as_cancelled(services, monkeypatch):
    monkeypatch.setattr(supervisor.end, "__defaults__", (0.3,))
    run = await services.finetune.start(config("deaf"))
    await appeared(services.finetune.run_dir(run.id) / "deaf")
    assert (await services.finetune.cancel(run.id)).status == "cancelled"
    assert no_process_of(run)
    assert not list(services.stores.adapters.directory.glob(".staging-*"))


async def test_a_crashed_worker_leaves_no_descendant_behind(services):
    run = await services.finetune.start(config("grandchild"))
    note = services.finetune.run_dir(run.id) / "grandchild"
    await appeared(note)
    grandchild = psutil.Process(int(note.read_text()))
    next(process for process in supervisor.find_processes(str(run.id)) if process.pid != grandchild.pid).kill()
    ended = await services.finetune.wait(run.id)
    assert [attempt.outcome for attempt in ended.attempts] == ["killed", "failed"]
    assert not supervisor._lives(grandchild)
    assert no_process_of(run)


async def test_what_has_ended_cannot_be_cancelled(services):
    run = await services.finetune.wait((await services.finetune.start(config())).id)
    with pytest.raises(ConflictError, match="has ended already: it is completed"):
        await services.finetune.cancel(run.id)


async def test_another_process_can_cancel_a_run(services, stand_in, data_dir):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    async with stand_in(data_dir) as other:
        assert (await other.finetune.cancel(run.id)).status == "cancelled"
    assert (await services.finetune.get(run.id)).status == "cancelled"


async def test_leaving_a_command_line_leaves_its_run_alone_and_the_server_sees_to_the_end(services, stand_in, data_dir):
    async with stand_in(data_dir) as command_line:
        run = await command_line.finetune.start(config("waits"))
    assert (await services.finetune.get_current()).id == run.id
    (services.finetune.run_dir(run.id) / "go").touch()
    assert (await services.finetune.wait(run.id)).status == "completed"


# ------------------------------------------------------------------------- the server dies


async def dead(run_dir: Path) -> None:
    while supervisor.is_alive(run_dir):
        await asyncio.sleep(0.02)


async def kill_worker(run_dir: Path) -> None:
    """Kill the worker until it is dead. In the moment when it starts its program, it cannot be recognised yet."""
    while supervisor.is_alive(run_dir):
        for process in supervisor.find_processes(run_dir.name):
            process.kill()
        await asyncio.sleep(0.02)


def killed_server(data_dir: Path, base_model: str) -> str:
    """Start a run from a process that is then killed; returns the run's id."""
    command = [sys.executable, str(SERVER), str(data_dir), base_model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        run_id = next(line for line in server.stdout if line.startswith("run ")).split()[1]
        server.kill()
    return run_id


@pytest.fixture
async def filled(stand_in, data_dir, trace):
    """A data directory with traces, that nobody has open."""
    async with stand_in(data_dir) as services:
        for number in range(20):
            await services.traces.add(trace(f"What is {number} times 7?", minutes=number))
    return data_dir


async def test_a_killed_server_changes_nothing_for_its_run_and_the_next_one_adopts_it(filled, stand_in):
    run_id = await asyncio.to_thread(killed_server, filled, "waits")
    async with stand_in(filled, serving=True) as services:
        run = await services.finetune.get_current()
        assert str(run.id) == run_id
        (services.finetune.run_dir(run.id) / "go").touch()
        ended = await services.finetune.wait(run.id)
        assert ended.status == "completed"
        assert (await services.lora.get(run.id)).is_valid


async def test_a_run_that_was_completed_while_no_server_ran_is_completed_at_the_next_start(filled, stand_in):
    run_id = await asyncio.to_thread(killed_server, filled, "quick")
    await dead(filled / "runs" / run_id)
    async with stand_in(filled) as services:
        (run,), _ = await services.finetune.list()
        assert (str(run.id), run.status) == (run_id, "completed")


async def test_a_worker_killed_while_no_server_ran_goes_on_when_one_starts_but_not_for_a_reader(filled, stand_in):
    run_id = await asyncio.to_thread(killed_server, filled, "waits")
    await kill_worker(filled / "runs" / run_id)
    async with stand_in(filled) as reader:
        (run,), _ = await reader.finetune.list()
        assert run.completed_at is None
        assert not supervisor.is_alive(filled / "runs" / run_id)
    async with stand_in(filled, serving=True) as services:
        assert str((await services.finetune.get_current()).id) == run_id
        (filled / "runs" / run_id / "go").touch()
        ended = await services.finetune.wait(run.id)
        assert [attempt.outcome for attempt in ended.attempts] == ["killed", "completed"]
        assert ended.attempts[0].reason == "The training process ended before it was done. It left no message."


async def test_a_command_line_beside_a_killed_server_leaves_the_live_run_alone(filled, stand_in):
    run_id = await asyncio.to_thread(killed_server, filled, "waits")
    async with stand_in(filled) as services:
        assert str((await services.finetune.get_current()).id) == run_id
    assert supervisor.find_processes(run_id)
    async with stand_in(filled, serving=True) as services:
        run = await services.finetune.get_current()
        await services.finetune.cancel(run.id)


async def test_a_server_that_died_between_row_and_worker_starts_it_later(services, stand_in, data_dir, monkeypatch):
    class DiesError(BaseException):
        """As when the process is gone in this moment."""

    def dies(*_):
        raise DiesError

    monkeypatch.setattr(supervisor, "launch", dies)
    with pytest.raises(DiesError):
        await services.finetune.start(config())
    monkeypatch.undo()
    async with stand_in(data_dir) as other:
        (run,), _ = await other.finetune.list()
        assert run.status == "pending"
    ended = await services.finetune.wait(run.id)
    assert [attempt.outcome for attempt in ended.attempts] == ["killed", "completed"]
    assert ended.attempts[0].reason == "TMDE ended before the training process was started."


# ------------------------------------------------------------------------------- refusals


async def test_too_few_traces_are_refused_and_leave_no_trace(services, data_dir):
    with pytest.raises(InsufficientTracesError) as caught:
        await services.finetune.start(FineTuneConfig(backend="stand-in"))
    assert caught.value.context == {"current": 20, "required": 50}
    assert (await services.finetune.list())[1] == 0
    assert not (data_dir / "runs").exists()


async def test_an_unknown_backend_is_refused_with_those_there_are(services):
    with pytest.raises(InvalidInputError, match="'abacus'; available: lacking, stand-in"):
        await services.finetune.start(FineTuneConfig(backend="abacus"))
    with pytest.raises(InvalidInputError, match="'abacus'"):
        await services.finetune.set_config(FineTuneConfig(backend="abacus"))


async def test_a_backend_that_lacks_something_is_refused_with_what_it_lacks(services):
    with pytest.raises(PluginUnavailableError, match=r"'lacking' cannot work here: It lacks a card."):
        await services.finetune.start(FineTuneConfig(backend="lacking"))
    assert {report.name: report.availability.ok for report in services.finetune.backends()} == {
        "stand-in": True,
        "lacking": False,
    }


async def test_too_little_disk_is_refused_with_need_and_have(services, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 1024**2))
    with pytest.raises(InsufficientStorageError, match=r"needs up to 500 MB.*3 MB are free"):
        await services.finetune.start(config())


async def test_a_value_out_of_range_is_refused_by_name(services):
    with pytest.raises(InvalidInputError, match="epochs: 11 is out of range"):
        await services.finetune.start(config(epochs=11))


async def test_a_plan_that_is_refused_leaves_nothing(services, data_dir, monkeypatch):
    def plan(_self, _job):
        raise InvalidInputError("There is no such model.")

    monkeypatch.setattr(type(services.plugins.backends.get("stand-in").create(Path())), "plan", plan)
    with pytest.raises(InvalidInputError):
        await services.finetune.start(config())
    assert not list((data_dir / "runs").iterdir())
    assert (await services.finetune.list())[1] == 0


async def test_unknown_runs_are_not_found(services):
    for call in (services.finetune.get, services.finetune.cancel, services.finetune.metrics, services.finetune.wait):
        with pytest.raises(NotFoundError):
            await call(uuid4())
    with pytest.raises(NotFoundError):
        services.finetune.events(uuid4())


async def test_an_example_shows_exactly_what_the_proposer_saw_in_the_debate(services):
    debate = await services.debates.start("Estimate how many piano tuners work in a large city.")
    assert (await services.debates.wait(debate.id)).status == "completed"
    (trace,) = (await services.traces.list(limit=1)).items
    assert trace.templates_used
    await services.traces.rate(trace.id, 9)
    opening = services.runtimes.made("scripted").of_role("proposer")[0].messages
    selection = await services.finetune.select_examples(config())
    (example,) = [one for one in (*selection.train, *selection.val) if one.trace_id == str(trace.id)]
    assert example.messages[:-1] == opening
    assert example.input in opening[-1].content
    assert example.messages[-1].content == trace.final_answer


async def test_benchmark_questions_are_never_trained_on_and_practice_questions_may_be(services):
    questions = [
        Question(id="1", query="what is 3 TIMES 7"),
        Question(id="2", query="What is 4 times 7?", split="practice"),
    ]
    services.plugins.suites.add(SuiteDescriptor(name="s", summary="", questions=lambda: questions), "tests")
    services.plugins.suites.add(SuiteDescriptor(name="broken", summary="", questions=lambda: 1 / 0), "tests")  # type: ignore[arg-type, return-value]
    selection = await services.finetune.select_examples(config())
    asked = {query_hash(example.instruction) for example in (*selection.train, *selection.val)}
    assert query_hash("What is 3 times 7?") not in asked
    assert query_hash("What is 4 times 7?") in asked
    assert [left.reason for left in selection.left_out] == ["leak"]


async def test_a_changed_configuration_is_kept_in_the_settings_file(services, data_dir):
    (data_dir / "tmde.toml").write_text("# mine\n[finetune]\nepochs = 2 # few\n")
    await services.finetune.set_config(FineTuneConfig(backend="stand-in", epochs=5, min_quality_score=6))
    assert services.finetune.config().epochs == 5
    text = (data_dir / "tmde.toml").read_text()
    assert text.startswith("# mine\n[finetune]\nepochs = 5 # few\n")
    read = load_settings(data_dir, environ={}).finetune
    assert (read.epochs, read.min_quality_score, read.backend) == (5, 6.0, "stand-in")
    assert services.traces.min_quality_score == 6


async def test_the_kit_and_the_supervisor_agree_on_names(services):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    run_dir = services.finetune.run_dir(run.id)
    assert {"job.json", "lock", "leash", "heartbeat", "events.jsonl", "worker.log", "train.jsonl", "val.jsonl"} <= {
        path.name for path in run_dir.iterdir()
    }
    assert RunWorker.__module__ == "tmde_core.sdk.worker.kit"
    await services.finetune.cancel(run.id)


async def test_whoever_hears_of_the_end_may_start_the_next_run_at_once(services, stand_in, data_dir, monkeypatch):
    monkeypatch.setattr("tmde_core.storage.events.POLL_SECONDS", 0.002)
    kinds = {"complete": "completed", "error": "failed", "cancelled": "cancelled"}

    async def heard(by, run) -> str:
        *_, last = [event async for event in by.finetune.events(run.id).follow()]
        return last.type

    async with stand_in(data_dir) as other:  # as a command line beside the server
        for number, what in enumerate(["quick", "raises", "says-nothing"] * 2):
            begins, listens = (services, other) if number % 2 else (other, services)
            run = await begins.finetune.start(config(what))  # after an end that was heard of: a 409 before
            hearing = asyncio.create_task(heard(listens, run))
            ending = asyncio.create_task(services.finetune.cancel(run.id)) if what == "says-nothing" else None
            assert kinds[await hearing] == (await listens.finetune.get(run.id)).status
        assert ending is not None
        await ending
