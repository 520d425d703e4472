"""Installing in the background, with a real virtual environment and the real pip."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tmde_core.backends import installing, progress, service
from tmde_core.backends.building import InstallProgress
from tmde_core.backends.installing import Installations
from tmde_core.backends.progress import Installation, InstallationFile
from tmde_core.backends.service import BackendEnvironments
from tmde_core.errors import (
    ConflictError,
    InstallationCancelledError,
    InsufficientStorageError,
    InvalidInputError,
    PluginUnavailableError,
)
from tmde_core.settings.schema import SupervisorSettings
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
    with pytest.raises(ConflictError, match="installs the environment of mine now"):
        await other.start("mine")
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


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every installation work until it is cancelled."""

    async def build(*arguments: object) -> None:
        arguments[-1](InstallProgress(step="Packages"))  # type: ignore[operator]
        await asyncio.Event().wait()

    monkeypatch.setattr(service, "build_environment", build)


@pytest.mark.usefixtures("endless")
async def test_another_process_can_cancel_an_installation_which_ends_as_if_it_was_cancelled_there(
    environments: Make, envs: Path
):
    installations, other = Installations(environments()), Installations(environments())
    started = await installations.start("mine")
    ended = await other.cancel("mine")
    assert (ended.state, ended.started_at, ended.error) == ("cancelled", started.started_at, "")
    assert installations.current("mine") == ended
    assert not other._backends.is_busy("mine")
    with pytest.raises(ConflictError, match="is not being installed"):
        await other.cancel("mine")

    terminal = asyncio.create_task(environments().install("mine"))
    while (await asyncio.to_thread(other.current, "mine")) in (None, ended):
        await asyncio.sleep(0.01)
    await other.cancel("mine")
    with pytest.raises(InstallationCancelledError, match="goes on from there"):
        await terminal
    assert not list(envs.glob("*.cancel.json"))


@pytest.mark.usefixtures("endless")
async def test_a_request_to_cancel_an_earlier_installation_is_ignored(
    environments: Make, monkeypatch: pytest.MonkeyPatch
):
    """A page asks for the installation that it has seen, and another one may have begun."""
    looked = asyncio.Event()
    look = progress._read

    def watched(file: Path, kind: type) -> object:
        found = look(file, kind)
        if found is not None and kind is progress.CancelRequest:
            asyncio.get_running_loop().call_soon(looked.set)
        return found

    monkeypatch.setattr(progress, "_read", watched)
    backends = environments()
    installations = Installations(backends)
    first = await installations.start("mine")
    await installations.cancel("mine")
    backends.ask_to_cancel(first)
    second = await installations.start("mine")
    backends.ask_to_cancel(first)
    await looked.wait()
    assert installations.current("mine").state == "installing"  # type: ignore[union-attr]
    assert second.started_at != first.started_at
    await installations.aclose()


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


async def test_a_server_goes_on_with_what_a_killed_process_left_unfinished(environments: Make, envs: Path, monkeypatch):
    """The pip of a killed server holds the lock until it ends. Then the new server installs the rest."""
    monkeypatch.setattr(installing, "POLL_SECONDS", 0.01)
    backends, begun = environments(install="automatic"), asyncio.Event()

    async def build(*arguments: object) -> None:
        arguments[-1](InstallProgress(step="Packages"))  # type: ignore[operator]
        begun.set()
        raise PluginUnavailableError("It ends here.")

    monkeypatch.setattr(service, "build_environment", build)
    elsewhere(envs)
    installations, asked = Installations(backends), asyncio.Event()
    real = backends.is_busy
    monkeypatch.setattr(backends, "is_busy", lambda name: (asked.set(), real(name))[1])
    with FileLock.acquire(envs / ".mine.lock"):
        installations.start_automatic()
        await asyncio.wait_for(asked.wait(), 30)
        assert not begun.is_set()
    await asyncio.wait_for(begun.wait(), 30)
    await installations.aclose()


def test_a_server_whose_runs_a_worker_trains_installs_nothing_by_itself(environments: Make, monkeypatch):
    backends = environments(install="automatic")
    assert backends.list_automatic() == ["mine"]
    assert "The next run installs them first" in backends.describe_missing()
    there = msgspec.structs.replace(backends._settings(), supervisor=SupervisorSettings(place="worker"))
    monkeypatch.setattr(backends, "_settings", lambda: there)
    assert backends.list_automatic() == []
    assert backends.describe_missing() == ""


@pytest.mark.parametrize("mode", ["manual", "on-demand"])
def test_nothing_is_installed_by_itself_unless_the_setting_says_so(environments: Make, mode: str):
    assert environments(install=mode).list_automatic() == []


async def test_why_an_installation_by_itself_could_not_begin_is_told(environments: Make):
    backends = environments(disk_bytes=10**18, install="automatic")
    installations = Installations(backends)
    installations.start_automatic()
    assert installations._automatic is not None
    await asyncio.wait_for(installations._automatic, 30)
    assert "The last attempt failed. The environment needs" in backends.describe_missing()


def test_everything_says_how_far_an_installation_by_another_process_is(environments: Make, envs: Path):
    backends = environments(install="automatic")
    elsewhere(envs)
    with FileLock.acquire(envs / ".mine.lock"):
        assert "are being installed: 3 of 9 (torch, 200 MB)." in backends.describe_missing()
        found = backends.find("mine").availability
        assert found.ok
        assert found.reason == "Its packages are being installed: 3 of 9 (torch, 200 MB). A run waits for them."
    assert "are not installed yet" in backends.find("mine").availability.reason, "the process has ended"


async def test_what_another_process_installs_is_not_examined_and_not_installed_twice(environments: Make, envs: Path):
    backends = environments(install="automatic")
    elsewhere(envs)
    with FileLock.acquire(envs / ".mine.lock"):
        with pytest.raises(PluginUnavailableError, match="is being installed: 3 of 9"):
            await backends.doctor("mine")
        with pytest.raises(ConflictError, match="installs the environment of mine now: 3 of 9"):
            await backends.install("mine")
