"""Runs foreign code in a process that is confined; see `confined` for what confines it and `code` for what is made of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec
import psutil

from tmde_core.sdk.errors import WorkerFailedError
from tmde_core.sdk.records import Record

AT_ONCE = 2
"""Sandboxes that run at the same time; the models need the other processors."""

GRACE_SECONDS = 5.0
"""Beyond the tests' own time, for the process to start and to report on a busy machine."""

_PROGRAM = Path(__file__).with_name("confined.py")
_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class Reply(Record):
    """What one test's process sent."""

    lines: tuple[str, ...]
    """JSON, one a line, as far as the foreign code left it alone: believe nothing of it unseen."""
    ended: bool
    """False: it was killed, for its time or for how much it sent."""


async def run_confined(code: str, tests: Sequence[str], seconds: float) -> tuple[Reply, ...]:
    """Load `code` and run one of `tests`, each in a process of its own.

    Args:
        seconds: for all tests together; what a test leaves unused is the next ones'.

    Raises:
        WorkerFailedError: the sandbox itself did not work; the code has not been judged.
    """
    job = msgspec.json.encode({"code": code, "tests": list(tests), "seconds": seconds})
    async with _gate(), _directory() as directory:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-B", "-X", "utf8", str(_PROGRAM),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            cwd=directory, env={}, start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                output, _ = await process.communicate(job)
        except TimeoutError:
            raise WorkerFailedError(
                "The code sandbox did not answer in time. Try again when the machine is less busy."
            ) from None
        finally:
            await _end(process)
    try:
        return msgspec.json.decode(output, type=tuple[Reply, ...])
    except msgspec.DecodeError:
        raise WorkerFailedError(
            f"The code sandbox broke off (exit status {process.returncode}). Nothing was judged."
        ) from None


def _gate() -> asyncio.Semaphore:
    """The running loop's own: an asyncio primitive serves one loop."""
    return _gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


@contextlib.asynccontextmanager
async def _directory() -> AsyncIterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tmde-code-"))
    try:
        yield path
    finally:
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process, its group and whatever descends from it."""
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(process.pid).children(recursive=True)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    for child in found:
        with contextlib.suppress(psutil.Error):
            child.kill()
