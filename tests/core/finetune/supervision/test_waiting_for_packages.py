"""A run whose backend is not installed yet waits for its packages, and then begins. Processes, pip and locks are real."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.core.backends.tiny import make_lock, pip_variables
from tests.core.finetune.conftest import make_trace, settings_on
from tests.core.finetune.supervision.waiting_plugin import write_plugin
from tmde_core.finetune.preview import service as preview
from tmde_core.finetune.supervision import await_packages
from tmde_core.finetune.supervision.becoming import put_before
from tmde_core.finetune.supervision.launch import AWAITS
from tmde_core.plugins import Plugins
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import WorkerCommand
from tmde_core.sdk.environments import VARIABLES
from tmde_core.services import Services, open_services
from tmde_core.storage.locks import FileLock
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins

CONFIG = FineTuneConfig(backend="waiting", base_model="any", min_traces=5)


@pytest.fixture
async def services(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    """Services whose backend `waiting` is installed before its first run."""
    lock = make_lock(tmp_path)
    write_plugin(tmp_path / "plugin", lock)
    for name, value in pip_variables(tmp_path / "wheels").items():
        monkeypatch.setenv(name, value)
    path = os.pathsep.join(filter(None, (str(tmp_path / "plugin"), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    importlib.invalidate_caches()
    plugins = scripted_plugins(ScriptedRuntime(), Plugins.load())
    async with open_services(settings_on(data_dir), plugins, serving=True) as opened:
        for number in range(10):
            await opened.traces.add(make_trace(f"What is {number} times 7?", f"It is {number * 7}.", minutes=number))
        yield opened
    for name in [name for name in sys.modules if name.startswith("waiting_plugin")]:
        del sys.modules[name]


def held(data_dir: Path) -> FileLock:
    """Hold the lock of the environment, as a process that installs it does."""
    (data_dir / "envs").mkdir(parents=True, exist_ok=True)
    return FileLock.acquire(data_dir / "envs" / ".waiting.lock")


@pytest.mark.slow
async def test_a_run_installs_what_it_needs_without_the_server_and_begins_when_that_is_done(services, data_dir):
    run = await services.finetune.start(CONFIG)
    assert run.status == "pending"
    assert run.notice.startswith("Waiting for the packages of training")
    ended = await services.finetune.wait(run.id)
    assert f"It ran in {data_dir / 'envs' / 'waiting'} with version 1.0." in ended.error_message
    assert AWAITS in [event.data.get("text") for event in services.finetune.events(run.id).read()]
    assert services.backends.find("waiting").state == "installed"
    again = await services.finetune.start(CONFIG)
    assert not again.notice, "what is installed is not waited for"
    await services.finetune.wait(again.id)


@pytest.mark.slow
async def test_a_conversion_waits_for_the_packages_of_the_backend_that_converts_and_shows_it(services, data_dir):
    environment = data_dir / "envs" / "waiting"
    worker = Path(sys.modules["waiting_plugin"].__path__[0], "worker.py")
    converting = WorkerCommand(argv=(str(environment / "bin" / "python"), str(worker)), env=dict(VARIABLES))
    waiting = put_before(converting, await_packages, str(data_dir), "waiting", await_packages.NO_RUN)
    process = await asyncio.create_subprocess_exec(
        *waiting.argv, env={**os.environ, **waiting.env}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert out.startswith(b"Waiting for the packages of training")
    assert f"It ran in {environment} with version 1.0.".encode() in errors


async def test_a_run_that_waits_is_cancelled_at_once_and_the_installation_is_left_alone(services, data_dir):
    with held(data_dir):
        run = await services.finetune.start(CONFIG)
        assert (await services.finetune.get(run.id)).notice == "Waiting for the packages of training."
        assert (await services.finetune.cancel(run.id)).status == "cancelled"
        assert await services.finetune.get_current() is None


async def test_a_run_whose_packages_cannot_be_installed_fails_with_one_sentence_that_says_why(services, data_dir):
    (data_dir / "envs").mkdir()
    (data_dir / "envs" / "waiting").write_text("in the way")
    ended = await services.finetune.wait((await services.finetune.start(CONFIG)).id)
    assert ended.status == "failed"
    assert ended.error_message.startswith("The packages of training could not be installed. ")
    assert len(ended.attempts) == 1, "it is not tried again by itself"


async def test_the_backend_is_available_and_says_that_a_run_waits(services):
    report = next(one for one in services.finetune.backends() if one.name == "waiting")
    assert report.availability.ok
    assert "A run waits for them" in report.availability.reason


async def test_a_preview_installs_nothing_and_says_that_the_run_does(services, data_dir):
    seen = await services.previews.preview(CONFIG)
    assert (seen.examples, seen.note, seen.refusal) == (10, preview.NO_PACKAGES, None)
    assert not (data_dir / "envs").exists()


async def test_a_preview_waits_visibly_while_the_packages_are_installed(services, data_dir, monkeypatch):
    monkeypatch.setattr(preview, "PACKAGES_SECONDS", 0.01)
    (data_dir / "envs").mkdir()
    (data_dir / "envs" / "waiting.progress.json").write_text(
        '{"name":"waiting","build":"cpu","state":"installing","step":"Packages","done":37,"total":60,"detail":"torch, 180 MB",'
        '"seconds":1.0,"error":"","startedAt":"2026-01-01T00:00:00Z","process":1}'
    )
    with held(data_dir):
        parts = services.previews.parts(CONFIG)
        assert (await anext(parts)).note == "Waiting for the packages of training: 37 of 60 (torch, 180 MB)."
    assert (await anext(parts)).note == preview.NO_PACKAGES, "the process that installed them has ended"
    await parts.aclose()


class Others:
    """An installation by another process, and what this process installs."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.installed, self.examined = refusals, False, False

    def awaits_installation(self, _: str) -> bool:
        return not self.installed

    async def install(self, _: str) -> None:
        if self.refusals:
            self.refusals -= 1
            raise await_packages.ConflictError("It is being installed now.")
        self.installed = True

    def is_busy(self, _: str) -> bool:
        return True

    async def require_working(self, _: str) -> None:
        self.examined = True


async def test_what_another_process_leaves_unfinished_the_waiting_run_finishes(monkeypatch):
    monkeypatch.setattr(await_packages, "POLL_SECONDS", 0)
    others = Others(refusals=3)
    await asyncio.wait_for(await_packages.wait(others, "waiting"), 10)
    assert others.installed
    assert others.examined
