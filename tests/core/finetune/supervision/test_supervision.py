"""What becomes of a run whose worker dies, hangs, lacks memory or room, is resumed, or waits for `tmde worker`."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from tmde_core.errors import ConflictError, InsufficientStorageError, NotFoundError, PluginUnavailableError
from tmde_core.finetune.following import RunFollower
from tmde_core.finetune.limits import Limits
from tmde_core.finetune.supervision import supervisor
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.services import open_services
from tmde_core.storage.events import FileLog

UNKNOWN = "00000000-0000-0000-0000-000000000001"


def config(base_model: str, **changes) -> FineTuneConfig:
    return FineTuneConfig(backend="stand-in", base_model=base_model, min_traces=5, **changes)


def outcomes(run) -> list[str]:
    return [attempt.outcome for attempt in run.attempts]


def sizes(run) -> list[tuple[int, int]]:
    return [(attempt.batch_size, attempt.gradient_accumulation_steps) for attempt in run.attempts]


def kinds(services, run) -> list[str]:
    return [event.type for event in services.finetune.events(run.id).read()]


async def seen(services, run, type_: str):
    async for event in services.finetune.events(run.id).follow():
        if event.type == type_:
            return event
    raise AssertionError(f"the run ended without a {type_}")


async def appeared(path: Path) -> None:
    while not path.exists():
        await asyncio.sleep(0.02)


async def trained(services, base_model: str, **changes):
    return await services.finetune.wait((await services.finetune.start(config(base_model, **changes))).id)


def shorten(services, **changes) -> None:
    services.finetune.watching.limits = Limits(**{"look_seconds": 0.05, **changes})


# ------------------------------------------------------------------------------------------- deaths


async def test_a_killed_worker_goes_on_by_itself_and_every_process_is_on_record(services):
    run = await services.finetune.start(config("killed-once"))
    (services.finetune.run_dir(run.id) / "go").touch()
    run = await services.finetune.wait(run.id)
    assert (run.status, outcomes(run)) == ("completed", ["killed", "completed"])
    first, second = run.attempts
    assert (first.number, first.automatic, second.number, second.automatic) == (1, False, 2, True)
    assert first.reason == (
        "The training process was killed by signal 9 (SIGKILL): usually the system ran out of memory, or somebody ended the "
        "process. Its log ends: about to be killed"
    )
    assert first.started_at <= first.ended_at <= second.started_at <= second.ended_at
    assert kinds(services, run)[-1] == "complete"
    assert not {"error", "cancelled"} & set(kinds(services, run))


async def test_a_run_that_was_killed_goes_on_from_its_newest_checkpoint_and_ends_the_same(services):
    undisturbed = await trained(services, "steps-23")
    run = await services.finetune.start(config("steps-23-held-at-12"))
    await seen(services, run, "checkpoint")
    for process in supervisor.find_processes(str(run.id)):
        process.kill()
    (services.finetune.run_dir(run.id) / "go").touch()
    ended = await services.finetune.wait(run.id)
    assert outcomes(ended) == ["killed", "completed"]
    resumed_from = ended.attempts[1].resumed_from_step
    assert resumed_from is not None
    assert resumed_from % 5 == 0
    job = from_json((services.finetune.run_dir(run.id) / "job.json").read_bytes(), dict)
    assert job["resumeFrom"].endswith(f"step-{resumed_from:08d}")
    one, two = await services.lora.get(undisturbed.id), await services.lora.get(run.id)
    assert one.sha256 == two.sha256


async def test_after_three_deaths_a_run_fails_and_says_how_often(services):
    run = await trained(services, "killed")
    assert (run.status, outcomes(run)) == ("failed", ["killed"] * 3)
    assert run.error_message.endswith("That happened 3 times, so it is not started again by itself.")
    assert kinds(services, run)[-1] == "error"


async def test_a_worker_that_someone_else_told_to_end_goes_on_too(services):
    run = await services.finetune.start(config("terminated-once"))
    (services.finetune.run_dir(run.id) / "go").touch()
    run = await services.finetune.wait(run.id)
    assert outcomes(run) == ["killed", "completed"]
    assert "SIGTERM" in run.attempts[0].reason


async def test_two_watchers_of_a_dead_worker_start_one_new_worker(services, stand_in, data_dir):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    async with stand_in(data_dir) as other:
        waiting = asyncio.create_task(other.finetune.wait(run.id))
        while run.id not in other.finetune.watching._watches:
            await asyncio.sleep(0.01)
        for process in supervisor.find_processes(str(run.id)):
            process.kill()
        while len((await services.finetune.get(run.id)).attempts) < 2:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert len(supervisor.find_processes(str(run.id))) == 1
        (services.finetune.run_dir(run.id) / "go").touch()
        assert outcomes(await waiting) == ["killed", "completed"]
    assert (await services.finetune.wait(run.id)).status == "completed"


async def test_a_run_that_cannot_be_started_again_fails_with_both_reasons(services, monkeypatch):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200 * 1024**2))
    for process in supervisor.find_processes(str(run.id)):
        process.kill()
    ended = await services.finetune.wait(run.id)
    assert ended.status == "failed"
    assert "was killed by signal 9 (SIGKILL)" in ended.error_message
    assert "could not be started again: A training run needs up to 500 MB" in ended.error_message


# ------------------------------------------------------------------------------------------- memory


async def test_lack_of_memory_halves_the_batch_and_doubles_the_accumulation_until_it_fits(services):
    run = await trained(services, "memory-for-2", batch_size=8, gradient_accumulation_steps=4)
    assert run.status == "completed"
    assert outcomes(run) == ["out-of-memory", "out-of-memory", "completed"]
    assert sizes(run) == [(8, 4), (4, 8), (2, 16)]
    assert (run.config.batch_size, run.config.gradient_accumulation_steps) == (8, 4)
    assert "error" not in kinds(services, run)
    job = from_json((services.finetune.run_dir(run.id) / "job.json").read_bytes(), dict)
    assert (job["config"]["batchSize"], job["config"]["gradientAccumulationSteps"]) == (2, 16)


async def test_after_three_tries_lack_of_memory_fails_the_run_with_what_was_tried(services):
    run = await trained(services, "memory-for-0", batch_size=32, gradient_accumulation_steps=16)
    assert (run.status, outcomes(run)) == ("failed", ["out-of-memory"] * 3)
    assert sizes(run) == [(32, 16), (16, 16), (8, 16)]
    assert "It was tried 3 times, at last with batches of 8 and 16 accumulation steps" in run.error_message
    last = services.finetune.events(run.id).read()[-1]
    assert (last.type, last.data["reason"], last.data["detail"]) == ("error", "out-of-memory", run.error_message)


async def test_a_batch_of_one_is_not_halved(services):
    run = await trained(services, "memory-for-0", batch_size=1)
    assert (run.status, outcomes(run)) == ("failed", ["out-of-memory"])
    assert "A batch of one example is the smallest" in run.error_message


async def test_a_worker_that_the_system_killed_for_memory_gets_smaller_batches(services):
    run = await services.finetune.start(config("killed-for-memory", batch_size=4))
    (services.finetune.run_dir(run.id) / "go").touch()
    run = await services.finetune.wait(run.id)
    assert (run.status, outcomes(run)) == ("completed", ["out-of-memory", "completed"])
    assert "because memory ran out" in run.attempts[0].reason
    assert sizes(run)[1] == (2, 8)


async def test_smaller_batches_go_on_from_the_checkpoint_because_a_step_learns_from_as_many_examples(services):
    run = await services.finetune.start(config("checkpointed"))
    await seen(services, run, "checkpoint")
    run_dir = services.finetune.run_dir(run.id)
    FileLog(run_dir / "events.jsonl").append("log", {"text": "Too little.", "reason": "out-of-memory"})
    for process in supervisor.find_processes(str(run.id)):
        process.kill()
    while len((await services.finetune.get(run.id)).attempts) < 2:
        await asyncio.sleep(0.02)
    again = (await services.finetune.get(run.id)).attempts[1]
    assert (again.batch_size, again.gradient_accumulation_steps, again.resumed_from_step) == (2, 8, 3)
    await services.finetune.cancel(run.id)


# --------------------------------------------------------------------------------------- hung, disk


async def test_a_worker_that_lives_but_makes_no_step_is_ended_and_the_run_says_so_with_figures(services):
    shorten(services)
    run = await services.finetune.start(config("checkpointed"))
    await seen(services, run, "checkpoint")
    msgspec.structs.force_setattr(services.finetune.watching.limits, "step_seconds", 0.6)
    run = await services.finetune.wait(run.id)
    assert (run.status, outcomes(run)) == ("failed", ["hung"])
    assert run.error_message.startswith("The training process hung: it lived, but made no step for ")
    assert "(the limit is 0.6 s" in run.error_message
    assert run.error_message.endswith("It was ended after step 3 of 3; the newest checkpoint is of step 3.")
    assert not supervisor.find_processes(str(run.id))
    last = services.finetune.events(run.id).read()[-1]
    assert (last.type, last.data["reason"], last.data["detail"]) == ("error", "hung", run.error_message)


async def test_a_worker_that_was_stopped_is_ended_for_want_of_a_sign_of_life(services, monkeypatch):
    monkeypatch.setattr(supervisor.end_family, "__defaults__", (0.2,))
    shorten(services, silent_seconds=3.0)
    run = await trained(services, "stops")
    assert (run.status, outcomes(run)) == ("failed", ["hung"])
    assert "it gave no sign of life for " in run.error_message


async def test_what_a_dead_worker_left_behind_does_not_keep_the_run_alive(services, stand_in, data_dir):
    async with stand_in(data_dir) as command_line:
        run = await command_line.finetune.start(config("grandchild"))
    shorten(services, orphan_seconds=0.3)
    await services.finetune.get_current()  # adopted: this process is not the worker's parent
    note = services.finetune.run_dir(run.id) / "grandchild"
    await appeared(note)
    await asyncio.sleep(0.1)
    for process in supervisor.find_processes(str(run.id)):
        if process.pid != int(note.read_text()):
            process.kill()
    assert outcomes(await services.finetune.wait(run.id)) == ["killed", "failed"]
    assert not supervisor.find_processes(str(run.id))


async def test_a_disk_that_fills_up_ends_the_run_which_can_be_resumed(services, monkeypatch):
    shorten(services)
    run = await services.finetune.start(config("full"))
    await seen(services, run, "checkpoint")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=42 * 1024**2))
    ended = await services.finetune.wait(run.id)
    assert (ended.status, outcomes(ended)) == ("failed", ["failed"])
    assert ended.error_message.startswith("The disk is full: 42 MB are free in ")
    assert "a run is ended below 100 MB" in ended.error_message
    assert services.finetune.events(run.id).read()[-1].data["reason"] == "disk-full"
    with pytest.raises(InsufficientStorageError, match="42 MB are free"):
        await services.finetune.resume(run.id)
    monkeypatch.undo()
    (services.finetune.run_dir(run.id) / "go").touch()
    await services.finetune.resume(run.id)
    again = await services.finetune.wait(run.id)
    assert (again.status, again.error_message) == ("completed", None)
    assert again.attempts[1].resumed_from_step == 3


# ------------------------------------------------------------------------------------------- resume


async def test_a_cancelled_run_is_resumed_under_its_id_with_its_log_going_on(services):
    run = await services.finetune.start(config("checkpointed"))
    await seen(services, run, "checkpoint")
    await services.finetune.cancel(run.id)
    before = services.finetune.events(run.id).read()
    resumed = await services.finetune.resume(run.id)
    assert (resumed.id, resumed.status, resumed.completed_at) == (run.id, "pending", None)
    assert not (services.finetune.run_dir(run.id) / "cancel").exists()
    (services.finetune.run_dir(run.id) / "go").touch()
    ended = await services.finetune.wait(run.id)
    assert (ended.status, outcomes(ended)) == ("completed", ["cancelled", "completed"])
    assert (ended.attempts[1].resumed_from_step, ended.attempts[1].automatic) == (3, False)
    events = services.finetune.events(run.id).read()
    assert events[: len(before)] == before
    assert before[-1].type == "cancelled"
    mark = events[len(before)]
    assert (mark.type, mark.data) == ("log", {"text": "Attempt 2 begins after step 3.", "attempt": 2})
    assert events[-1].type == "complete"
    assert (await services.lora.get(run.id)).is_valid


async def test_a_person_who_resumes_gets_three_deaths_more(services):
    run = await trained(services, "killed")
    (services.finetune.run_dir(run.id) / "checkpoints" / "step-00000002").mkdir(parents=True)
    await services.finetune.resume(run.id)
    assert outcomes(await services.finetune.wait(run.id)) == ["killed"] * 6


async def test_only_what_failed_or_was_cancelled_with_a_checkpoint_can_be_resumed(services):
    done = await trained(services, "quick")
    with pytest.raises(ConflictError, match=r"is completed. Only one that failed or was cancelled"):
        await services.finetune.resume(done.id)
    without = await trained(services, "raises")
    with pytest.raises(ConflictError, match="has no complete checkpoint to go on from"):
        await services.finetune.resume(without.id)
    with pytest.raises(NotFoundError):
        await services.finetune.resume(UNKNOWN)
    damaged = await services.finetune.start(config("spoils-its-adapter"))
    (services.finetune.run_dir(damaged.id) / "go").touch()
    assert (await services.finetune.wait(damaged.id)).status == "failed"
    with pytest.raises(ConflictError, match="has published its adapter already"):
        await services.finetune.resume(damaged.id)


async def test_a_run_is_not_resumed_while_another_is_in_progress(services):
    first = await services.finetune.start(config("checkpointed"))
    await seen(services, first, "checkpoint")
    await services.finetune.cancel(first.id)
    second = await services.finetune.start(config("waits"))
    with pytest.raises(ConflictError, match=str(second.id)):
        await services.finetune.resume(first.id)
    with pytest.raises(ConflictError, match=r"is (pending|running)"):
        await services.finetune.resume(second.id)
    assert (await services.finetune.get(first.id)).status == "cancelled"
    await services.finetune.cancel(second.id)


# ------------------------------------------------------------------------------------ listeners, log


async def test_every_listener_is_told_of_the_end_once_also_when_another_fails(services):
    told = []

    async def fails(_event):
        raise RuntimeError("a defect of mine")

    async def listens(event):
        await asyncio.sleep(0)
        told.append((event.run_id, event.status))

    services.observers.subscribe(fails)
    services.observers.subscribe(listens)
    one, two = await trained(services, "quick"), await trained(services, "raises")
    await services.finetune.list()
    assert told == [(one.id, "completed"), (two.id, "failed")]


async def test_the_end_of_the_log_is_shown_as_it_was_seen(services):
    run = await trained(services, "killed")
    assert await services.finetune.log_tail(run.id, 2) == "about to be killed\nabout to be killed"
    with (services.finetune.run_dir(run.id) / "worker.log").open("a") as log:
        log.write("loading  1%\rloading 99%\rloaded\nand on")
    assert await services.finetune.log_tail(run.id, 2) == "loaded\nand on"
    with pytest.raises(NotFoundError):
        await services.finetune.log_tail(UNKNOWN)


# -------------------------------------------------------------------------------------------- queue


@asynccontextmanager
async def enqueueing(data_dir: Path, plugins, settings, *, serving: bool = False) -> AsyncIterator:
    """Services that leave training to a `tmde worker`."""
    placed = msgspec.structs.replace(settings, supervisor=msgspec.structs.replace(settings.supervisor, place="worker"))
    async with open_services(placed, plugins, serving=serving) as services:
        yield services


@pytest.fixture
async def placed(services):
    """The services of a server that only enqueues, and those of a worker, on the same data."""
    settings, plugins = services.settings, services.plugins
    async with (
        enqueueing(settings.data_path, plugins, settings) as server,
        enqueueing(settings.data_path, plugins, settings) as worker,
    ):
        yield server, worker


async def test_a_queued_run_is_frozen_and_waits_for_a_worker_that_sees_it_to_its_end(placed):
    server, worker = placed
    run = await server.finetune.start(config("killed-once"))
    assert (run.status, run.queued, run.attempts) == ("pending", True, ())
    assert run.dataset_hash
    await asyncio.sleep(0.1)
    assert not supervisor.is_alive(server.finetune.run_dir(run.id))
    with pytest.raises(ConflictError, match=str(run.id)):
        await server.finetune.start(config("quick"))
    waiting = asyncio.create_task(server.finetune.wait(run.id))
    working = asyncio.create_task(worker.finetune.run_worker(once=True))
    (server.finetune.run_dir(run.id) / "go").touch()
    ended = await waiting
    assert (ended.status, ended.queued, outcomes(ended)) == ("completed", False, ["killed", "completed"])
    await working


async def test_a_queued_run_can_be_cancelled_and_no_worker_takes_it(placed):
    server, worker = placed
    run = await server.finetune.start(config("quick"))
    cancelled = await server.finetune.cancel(run.id)
    assert (cancelled.status, cancelled.queued, cancelled.attempts) == ("cancelled", False, ())
    assert kinds(server, run) == ["cancelled"]
    await worker.finetune.run_worker(once=True)
    assert (await server.finetune.get(run.id)).status == "cancelled"


async def test_a_second_worker_is_refused_and_told_where_the_first_one_is(placed):
    server, worker = placed
    run = await server.finetune.start(config("steps-20"))
    ended = await asyncio.gather(
        worker.finetune.run_worker(once=True), server.finetune.run_worker(once=True), return_exceptions=True
    )
    assert ended[0] is None
    assert isinstance(ended[1], ConflictError)
    assert f"A worker runs on {socket.gethostname()} (process {os.getpid()})" in ended[1].detail
    trained = await server.finetune.get(run.id)
    assert (trained.status, outcomes(trained)) == ("completed", ["completed"])


async def test_a_waiting_run_says_whether_a_worker_is_there(placed):
    server, worker = placed
    assert server.finetune.describe_worker().startswith("Runs are trained by a worker. No worker is running.")
    run = await server.finetune.start(config("quick"))
    assert run.notice == (
        "The run waits for a worker. No worker is running. Start `tmde worker` on this data directory."
    )
    held = asyncio.Event()
    working = asyncio.create_task(
        worker.finetune.run_worker(once=True, first=lambda tell: _doing(tell, "It installs something.", held))
    )
    while "It installs something." not in (await server.finetune.get(run.id)).notice:
        await asyncio.sleep(0.01)
    assert "It installs something." in server.finetune.describe_worker()
    held.set()
    await working
    ended = await server.finetune.get(run.id)
    assert (ended.status, ended.notice, server.finetune.find_worker()) == ("completed", "", None)


async def _doing(tell, what: str, held: asyncio.Event) -> None:
    tell(what)
    await held.wait()


async def test_a_worker_that_pauses_stops_the_run_at_a_checkpoint_and_the_next_one_goes_on(placed):
    server, worker = placed
    run = await server.finetune.start(config("paced-40"))
    working = asyncio.create_task(worker.finetune.run_worker(pause=True))
    await seen(server, run, "progress")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    waiting = await server.finetune.get(run.id)
    assert (waiting.status, waiting.queued, outcomes(waiting)) == ("pending", True, ["paused"])
    assert not supervisor.is_alive(server.finetune.run_dir(run.id))
    events = server.finetune.events(run.id).read()
    last = [event.data["step"] for event in events if event.type == "progress"][-1]
    assert [event.data["step"] for event in events if event.type == "checkpoint"][-1] == last
    assert not {"error", "cancelled"} & set(kinds(server, run))
    await server.finetune.run_worker(once=True)
    ended = await server.finetune.get(run.id)
    assert (ended.status, outcomes(ended)) == ("completed", ["paused", "completed"])
    assert (ended.attempts[1].resumed_from_step, ended.attempts[1].automatic) == (last, False)


async def test_a_pause_ends_a_process_that_never_writes_a_checkpoint(placed):
    server, worker = placed
    worker.finetune.watching.limits = Limits(pause_seconds=0.2, look_seconds=0.05)
    run = await server.finetune.start(config("waits"))
    working = asyncio.create_task(worker.finetune.run_worker(pause=True))
    await seen(server, run, "progress")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    paused = await server.finetune.get(run.id)
    assert (paused.queued, outcomes(paused)) == (True, ["paused"])
    assert (await server.finetune.cancel(run.id)).status == "cancelled"


async def test_a_run_whose_worker_was_killed_while_it_paused_is_queued_by_whoever_looks(placed):
    server, worker = placed
    run = await server.finetune.start(config("waits"))
    working = asyncio.create_task(worker.finetune.run_worker())
    await seen(server, run, "progress")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await worker.finetune.stop()
    (server.finetune.run_dir(run.id) / "pause").touch()
    for process in supervisor.find_processes(str(run.id)):
        process.kill()
    while not (found := await server.finetune.get(run.id)).queued:
        await asyncio.sleep(0.02)
    assert outcomes(found) == ["paused"]


async def test_a_run_is_queued_with_a_backend_that_works_only_where_the_worker_is(placed):
    server, worker = placed
    run = await server.finetune.start(lacking())
    assert run.queued
    found = next(one for one in server.finetune.backends() if one.name == "lacking")
    assert found.availability.ok
    assert found.availability.reason == "The worker checks whether it works there. Here it does not: It lacks a card."
    preview = await server.previews.preview(lacking())
    assert "only the worker" in preview.note
    await worker.finetune.run_worker(once=True)
    ended = await server.finetune.get(run.id)
    assert (ended.status, ended.attempts) == ("failed", ())
    assert "It lacks a card." in ended.error_message


async def test_a_backend_that_the_worker_refuses_is_refused_with_its_reason(placed):
    server, worker = placed
    working = asyncio.create_task(worker.finetune.run_worker())
    while (found := server.finetune.find_worker()) is None or not found.backends:
        await asyncio.sleep(0.01)
    with pytest.raises(PluginUnavailableError, match="worker cannot train with the backend 'lacking': It lacks a card"):
        await server.finetune.start(lacking())
    refused = next(one for one in server.finetune.backends() if one.name == "lacking")
    assert not refused.availability.ok
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def lacking() -> FineTuneConfig:
    return msgspec.structs.replace(config("quick"), backend="lacking")


async def test_the_server_hears_of_a_run_that_another_program_completed(placed):
    server, worker = placed
    heard = []

    async def hear(event) -> None:
        heard.append(event)

    follower = RunFollower(server.stores.runs, hear, look_seconds=0.01)
    await follower.start()
    run = await server.finetune.start(config("quick"))
    await worker.finetune.run_worker(once=True)
    while not heard:
        await asyncio.sleep(0.01)
    await follower.stop()
    assert [(event.run_id, event.status) for event in heard] == [(run.id, "completed")]


async def test_a_worker_that_leaves_lets_the_run_go_on_and_the_next_one_adopts_it(placed):
    server, worker = placed
    run = await server.finetune.start(config("waits"))
    working = asyncio.create_task(worker.finetune.run_worker())
    await seen(server, run, "progress")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await worker.finetune.stop()
    assert supervisor.is_alive(server.finetune.run_dir(run.id))
    (server.finetune.run_dir(run.id) / "go").touch()
    await server.finetune.run_worker(once=True)
    assert outcomes(await server.finetune.get(run.id)) == ["completed"]


async def test_a_server_that_only_enqueues_starts_no_worker_when_one_dies(placed):
    server, worker = placed
    run = await server.finetune.start(config("waits"))
    working = asyncio.create_task(worker.finetune.run_worker())
    await seen(server, run, "progress")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await worker.finetune.stop()
    for process in supervisor.find_processes(str(run.id)):
        process.kill()
    await server.finetune.settle(watch=True)
    assert len((await server.finetune.get(run.id)).attempts) == 1
    assert (await server.finetune.cancel(run.id)).status == "cancelled"


async def test_a_resumed_run_waits_for_a_worker_too(placed):
    server, worker = placed
    run = await server.finetune.start(config("checkpointed"))
    working = asyncio.create_task(worker.finetune.run_worker())
    await seen(server, run, "checkpoint")
    await server.finetune.cancel(run.id)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    resumed = await server.finetune.resume(run.id)
    assert (resumed.status, resumed.queued) == ("pending", True)
    (server.finetune.run_dir(run.id) / "go").touch()
    await worker.finetune.run_worker(once=True)
    ended = await server.finetune.get(run.id)
    assert (ended.status, outcomes(ended)) == ("completed", ["cancelled", "completed"])
    assert ended.attempts[1].resumed_from_step == 3


async def test_a_file_reaches_a_worker_that_no_signal_reaches(services, monkeypatch):
    run = await services.finetune.start(config("waits"))
    await seen(services, run, "progress")
    # As in another container: the processes of the run are not to be seen from here.
    monkeypatch.setattr(supervisor, "find_processes", lambda _run_id: [])
    assert (await services.finetune.cancel(run.id)).status == "cancelled"
