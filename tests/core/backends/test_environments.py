"""Installing with a real virtual environment and the real pip, from a directory of wheels."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tmde_core.backends import probing, service
from tmde_core.backends.building import InstallProgress, locked_packages
from tmde_core.backends.driver import Driver
from tmde_core.errors import ConflictError, InsufficientStorageError, InvalidInputError, PluginUnavailableError
from tmde_core.sdk.environments import STAMP_FILE
from tmde_core.storage.locks import FileLock

KIT = "tmde_core.sdk.worker, tmde_core.sdk.environments, tmde_core.sdk.files, tmde_core.sdk.adapters"
"""What workers in environments of their own import."""


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "find_driver", lambda: None)


@pytest.mark.slow
async def test_an_environment_is_installed_examined_kept_and_removed(environments, lock, tmp_path):
    backends = environments()
    (mine, plain) = backends.list()
    assert (mine.state, mine.availability.ok, plain.state) == ("absent", False, "built-in")
    assert "tmde backends install mine" in mine.availability.reason
    assert backends.choice().name == "plain"
    assert "Not mine: Its environment is not installed" in backends.choice().why

    plan = backends.plan("mine")
    assert (plan.build, plan.packages, plan.continues) == ("cpu", 1, False)
    told: list[InstallProgress] = []
    report = await backends.install("mine", tell=told.append)
    assert report.versions == {"tiny": "1.0"}
    assert told[0].step == "Creating the environment"
    assert ("Packages", 1, 1) in [(one.step, one.done, one.total) for one in told]
    (mine, _) = backends.list()
    assert (mine.state, mine.build, mine.availability.ok, mine.chosen) == ("installed", "cpu", True, True)

    told.clear()
    assert await backends.install("mine", tell=told.append) == report
    assert [one.step for one in told] == ["Examining the environment"], "what is complete is not installed again"

    environment = backends._environment("mine")
    lock.write_text("tiny-package==2.0\n")
    assert not service._is_current(environment, environment.spec.builds[0]), "another lock file is another environment"
    outdated = backends.find("mine").availability
    assert outdated.ok
    assert "another version of the plugin. `tmde backends install mine` replaces them." in outdated.reason
    automatic = environments(install="automatic")
    assert automatic.list_automatic() == ["mine"]
    assert not automatic.awaits_installation("mine"), "a run uses what is installed"
    assert automatic.describe_missing() == ""

    assert await backends.remove("mine") > 1000
    (mine, _) = backends.list()
    assert (mine.state, mine.report) == ("absent", None)
    assert await backends.remove("mine") == 0


@pytest.mark.slow
async def test_a_cancelled_or_failed_installation_goes_on_in_the_same_environment(environments, lock, tmp_path):
    backends = environments()
    directory = tmp_path / "data" / "envs" / "mine"
    reached = asyncio.Event()
    task = asyncio.create_task(
        backends.install("mine", tell=lambda progress: reached.set() if progress.step == "Packages" else None)
    )
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backends.list()[0].state == "incomplete"
    assert backends.plan("mine").continues
    before = lock.read_text()
    lock.write_text("tiny-package==2.0\n")
    assert not backends.plan("mine").continues, "other packages are begun anew"
    lock.write_text(before)
    (directory / "mark").touch()

    (tmp_path / "wheels").rename(tmp_path / "gone")
    with pytest.raises(PluginUnavailableError, match=r"'Packages' failed.*tiny-package==1\.0.*goes on from here"):
        await backends.install("mine")
    assert not (directory / STAMP_FILE).exists()

    (tmp_path / "gone").rename(tmp_path / "wheels")
    assert (await backends.install("mine")).versions == {"tiny": "1.0"}
    assert (directory / "mark").exists(), "the environment was not begun anew"


async def test_packages_that_tmde_has_itself_are_used_and_nothing_is_installed(environments, tmp_path, monkeypatch):
    # An installed plugin can be imported by every process.
    path = (str(tmp_path / "plugin"), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    (tmp_path / "plugin" / "tiny_plugin" / "probe.py").write_text(
        'import sys; print(\'{"python": "3", "device": "cpu", "versions": {"prefix": "%s"}}\' % sys.prefix)'
    )
    backends = environments(own={"msgspec": "0.1", "pluggy": "1"}, install="automatic")
    mine = backends.find("mine")
    assert (mine.state, mine.availability.ok, mine.interpreter) == ("built-in", True, sys.executable)
    assert backends.list_automatic() == []
    assert (await backends.install("mine")).versions == {"prefix": sys.prefix}, "it is only examined"
    assert (await backends.doctor("mine")).ok
    assert not (tmp_path / "data" / "envs" / "mine").exists()
    with pytest.raises(InvalidInputError, match="nothing to install"):
        backends.plan("mine")


@pytest.mark.parametrize("own", [{"msgspec": "999"}, {"msgspec": "0.1", "no-such-package": "1"}, {}])
def test_packages_that_are_too_old_or_missing_make_an_environment_of_their_own_necessary(environments, own):
    assert environments(own=own).find("mine").state == "absent"


def test_an_interpreter_that_a_person_names_goes_before_the_packages_of_tmde(environments):
    assert environments(own={"msgspec": "0.1"}, python="/usr/bin/python3").find("mine").state == "foreign"


@pytest.mark.parametrize(
    ("install", "awaits", "automatic"), [("automatic", True, ["mine"]), ("on-demand", True, []), ("manual", False, [])]
)
def test_when_packages_are_installed_is_a_setting(environments, install, awaits, automatic):
    backends = environments(install=install)
    assert backends.awaits_installation("mine") == awaits
    assert backends.list_automatic() == automatic
    found = backends.find("mine").availability
    assert found.ok == awaits, "a run can be started if it can wait"
    assert "tmde backends install mine" in found.reason
    assert backends.choice().name == "plain", "`auto` never selects what is not installed"
    assert not backends.awaits_installation("plain")


def test_a_single_build_without_a_card_is_installed_whatever_the_driver_is(environments, monkeypatch):
    monkeypatch.setattr(service, "find_driver", lambda: Driver(version="470.1", cuda="11.4"))
    assert environments().plan("mine").build == "cpu"


async def test_an_interpreter_that_a_person_names_is_examined_and_never_changed(environments, tmp_path):
    (tmp_path / "plugin" / "tiny_plugin" / "probe.py").write_text(
        'print(\'{"python": "3", "device": "cpu", "lacks": [{"what": "No torch.", "remedy": "Install it."}]}\')'
    )
    backends = environments(python=sys.executable)
    assert "tmde backends doctor mine" in backends.list()[0].availability.reason
    report = await backends.doctor("mine")
    assert not report.ok
    assert backends.list()[0].availability.reason == "No torch. Install it."
    assert backends.list()[0].state == "foreign"
    with pytest.raises(InvalidInputError, match="Remove the setting"):
        await backends.install("mine")


async def test_an_interpreter_that_does_not_exist_is_named(environments):
    backends = environments(python="/no/such/python")
    with pytest.raises(PluginUnavailableError, match=r"/no/such/python .* does not exist"):
        await backends.doctor("mine")


@pytest.mark.parametrize(
    ("python", "why"),
    [
        ("FOLDER", "is no program"),
        ("FOLDER/text", "is no program"),
        ("FOLDER/loop", "does not exist"),
        ("venv/bin/python", "is no absolute path"),
        ("~nobody-of-this-name/python", "is no absolute path"),
        ("/a\0b", "does not exist"),
    ],
)
async def test_what_is_no_interpreter_is_refused_in_a_sentence(environments, tmp_path, python, why):
    (tmp_path / "text").write_text("no program")
    (tmp_path / "loop").symlink_to("loop")
    backends = environments(python=python.replace("FOLDER", str(tmp_path)))
    with pytest.raises(
        PluginUnavailableError, match=rf"The interpreter .* of the setting backends\.mine\.python {why}"
    ):
        await backends.doctor("mine")
    assert why in backends.find("mine").availability.reason


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no program at all", "cannot be run"),
        ("#!/no/such/shell", "cannot be run"),
        ("#!/bin/sh\nexit 0", "printed no report (exit code 0)"),
        ("#!/bin/sh\necho '[]'; sleep 1000 & exit 3", "printed no report (exit code 3)"),
        ("#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x >&2; exit 3", "xxxx…"),
        ("#!/bin/sh\nprintf '\\033[31mred\\007' >&2; exit 3", "[31mred."),
        ("#!/bin/sh\nyes", "printed more than 16 MB"),
    ],
)
async def test_a_program_that_is_no_python_is_a_short_report_that_says_what_to_do(environments, tmp_path, program, why):
    """Nothing hangs, although a child of the program keeps its output open."""
    python = tmp_path / "python"
    python.write_text(program)
    python.chmod(0o755)
    lack = (await environments(python=str(python)).doctor("mine")).lacks[0]
    assert why in lack.what
    assert len(lack.what) < 500
    assert lack.what.isprintable()
    assert lack.remedy == "Name another interpreter in the setting backends.mine.python, or remove this setting."


async def test_a_probe_without_an_answer_is_ended_with_its_children(environments, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "PROBE_SECONDS", 0.5)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nsleep 1000 & echo $! >{tmp_path / 'child'}\nwait")
    python.chmod(0o755)
    report = await environments(python=str(python)).doctor("mine")
    assert "gave no answer" in report.lacks[0].what
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


LEAVE = "so TMDE leaves it as it is. Move it away"


@pytest.mark.parametrize(
    "name", ["", "mine", ".mine.lock", "mine.progress.json", "mine.install.log", "mine.probe.json"]
)
@pytest.mark.parametrize("kind", ["link", "other"])
async def test_nothing_is_written_or_deleted_through_what_lies_in_the_place_of_an_environment(
    environments, tmp_path, name, kind
):
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("kept")
    place = tmp_path / "data" / "envs" / name if name else tmp_path / "data" / "envs"
    place.parent.mkdir(parents=True)
    is_folder = name in ("", "mine")
    if kind == "link":
        place.symlink_to(outside / ("folder" if name == "mine" else "file"))
    elif is_folder:
        place.write_text("a file")
    else:
        place.mkdir()
    backends = environments()
    backends.list()
    for act in (backends.install, backends.remove):
        with pytest.raises(ConflictError, match=LEAVE):
            await act("mine")
    assert (outside / "file").read_text() == "kept"
    assert not list((outside / "folder").iterdir())
    assert os.path.lexists(place)


def test_pipes_and_huge_files_in_the_place_of_records_count_as_absent(environments, tmp_path):
    envs = tmp_path / "data" / "envs"
    (envs / "mine").mkdir(parents=True)
    os.mkfifo(envs / "mine" / STAMP_FILE)
    os.mkfifo(envs / "mine.progress.json")
    with (envs / "mine.probe.json").open("wb") as file:
        file.truncate(2**40)
    found = environments().find("mine")
    assert (found.state, found.report, found.installation) == ("incomplete", None, None)


async def test_a_probe_that_fails_is_a_report_with_the_reason(environments, tmp_path):
    backends = environments(python=sys.executable)
    (tmp_path / "plugin" / "tiny_plugin" / "probe.py").write_text("raise RuntimeError('the card is on fire')")
    report = await backends.doctor("mine")
    assert not report.ok
    assert "the card is on fire" in report.lacks[0].what
    (tmp_path / "plugin" / "tiny_plugin" / "probe.py").write_text("raise ImportError(\"No module named 'msgspec'\")")
    assert "Install msgspec, pluggy, psutil, structlog" in (await backends.doctor("mine")).lacks[0].remedy


def test_packages_of_a_lock_file_for_other_platforms_are_left_out(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("# title\none==1 ; os_name == 'posix'\ntwo==2+cpu ; os_name == 'nt'\nthree==3\n")
    assert locked_packages(lock) == ["one==1", "three==3"]


async def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(environments, tmp_path):
    with pytest.raises(InsufficientStorageError, match=r"The environment needs 1000000\.0 GB"):
        await environments(disk_bytes=10**15).install("mine")
    assert not (tmp_path / "data" / "envs" / "mine").exists()


@pytest.mark.slow
async def test_pip_outlives_a_killed_installation_undisturbed(environments, tmp_path, monkeypatch):
    """The lock is held as long as the process that writes into the environment lives."""
    from tmde_core.backends import building

    held: list[bool] = []
    start = asyncio.create_subprocess_exec

    async def watched(*command: str, **options: Any) -> asyncio.subprocess.Process:
        if "pip" in command:
            lock = tmp_path / "data" / "envs" / ".mine.lock"
            (descriptor,) = options["pass_fds"]
            held.append(os.fstat(descriptor).st_ino == lock.stat().st_ino)
        return await start(*command, **options)

    monkeypatch.setattr(building.asyncio, "create_subprocess_exec", watched)
    await environments().install("mine")
    assert held == [True]


async def test_two_processes_do_not_install_at_once(environments, tmp_path):
    backends = environments()
    (tmp_path / "data" / "envs").mkdir(parents=True)
    with FileLock.acquire(tmp_path / "data" / "envs" / ".mine.lock"), pytest.raises(ConflictError, match="now"):
        await backends.install("mine")


async def test_an_environment_is_not_removed_under_a_run(environments, tmp_path):
    backends = environments()
    run = tmp_path / "data" / "runs" / "one"
    run.mkdir(parents=True)
    with FileLock.acquire(run / "leash"), pytest.raises(ConflictError, match="A training run is in progress"):
        await backends.remove("mine")


def test_a_backend_without_an_environment_of_its_own_says_so(environments):
    with pytest.raises(InvalidInputError, match="plain has no environment of its own"):
        environments().plan("plain")
    with pytest.raises(PluginUnavailableError, match="no training backend called 'nothing'"):
        environments().plan("nothing")


NOT_IN_3_10 = {
    "typing": {"Self", "dataclass_transform", "Never", "Required", "NotRequired", "assert_never", "override"},
    "datetime": {"UTC"},
    "enum": {"StrEnum"},
    "asyncio": {"TaskGroup", "timeout"},
}


def test_the_worker_kit_imports_nothing_that_python_3_10_lacks():
    """An interpreter that a person names may be older than TMDE's own."""
    program = (
        f"import sys, {KIT}\n"
        "print(*(module.__file__ for name, module in sys.modules.items() if name.startswith('tmde_core')))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = told.split()
    assert len(loaded) > 20
    for file in loaded:
        for node in _executed(ast.parse(Path(file).read_text(encoding="utf-8")).body):
            if isinstance(node, ast.Import):
                assert "tomllib" not in [alias.name for alias in node.names], file
            elif isinstance(node, ast.ImportFrom):
                assert not NOT_IN_3_10.get(node.module or "", set()) & {alias.name for alias in node.names}, file
            assert not isinstance(node, ast.TryStar), file


def _executed(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
    """Everything but what only type checkers read."""
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _executed(node.orelse)
        else:
            yield from ast.walk(node)


def test_the_worker_kit_needs_nothing_else():
    """What `WORKER_PACKAGES` lists is all that the kit imports from outside."""
    program = (
        f"import sys, {KIT}\n"
        "paths = {name.partition('.')[0] for name, module in sys.modules.items()"
        " if 'site-packages' in (getattr(module, '__file__', None) or '')}\n"
        "print(' '.join(sorted(paths - {'tmde_core'})))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    # structlog uses these where they are installed, and works without them.
    optional = {"_distutils_hack", "attr", "greenlet", "pygments", "rich", "typing_extensions", "markdown_it", "mdurl"}
    assert set(told) - optional == set(probing.WORKER_PACKAGES)
