"""Builds a Python environment from a lock file. A killed build goes on where it stopped.

The stamp is written last, so an environment without a stamp is incomplete. pip keeps the packages that it has
downloaded, and skips those that are installed already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tmde_core.errors import PluginUnavailableError
from tmde_core.records.base import Record, from_json, to_json
from tmde_core.resources import lower_priority
from tmde_core.sdk.environments import STAMP_FILE, VARIABLES, EnvironmentStamp, TorchBuild
from tmde_core.storage.durable import hash_file, read_small, write_atomic
from tmde_core.storage.locks import FileLock

__all__ = ["InstallProgress", "build_environment", "continues_build", "find_python", "locked_packages"]

BUILDING_FILE = "tmde-building.json"
TAIL_LINES = 3
"""Lines of pip's output that an error repeats."""

_WHEEL = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)-.*\.whl")
_DOWNLOADING = re.compile(r"Downloading \S*?/?([A-Za-z0-9_.]+?)-\d\S* \(([^)]+)\)")


class InstallProgress(Record, frozen=True):
    """How far an installation is."""

    step: str
    """What is done now."""
    done: int = 0
    """Packages that pip has looked at in this step."""
    total: int = 0
    """Packages of this step; 0: unknown."""
    detail: str = ""
    """The package that is fetched now, with its size."""
    seconds: float = 0.0
    """Time since the start of the installation."""


def find_python(versions: Sequence[str]) -> tuple[str, str] | None:
    """Return an interpreter with one of the versions that can create environments, and its version; None without one.

    TMDE's own interpreter is preferred, because it is known to work.
    """
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    candidates = ([sys.executable] if own in versions else []) + [f"python{version}" for version in versions]
    for candidate in candidates:
        program = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run([candidate, "-c", program], capture_output=True, text=True, timeout=30, check=True)
            if (version := told.stdout.strip()) in versions:
                return candidate, version
    return None


def locked_packages(lock: Path) -> list[str]:
    """Return the requirements of a lock file that are for this platform."""
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    wanted = [Requirement(line) for line in lines if line]
    return [f"{one.name}{one.specifier}" for one in wanted if one.marker is None or one.marker.evaluate()]


def continues_build(directory: Path, build: TorchBuild, version: str) -> bool:
    """Return whether a directory is an unfinished environment with these packages, so that building it goes on."""
    return not (directory / STAMP_FILE).exists() and _is_begun(directory, _stamp_of(build, version))


async def build_environment(
    directory: Path,
    build: TorchBuild,
    python: tuple[str, str],
    log: Path,
    lock: FileLock,
    niceness: int,
    tell: Callable[[InstallProgress], object],
) -> None:
    """Build an environment, or complete one.

    Args:
        directory: the directory of the environment.
        build: the packages.
        python: the interpreter to create the environment with, and its version.
        log: receives the output of pip.
        lock: the lock of the environment. pip inherits it: if this process is killed, the lock is held until pip has
            ended, so that no other installation disturbs it.
        niceness: how much lower than this process's the priority of pip is, 0–19.
        tell: is called with the progress.

    Raises:
        PluginUnavailableError: a step failed. The detail has the end of pip's output and says what to do.
    """
    await _Build(directory, build, python, log, lock, niceness, tell).run()


