"""Installing in the background, with a real virtual environment and the real pip."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tmde_core.backends import service
from tmde_core.backends.building import InstallProgress
from tmde_core.backends.installing import Installations
from tmde_core.backends.progress import Installation, InstallationFile
from tmde_core.backends.service import BackendEnvironments
from tmde_core.errors import ConflictError, InsufficientStorageError, InvalidInputError, PluginUnavailableError
from tmde_core.storage.locks import FileLock

Make = Callable[..., BackendEnvironments]


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "find_driver", lambda: None)


@pytest.fixture
def envs(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "envs"
    folder.mkdir(parents=True)
    return folder


def elsewhere(envs: Path, step: str = "Packages") -> InstallationFile:
    """Write the progress of an installation by another process."""
    record = InstallationFile(envs / "mine.progress.json", "mine", "cpu")
    record.tell(InstallProgress(step=step, done=3, total=9, detail="torch, 200 MB"))
    return record


@pytest.mark.slow
async def test_an_installation_runs_in_the_background_and_every_process_sees_it(environments: Make):
    installations, other = Installations(environments()), Installations(environments())
    assert installations.current("mine") is None
    started, again = await asyncio.gather(installations.start("mine"), installations.start("mine"))
    assert (started.name, started.build, started.state) == ("mine", "cpu", "installing")
    assert again.started_at == started.started_at, "the same one is returned"
    assert installations.is_own(started)
    seen = other.current("mine")
    assert seen is not None
    assert (seen.state, seen.started_at) == ("installing", started.started_at)
    assert not other.is_own(seen)
    with pytest.raises(ConflictError, match="is being installed or removed now"):
        await other.start("mine")
    with pytest.raises(ConflictError, match="press Ctrl"):
        await other.cancel("mine")
    assert (await installations.cancel("mine")).state == "cancelled"
    await installations.start("mine")
    await installations.aclose()
    current = other.current("mine")
    assert current is not None
    assert current.state == "cancelled"

    await installations.start("mine")
    mine, theirs = await asyncio.gather(installations.wait("mine"), other.wait("mine"))
    assert mine == theirs
    assert (mine.state, mine.error) == ("done", "")
    assert mine.seconds > 0
    with pytest.raises(ConflictError, match="is not being installed"):
        await installations.cancel("mine")
    await other._backends.remove("mine")
    assert installations.current("mine") is None, "a removed environment has no installation"


async def test_a_failure_is_told_in_words_and_stays_until_the_next_installation(
    environments: Make, monkeypatch: pytest.MonkeyPatch
):
    async def fail(*arguments: object) -> None:
        arguments[-1](InstallProgress(step="Packages"))  # type: ignore[operator]
        raise PluginUnavailableError("The step 'Packages' failed: no network. All of the output is in /log.")

    monkeypatch.setattr(service, "build_environment", fail)
    installations = Installations(environments())
    await installations.start("mine")
    ended = await installations.wait("mine")
    assert (ended.state, ended.step) == ("failed", "Packages")
    assert "no network" in ended.error
    assert Installations(environments()).current("mine") == ended


async def test_what_is_refused_is_told_at_once_and_leaves_nothing(environments: Make):
    with pytest.raises(InsufficientStorageError):
        await (installations := Installations(environments(disk_bytes=10**15))).start("mine")
    assert installations.current("mine") is None
    with pytest.raises(InvalidInputError, match="no build 'rocm'"):
        await Installations(environments()).start("mine", "rocm")
    with pytest.raises(InvalidInputError, match="no environment of its own"):
        await Installations(environments()).start("plain")
    with pytest.raises(PluginUnavailableError, match="no training backend called 'nothing'"):
        Installations(environments()).current("nothing")
    assert Installations(environments()).current("plain") is None
    with pytest.raises(ConflictError, match="is not being installed"):
        await installations.wait("mine")


async def test_progress_of_another_process_is_believed_while_the_lock_is_held(environments: Make, envs: Path):
    installations = Installations(environments())
    elsewhere(envs)
    with FileLock.acquire(envs / ".mine.lock"):
        running = installations.current("mine")
        assert running is not None
        assert (running.state, running.step, running.done, running.total) == ("installing", "Packages", 3, 9)
    killed = installations.current("mine")
    assert killed is not None
    assert killed.state == "failed"
    assert "its process ended. Install again: it goes on from there" in killed.error


async def test_cancelling_before_the_first_step_is_a_refusal_and_not_the_end_of_the_caller(
    environments: Make, monkeypatch: pytest.MonkeyPatch
):
    planning, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(service, "find_driver", lambda: (planning.set(), go_on.wait(20), None)[-1])
    installations = Installations(environments())
    starting = asyncio.create_task(installations.start("mine"))
    await asyncio.to_thread(planning.wait, 20)
    assert (await installations.cancel("mine")).state == "cancelled"
    go_on.set()
    with pytest.raises(ConflictError, match="was cancelled"):
        await starting


async def test_waiting_sees_an_installation_that_another_process_has_not_yet_told_of(
    environments: Make, envs: Path, monkeypatch: pytest.MonkeyPatch
):
    installations = Installations(environments())
    look, looked = installations.current, threading.Event()

    def watched(name: str) -> Installation | None:
        found = look(name)
        looked.set()
        return found

    monkeypatch.setattr(installations, "current", watched)
    with FileLock.acquire(envs / ".mine.lock"):
        waiting = asyncio.create_task(installations.wait("mine"))
        await asyncio.to_thread(looked.wait, 20)
        record = elsewhere(envs)
        with record.recording_the_end():
            pass
    assert (await waiting).state == "done"


async def test_waiting_for_another_process_ends_with_its_installation(environments: Make, envs: Path):
    installations, record = Installations(environments()), elsewhere(envs)
    with FileLock.acquire(envs / ".mine.lock"):
        waiting = asyncio.create_task(installations.wait("mine"))
        await asyncio.sleep(0)
        with record.recording_the_end():
            pass
    assert (await waiting).state == "done"


async def test_progress_that_cannot_be_written_is_kept_in_memory(tmp_path: Path):
    record = InstallationFile(tmp_path / "no folder" / "mine.progress.json", "mine", "cpu")
    with pytest.raises(OSError, match="disk"), record.recording_the_end():
        record.tell(InstallProgress(step="Packages"))
        raise OSError("the disk is full")
    assert record.unwritten
    assert record.now.state == "failed"
    assert "the disk is full" in record.now.error


async def test_a_damaged_file_of_progress_counts_as_none(environments: Make, envs: Path):
    file = envs / "mine.progress.json"
    file.write_bytes(b"{")
    assert Installations(environments()).current("mine") is None


async def test_the_server_installs_what_is_missing_with_low_priority_and_nothing_else(
    environments: Make, monkeypatch: pytest.MonkeyPatch
):
    asked: list[int] = []

    async def build(*arguments: object) -> None:
        niceness, tell = arguments[-2:]
        asked.append(niceness)  # type: ignore[arg-type]
        tell(InstallProgress(step="Packages"))  # type: ignore[operator]
        raise PluginUnavailableError("There is no network.")

    monkeypatch.setattr(service, "build_environment", build)
    for mode, count in (("manual", 0), ("on-demand", 0), ("automatic", 1)):
        asked.clear()
        installations = Installations(environments(install=mode))
        installations.start_automatic()
        assert installations._automatic is not None
        await installations._automatic
        await installations.aclose()
        assert len(asked) == count, mode
    assert asked[0] > 0
    assert "There is no network." in environments(install="automatic").describe_missing()
    assert environments(install="manual").describe_missing() == ""


async def test_what_another_process_installs_is_told_with_its_place(environments: Make, envs: Path):
    backends = environments(install="automatic")
    assert backends.describe_wait("plain") == ""
    record = InstallationFile(envs / "mine.progress.json", "mine", "cpu")
    with FileLock.acquire(envs / ".mine.lock"):
        record.tell(InstallProgress(step="Packages", done=37, total=60, detail="torch, 180 MB"))
        assert backends.describe_wait("mine") == "Waiting for the packages of training: 37 of 60 (torch, 180 MB)."
        assert "37 of 60 (torch, 180 MB). You can work meanwhile." in backends.describe_missing()
    assert backends.describe_wait("mine") == "Waiting for the packages of training."


async def test_packages_that_tmde_has_itself_count_as_installed(environments: Make) -> None:
    found = await Installations(environments(own={"pytest": "1"})).start("mine")
    assert (found.state, found.error) == ("done", "")
