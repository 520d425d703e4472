"""Run untrusted code in a confined process. See `confined` for the confinement and `code` for the evaluation."""

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
"""The number of sandboxes that run at the same time. The models need the other processors."""

GRACE_SECONDS = 5.0
"""Additional time for the process to start and to report on a busy machine."""

_PROGRAM = Path(__file__).with_name("confined.py")
_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


class SandboxReply(Record):
    """The output of one test's process."""

    lines: tuple[str, ...]
    """Lines of JSON that the untrusted code may have changed. Check every value before use."""
    ended: bool
    """False if the process was killed because of its time or the size of its output."""


async def run_confined(code: str, tests: Sequence[str], seconds: float) -> tuple[SandboxReply, ...]:
    """Load `code` and run each of `tests` in its own process.

    Args:
        code: the code to check.
        tests: the tests to run.
        seconds: the time limit for all tests together. Later tests may use the time that a test leaves unused.

    Raises:
        WorkerFailedError: the sandbox itself did not work. The code was not judged.
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
        return msgspec.json.decode(output, type=tuple[SandboxReply, ...])
    except msgspec.DecodeError:
        raise WorkerFailedError(
            f"The code sandbox broke off (exit status {process.returncode}). Nothing was judged."
        ) from None


def _gate() -> asyncio.Semaphore:
    """Return the running loop's semaphore, because an asyncio primitive works in one loop only."""
    return _gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


@contextlib.asynccontextmanager
async def _directory() -> AsyncIterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tmde-code-"))
    try:
        yield path
    finally:
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process, its group and all its descendants."""
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
