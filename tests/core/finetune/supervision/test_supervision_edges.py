"""What goes wrong between two steps of the supervisor: pauses, missing directories, a wish to cancel at the wrong moment."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.core.finetune.supervision.test_supervision import appeared, config, outcomes, seen, shorten
from tmde_core.errors import ConflictError, InsufficientStorageError
from tmde_core.finetune.supervision import supervisor


def nothing_is_left(services, run) -> bool:
    hidden = list(services.stores.adapters.directory.glob(".staging-*"))
    return not supervisor.find_processes(str(run.id)) and not hidden


async def test_a_run_whose_processes_were_stopped_for_a_while_goes_on(services):
    shorten(services, silent_seconds=30.0, step_seconds=30.0)
    run = await services.finetune.start(config("stops"))
    run_dir = services.finetune.run_dir(run.id)
    await appeared(run_dir / "stopping")
    (stopped,) = [one for one in supervisor.find_processes(str(run.id)) if one.pid == os.getpgid(one.pid)]
    while stopped.status() != "stopped":
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # several looks of the watchdog
    (run_dir / "go").touch()
    os.killpg(stopped.pid, signal.SIGCONT)
    assert outcomes(await services.finetune.wait(run.id)) == ["completed"]


def test_whoever_was_stopped_while_it_ended_a_process_does_not_take_that_for_an_immortal_one(monkeypatch):
    environment = {**os.environ, supervisor.RUN_VARIABLE: "pause/1"}
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"],
        env=environment, start_new_session=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        hours = itertools.count(step=3600.0)
        monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: next(hours), sleep=time.sleep))
        supervisor.end_family("pause/1", grace_seconds=60)
        assert process.wait() == -signal.SIGTERM


async def test_a_run_whose_directory_somebody_removed_fails_and_keeps_nobody_waiting(services, tmp_path):
    run = await services.finetune.start(config("says-nothing"))
    await appeared(services.finetune.run_dir(run.id) / "heartbeat")
    # Moved first: the worker goes on writing, so that a directory is not empty for long while its files are deleted.
    shutil.rmtree(services.finetune.run_dir(run.id).rename(tmp_path / "removed"))
    for process in supervisor.find_processes(str(run.id)):
        process.kill()
    ended = await asyncio.wait_for(services.finetune.wait(run.id), 60)
    assert ended.status == "failed"
    assert f"The files of the training run {run.id} are gone." in ended.error_message
    assert nothing_is_left(services, run)


async def test_a_watch_outlives_an_error_of_the_machine(services, monkeypatch):
    take, failures = supervisor.take_leash, iter((errno.EMFILE, errno.ENOSPC))

    def failing(run_dir):
        if (number := next(failures, None)) is not None:
            raise OSError(number, os.strerror(number))
        return take(run_dir)

    run = await services.finetune.start(config("says-nothing"))
    monkeypatch.setattr(supervisor, "take_leash", failing)
    (services.finetune.run_dir(run.id) / "go").touch()
    assert (await asyncio.wait_for(services.finetune.wait(run.id), 60)).status == "completed"
    assert next(failures, None) is None


async def test_a_run_is_cancelled_while_it_is_being_tried_with_smaller_batches(services, monkeypatch):
    launcher = services.finetune.watching._launcher
    ready, begun, go = launcher.require_backend, asyncio.Event(), asyncio.Event()

    async def slowly(name):
        begun.set()
        await go.wait()
        return await ready(name)

    run = await services.finetune.start(config("memory-for-0", batch_size=8))
    monkeypatch.setattr(launcher, "require_backend", slowly)
    await begun.wait()  # the first process lacked memory, the next one is about to be started
    cancelling = asyncio.create_task(services.finetune.cancel(run.id))
    await appeared(services.finetune.run_dir(run.id) / "cancel")
    go.set()
    ended = await cancelling
    assert (ended.status, outcomes(ended)) == ("cancelled", ["out-of-memory", "cancelled"])
    assert nothing_is_left(services, run)


@pytest.mark.parametrize("quick", [True, False])
async def test_a_run_that_is_cancelled_while_it_publishes_is_whole_or_not_there(services, monkeypatch, quick):
    monkeypatch.setattr(supervisor.end, "__defaults__", (5.0 if quick else 0.2,))
    run = await services.finetune.start(config("waits-at-publication"))
    run_dir = services.finetune.run_dir(run.id)
    await appeared(run_dir / "publishing")
    cancelling = asyncio.create_task(services.finetune.cancel(run.id))
    await appeared(run_dir / "cancel")
    if quick:
        (run_dir / "go").touch()
        with pytest.raises(ConflictError, match="was completed before it could be cancelled"):
            await cancelling
        assert (await services.lora.verify(run.id)).is_valid
    else:
        assert (await cancelling).status == "cancelled"
        assert not services.stores.adapters.has(run.id)
    assert nothing_is_left(services, run)


async def test_a_disk_that_is_full_when_the_adapter_is_published_fails_the_run_which_can_be_resumed(services):
    run = await services.finetune.start(config("no-space-at-publication"))
    last = await seen(services, run, "error")
    assert last.data["reason"] == "disk-full"
    assert "is full" in (await services.finetune.get(run.id)).error_message
    assert not services.stores.adapters.has(run.id)
    assert nothing_is_left(services, run)
    await services.finetune.resume(run.id)
    assert (await services.finetune.wait(run.id)).status == "completed"


async def test_a_full_disk_for_the_adapters_alone_is_refused_by_its_name(services, monkeypatch):
    adapters = services.stores.adapters.directory
    adapters.mkdir(exist_ok=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 if path == adapters else 1024**4))
    with pytest.raises(InsufficientStorageError, match=f"of disk in {adapters}; 0 MB are free"):
        await services.finetune.start(config("quick"))