class _Build:
    def __init__(
        self,
        directory: Path,
        build: TorchBuild,
        python: tuple[str, str],
        log: Path,
        held: FileLock,
        niceness: int,
        tell: Callable[[InstallProgress], object],
    ) -> None:
        self._niceness = niceness
        self._directory, self._build, self._log, self._held, self._tell = directory, build, log, held, tell
        self._python, version = python
        self._lock = Path(build.lock)
        self._stamp = _stamp_of(build, version)
        self._begun = time.monotonic()

    async def run(self) -> None:
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        (self._directory / STAMP_FILE).unlink(missing_ok=True)
        if not _is_begun(self._directory, self._stamp):
            await self._create()
        torch, others = self._divided()
        await self._install_torch(torch)
        await self._pip("Packages", ["--no-deps", "--requirement", str(self._lock)], len(others) + len(torch))
        write_atomic(self._directory / STAMP_FILE, to_json(self._stamp))
        (self._directory / BUILDING_FILE).unlink(missing_ok=True)

    async def _create(self) -> None:
        self._say("Creating the environment")
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        if not await self._run([self._python, "-m", "venv", str(self._directory)]):
            raise self._failed("Creating the environment")
        write_atomic(self._directory / BUILDING_FILE, to_json(self._stamp))

    def _divided(self) -> tuple[list[str], list[str]]:
        packages = locked_packages(self._lock)
        torch = [one for one in packages if re.split(r"[=<>!~ ]", one)[0] == "torch"]
        return torch, [one for one in packages if one not in torch]

    async def _install_torch(self, torch: Sequence[str]) -> None:
        """Install PyTorch. A build for cards names its CUDA packages itself, each with its exact version.

        First from where pip looks anyway, such as a mirror or a directory of wheels, then from PyTorch's own index.
        """
        if not torch:
            return
        title = f"PyTorch ({self._build.name})"
        wanted = torch if self._build.cuda else ["--no-deps", *torch]
        if await self._try_pip(title, wanted, 0):
            return
        index = self._build.index
        if not index:
            raise self._failed(title)
        option = "--extra-index-url" if self._build.cuda else "--index-url"
        await self._pip(title, [option, index, *wanted], 0)

    async def _pip(self, title: str, arguments: Sequence[str], total: int) -> None:
        if not await self._try_pip(title, arguments, total):
            raise self._failed(title)

    async def _try_pip(self, title: str, arguments: Sequence[str], total: int) -> bool:
        python = str(self._directory / "bin" / "python")
        options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        self._say(title, total=total)
        return await self._run([python, "-m", "pip", "install", *options, *arguments], title, total)

    async def _run(self, command: Sequence[str], title: str = "", total: int = 0) -> bool:
        """Run a command, write its output to the log, and tell what it is doing. Return whether it succeeded."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **VARIABLES},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
            pass_fds=(self._held.fileno(),),
            # A session of its own: Linux divides the processor among sessions first (sched(7), autogroup).
            start_new_session=self._niceness > 0,
        )
        if self._niceness:
            lower_priority(process.pid, self._niceness)
        seen = 0
        try:
            assert process.stdout is not None
            with self._log.open("ab") as log:
                async for line in process.stdout:
                    log.write(line)
                    text = line.decode(errors="replace").strip()
                    if text.startswith(("Collecting ", "Processing ", "Requirement already satisfied: ")):
                        seen += 1
                        self._say(
                            title, seen, total, "" if text.startswith("R") else _describe_package(text.split()[1])
                        )
                    elif found := _DOWNLOADING.match(text):
                        self._say(title, seen, total, f"{found.group(1)}, {found.group(2)}")
                    elif text.startswith("Installing collected"):
                        self._say(title, seen, total, "putting them in place")
            return await process.wait() == 0
        finally:
            if process.returncode is None:  # cancelled
                with contextlib.suppress(ProcessLookupError):
                    if self._niceness:
                        os.killpg(process.pid, signal.SIGKILL)
                    else:
                        process.kill()
                await process.wait()

    def _say(self, step: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        seconds = round(time.monotonic() - self._begun, 1)
        self._tell(
            InstallProgress(step=step, done=min(done, total or done), total=total, detail=detail, seconds=seconds)
        )

    def _failed(self, step: str) -> PluginUnavailableError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip() and not line.startswith("WARNING: Location")]
        wrong = [line for line in said if line.upper().startswith("ERROR")] or said
        return PluginUnavailableError(
            f"The step {step!r} failed: {' '.join(wrong[-TAIL_LINES:])[-600:]} Correct this (often: no network, a proxy, a "
            f"full disk), then install again: it goes on from here. All of the output is in {self._log}."
        )


def _stamp_of(build: TorchBuild, version: str) -> EnvironmentStamp:
    return EnvironmentStamp(build=build.name, lock_sha256=hash_file(Path(build.lock)), python=version)


def _is_begun(directory: Path, stamp: EnvironmentStamp) -> bool:
    with contextlib.suppress(Exception):
        begun = from_json(read_small(directory / BUILDING_FILE), EnvironmentStamp)
        return begun == stamp and (directory / "bin" / "python").exists()
    return False


def _describe_package(named: str) -> str:
    """Return `torch 2.13.0+cpu` for the path or address of a wheel; another requirement as it is."""
    name = Path(named).name
    found = _WHEEL.fullmatch(name)
    return f"{found['name']} {found['version']}" if found else name
