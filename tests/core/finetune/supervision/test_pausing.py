"""A training run that needs the graphics card pauses the runtimes that hold it, and they come back whatever happens.

No card is here: the stand-in backend claims to need one, and the scripted runtime claims to hold it. The trainers, the
locks and the kills are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO
from uuid import UUID, uuid4

import msgspec
import pytest

from tests.core.finetune.conftest import NEEDS_CARD, make_trace, settings_on, stand_in_plugins
from tmde_core import card, runtimes
from tmde_core.benchmark.running.planning import BenchmarkPlan
from tmde_core.errors import RuntimePausedError
from tmde_core.finetune.limits import Limits
from tmde_core.finetune.supervision import await_card, lending, supervisor
from tmde_core.records.base import utc_now
from tmde_core.records.chat import ChatRequest, Message
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun
from tmde_core.records.questions import Question
from tmde_core.records.training import ResourceEstimate
from tmde_core.resources import Gpu
from tmde_core.sdk.runtimes import ChatEnd
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.sdk.worker.kit import list_checkpoints
from tmde_core.sdk.worker.vitals import HEARTBEAT_FILE
from tmde_core.services import Services, open_services
from tmde_core.settings import SupervisorSettings
from tmde_core.storage.locks import FileLock
from tmde_core.testing.scripted import DEFAULT_SCRIPT, Reply, ScriptedRuntime

SERVER = Path(__file__).parents[1].joinpath("stand_in_server.py")
ASK = ChatRequest(model="", messages=(Message(role="user", content="2+2?"),))
MIB = 1024**2


def config(base_model: str = "waits", **changes) -> FineTuneConfig:
    return FineTuneConfig(backend="stand-in", base_model=base_model, min_traces=5, **changes)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "LOOK_SECONDS", 0.02)


@pytest.fixture
async def services(services: Services, data_dir: Path) -> AsyncIterator[Services]:
    (data_dir / NEEDS_CARD).touch()
    await services.runtimes.get("scripted")
    return services


def scripted(services: Services) -> ScriptedRuntime:
    runtime = services.runtimes.made("scripted")
    assert isinstance(runtime, ScriptedRuntime)
    return runtime


async def begun(services: Services, run: FineTuneRun) -> None:
    """Wait until the trainer itself works, and not the process that waits for the card."""
    await until((services.finetune.run_dir(run.id) / "been-here").exists)


async def state(services: Services) -> str:
    (report,) = [one for one in await services.runtimes.reports() if one.name == "scripted"]
    return report.status.state


async def answers(services: Services) -> bool:
    runtime = await services.runtimes.get("scripted")
    return isinstance([item async for item in runtime.chat(ASK)][-1], ChatEnd)


def go(services: Services, run: FineTuneRun) -> None:
    (services.finetune.run_dir(run.id) / "go").touch()


def _said_run(output: IO[str]) -> str:
    """Return the id of the run that the server says it has started, among the lines of its log."""
    return next(line.split()[1] for line in output if line.startswith("run "))


async def test_a_run_that_needs_the_card_pauses_the_model_and_brings_it_back(services):
    questions = [Question(id="1", query="What is 3 times 3?")]
    services.plugins.suites.add(SuiteDescriptor(name="s", summary="", questions=lambda: questions), "tests")
    run = await services.finetune.start(config())
    assert "needs about 6.0 GB of the graphics card" in run.notice
    await begun(services, run)
    assert not scripted(services).started, "the trainer begins when the model has left the card"
    assert await state(services) == "paused"
    with pytest.raises(
        RuntimePausedError,
        match=r"paused while the training run .+ uses the graphics card\. It is back at about \d\d:\d\d",
    ):
        await services.debates.start("Why is the sky blue?")
    with pytest.raises(RuntimePausedError) as refused:
        await services.benchmark.start(BenchmarkPlan())
    assert (refused.value.status, refused.value.code) == (503, "runtime_paused")
    assert refused.value.context["runId"] == str(run.id)
    assert 600 < refused.value.context["retryAfter"] <= 720
    assert services.workspace.find_why_paused() == refused.value.detail
    go(services, run)
    assert (await services.finetune.wait(run.id)).status == "completed"
    assert await answers(services)
    await until(lambda: scripted(services).started)
    assert await state(services) == "ready"
    assert services.workspace.find_why_paused() is None


async def test_an_answer_that_is_being_given_ends_first(services):
    gate = asyncio.Event()
    scripted(services).script = {**DEFAULT_SCRIPT, "proposer": Reply("The answer is 42.", gate=gate, gate_after=1)}
    debate = await services.debates.start("What is six times seven?")
    await until(lambda: scripted(services).requests)
    run = await services.finetune.start(config())
    await until(lambda: services.runtimes.find_why_paused("scripted"))
    assert scripted(services).started
    assert not (services.finetune.run_dir(run.id) / "been-here").exists(), "the trainer waits for the answer"
    gate.set()
    await begun(services, run)
    assert len(scripted(services).ended) == 1, "the answer was not cut"
    ended = await services.debates.wait(debate.id)
    assert ended.status == "failed"
    assert "paused while the training run" in (ended.error_message or "")
    assert len(scripted(services).requests) == 1, "the next role did not start the model again"
    go(services, run)
    await services.finetune.wait(run.id)
    await until(lambda: scripted(services).started)


async def test_a_benchmark_ends_with_the_reason_and_is_resumed_after_the_run(services):
    gate = asyncio.Event()
    questions = [
        Question(id=str(number), query=f"What is {number} times 3?", reference="9", check="contains")
        for number in range(30)
    ]
    services.plugins.suites.add(SuiteDescriptor(name="s", summary="", questions=lambda: questions), "tests")
    scripted(services).script = lambda _: Reply("It is 9.", gate=gate, gate_after=1)
    measured = await services.benchmark.start(BenchmarkPlan(type="full", mode="proposer"))
    await until(lambda: scripted(services).requests)
    run = await services.finetune.start(config())
    await until(lambda: services.runtimes.find_why_paused("scripted"))
    gate.set()
    ended = await services.benchmark.wait(measured.id)
    assert "paused while the training run" in (ended.error_message or "")
    assert 0 < ended.completed_answers < ended.answer_count, (
        "the running answers count, and no question failed for the pause"
    )
    await begun(services, run)
    await services.finetune.cancel(run.id)
    await services.benchmark.resume(measured.id)
    ended = await services.benchmark.wait(measured.id)
    assert (ended.status, ended.completed_answers) == ("completed", ended.answer_count)


async def test_an_answer_that_does_not_end_is_not_waited_for_for_ever(services, monkeypatch):
    monkeypatch.setattr(runtimes, "ANSWER_SECONDS", 0.1)
    scripted(services).script = lambda _: Reply("Never.", gate=asyncio.Event())
    debate = await services.debates.start("What is six times seven?")
    await until(lambda: scripted(services).requests)
    run = await services.finetune.start(config("quick"))
    await services.finetune.wait(run.id)
    await until(lambda: scripted(services).started)
    await services.debates.cancel(debate.id)


@pytest.mark.parametrize("base_model", ["raises", "quick", "killed", "memory-for-0"])
async def test_the_model_is_back_however_the_run_ends(services, base_model):
    run = await services.finetune.start(config(base_model))
    await services.finetune.wait(run.id)
    assert await answers(services)
    await until(lambda: scripted(services).started)
    assert card.read_loan(services.settings.data_path) is None


async def test_the_model_is_back_when_a_run_is_cancelled_and_also_while_it_waits_for_the_card(services):
    run = await services.finetune.start(config())
    await begun(services, run)
    await services.finetune.cancel(run.id)
    assert await answers(services)
    await until(lambda: scripted(services).started)
    scripted(services).script = lambda _: Reply("Never.", gate=asyncio.Event())
    debate = await services.debates.start("What is six times seven?")
    await until(lambda: len(scripted(services).requests) > 1)
    waiting = await services.finetune.start(config())
    await until(lambda: services.runtimes.find_why_paused("scripted"))
    assert (await services.finetune.cancel(waiting.id)).status == "cancelled"
    assert services.runtimes.find_why_paused("scripted") is None
    await services.debates.cancel(debate.id)


async def test_a_program_that_cannot_be_started_leaves_nothing_paused(services):
    with contextlib.suppress(Exception):
        await services.finetune.start(config("no-program"))
    assert await answers(services)
    assert card.read_loan(services.settings.data_path) is None


async def test_a_resumed_run_pauses_the_model_again(services):
    run = await services.finetune.start(config("steps-30-held-at-12"))
    await begun(services, run)
    await until(lambda: len(list_checkpoints(services.finetune.run_dir(run.id))) == 2)
    await services.finetune.cancel(run.id)
    await until(lambda: scripted(services).started)
    go(services, run)
    run = await services.finetune.resume(run.id)
    assert "graphics card" in run.notice
    ended = await services.finetune.wait(run.id)
    assert ended.status == "completed"
    assert await answers(services)


def grow_silent(services: Services, run: FineTuneRun) -> None:
    """Make the last signs of life of a run as old as if it had been stopped long ago."""
    data_dir = services.settings.data_path
    long_ago = time.time() - card.SILENT_SECONDS - 60
    for sign in (data_dir / card.DIRECTORY / card.LOAN_FILE, *services.finetune.run_dir(run.id).iterdir()):
        os.utime(sign, (long_ago, long_ago))


async def test_a_stopped_trainer_does_not_keep_the_model_for_ever(services, monkeypatch):
    monkeypatch.setattr(supervisor.end_family, "__defaults__", (0.2,))
    services.finetune.watching.limits = limits = Limits(look_seconds=0.05)
    run = await services.finetune.start(config("stops"))
    run_dir = services.finetune.run_dir(run.id)
    await until((run_dir / "stopping").exists)
    await until(lambda: services.runtimes.find_why_paused("scripted"))

    def is_back() -> bool:
        grow_silent(services, run)  # again and again: the trainer may have been about to write
        return scripted(services).started

    await until(is_back)
    assert supervisor.is_alive(run_dir), "the stopped process exists"
    assert await answers(services)
    assert "no sign of life for 16 min" in (await services.finetune.get(run.id)).notice

    (run_dir / HEARTBEAT_FILE).touch()  # as if the process went on
    await until(lambda: not scripted(services).started)
    assert services.runtimes.find_why_paused("scripted")

    # The watchdog ends the run, and the loan with it.
    msgspec.structs.force_setattr(limits, "silent_seconds", 0.1)
    ended = await services.finetune.wait(run.id)
    assert "hung" in (ended.error_message or "")
    assert card.read_loan(services.settings.data_path) is None
    await until(lambda: scripted(services).started)


@pytest.mark.parametrize("sign", [None, *card.SIGNS, card.LOAN_FILE])
def test_a_loan_counts_while_its_run_shows_any_sign_of_life(data_dir, sign):
    (data_dir / "runs").mkdir(parents=True)
    loan = card.Loan(id=uuid4(), run_id=uuid4(), run_name="Sums", leash="runs/leash", vram_bytes=1)
    card.lend(data_dir, loan)
    long_ago = time.time() - card.SILENT_SECONDS - 1
    os.utime(data_dir / card.DIRECTORY / card.LOAN_FILE, (long_ago, long_ago))
    for name in card.SIGNS:
        (data_dir / "runs" / name).touch()
        os.utime(data_dir / "runs" / name, (long_ago, long_ago))
    if sign:
        os.utime(data_dir / (card.DIRECTORY if sign == card.LOAN_FILE else "runs") / sign)
    with FileLock.acquire(data_dir / "runs" / "leash"):
        assert (card.find_loan(data_dir) is not None) is bool(sign)
    assert card.find_loan(data_dir) is None


async def test_a_killed_trainer_that_is_tried_again_leaves_the_model_paused_in_between(services, monkeypatch):
    starts = 0
    start = ScriptedRuntime.start

    async def counted(self: ScriptedRuntime) -> None:
        nonlocal starts
        starts += 1
        await start(self)

    monkeypatch.setattr(ScriptedRuntime, "start", counted)
    run = await services.finetune.start(config("killed-once"))
    async for event in services.finetune.events(run.id).follow():
        if event.type == "progress" and len((await services.finetune.get(run.id)).attempts) == 2:
            break
    assert not scripted(services).started
    assert starts == 0
    go(services, run)
    assert (await services.finetune.wait(run.id)).status == "completed"
    await until(lambda: scripted(services).started)
    assert starts == 1


async def test_a_server_that_is_restarted_in_the_middle_leaves_the_model_paused(stand_in, data_dir):
    async with stand_in(data_dir, serving=True) as first:
        for number in range(20):
            await first.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        (data_dir / NEEDS_CARD).touch()
        await first.runtimes.get("scripted")
        run = await first.finetune.start(config())
        await begun(first, run)
    async with stand_in(data_dir, serving=True) as second:
        with pytest.raises(RuntimePausedError):
            await second.runtimes.get("scripted")
        assert "graphics card" in (await second.finetune.get(run.id)).notice
        go(second, run)
        await second.finetune.wait(run.id)
        assert await answers(second)


async def test_the_run_of_another_process_pauses_the_model_here_and_its_kill_brings_it_back(stand_in, data_dir):
    async with stand_in(data_dir) as ours:  # as a command line that debates while the server trains
        for number in range(20):
            await ours.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        (data_dir / NEEDS_CARD).touch()
        assert await answers(ours)
        server = subprocess.Popen([sys.executable, SERVER, data_dir, "waits"], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        run_id = UUID(await asyncio.to_thread(_said_run, server.stdout))
        await until((data_dir / "runs" / str(run_id) / "been-here").exists)
        assert not scripted(ours).started
        with pytest.raises(RuntimePausedError):
            await ours.runtimes.get("scripted")
        server.kill()
        server.wait()
        server.stdout.close()
        assert ours.runtimes.find_why_paused("scripted"), "the trainer lives, so the card is in use"
        for process in supervisor.find_processes(str(run_id)):
            os.kill(process.pid, signal.SIGKILL)
        await until(lambda: scripted(ours).started)
        assert await answers(ours)


async def test_a_process_with_a_model_that_was_killed_is_not_waited_for(data_dir):
    data_dir.mkdir()
    code = (
        "import sys; from pathlib import Path; from tmde_core.card import Presence\n"
        "held = Presence(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, data_dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    await asyncio.to_thread(holder.stdout.readline)
    assert [user.pid for user in card.read_users(data_dir)] == [holder.pid]
    waiting = asyncio.create_task(asyncio.to_thread(await_card.wait, data_dir, uuid4()))
    holder.kill()
    assert await waiting == []
    holder.communicate()


async def test_a_process_that_does_not_answer_is_waited_for_only_so_long(data_dir):
    data_dir.mkdir()
    presence = card.Presence(data_dir)
    assert [user.pid for user in await_card.wait(data_dir, uuid4(), longest=0.05)] == [os.getpid()]
    presence.close()
    assert card.read_users(data_dir) == []


async def test_what_was_paused_is_written_down_for_other_processes(data_dir):
    (data_dir / "runs").mkdir(parents=True)
    loan = card.Loan(id=uuid4(), run_id=uuid4(), run_name="Sums", leash="runs/leash", vram_bytes=1)
    with FileLock.acquire(data_dir / "runs" / "leash"):
        card.lend(data_dir, loan)
        presence = card.Presence(data_dir)
        presence.answer(loan.id, ("embedded",))
        assert await_card.wait(data_dir, loan.id) == []
        found = card.find_loan(data_dir)
        assert found is not None
        assert found.runtimes == ("embedded",)
        assert found.describe().endswith("It is back when the run has ended.")
        overdue = msgspec.structs.replace(found, ends_at=utc_now())
        assert overdue.describe().endswith("It should be back soon.")
        presence.close()
    assert card.find_loan(data_dir) is None, "nobody holds the leash"


@pytest.mark.parametrize(
    ("mode", "free", "pauses"),
    [
        ("never", 0, False),
        ("when-needed", 0, True),
        ("when-needed", 6_000, True),
        ("when-needed", 24_000, False),
        ("always", 24_000, True),
    ],
)
async def test_the_setting_and_the_room_on_the_card_decide(data_dir, monkeypatch, mode, free, pauses):
    gpus = (Gpu(name="small", total_bytes=MIB, used_bytes=0), Gpu("big", 24_576 * MIB, (24_576 - free) * MIB))
    monkeypatch.setattr(lending, "read_usable_gpus", lambda: gpus)
    chosen = msgspec.structs.replace(
        settings_on(data_dir), supervisor=SupervisorSettings(niceness=0, pause_runtimes=mode)
    )
    async with open_services(chosen, stand_in_plugins(), serving=True) as services:
        for number in range(20):
            await services.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        (data_dir / NEEDS_CARD).touch()
        await services.runtimes.get("scripted")
        preview = await services.previews.preview(config())
        assert ("paused until the run has ended" in preview.pause) is pauses
        assert ("may fail for lack of memory" in preview.pause) is (mode == "never")
        run = await services.finetune.start(config())
        await begun(services, run)
        assert bool(run.notice) is pauses
        assert scripted(services).started is not pauses
        go(services, run)
        await services.finetune.wait(run.id)


@pytest.mark.parametrize(
    ("device", "fits"), [("NVIDIA GeForce RTX 3070", False), ("RTX 3090", True), ("", True), ("unlisted", True)]
)
async def test_room_on_another_card_is_no_room(monkeypatch, device, fits):
    gpus = (Gpu("RTX 3070", 8_192 * MIB, 0), Gpu("NVIDIA GeForce RTX 3090", 24_576 * MIB, 0))
    monkeypatch.setattr(lending, "read_usable_gpus", lambda: gpus)
    assert await lending.has_room(ResourceEstimate(vram_bytes=10_000 * MIB, device=device)) is fits


async def test_a_run_on_the_processor_changes_nothing(services, data_dir):
    (data_dir / NEEDS_CARD).unlink()
    assert (await services.previews.preview(config())).pause == ""
    run = await services.finetune.start(config())
    assert run.notice == ""
    await begun(services, run)
    assert await answers(services)
    assert card.read_loan(data_dir) is None
    go(services, run)
    await services.finetune.wait(run.id)


async def test_a_runtime_that_holds_no_card_is_not_paused(services):
    scripted(services).vram_bytes = None
    assert (await services.previews.preview(config())).pause == ""
    run = await services.finetune.start(config())
    await begun(services, run)
    assert await answers(services)
    scripted(services).vram_bytes = 1  # as a model that is loaded in the middle of the run
    await until(lambda: not scripted(services).started)
    go(services, run)
    await services.finetune.wait(run.id)
    await until(lambda: scripted(services).started)
