"""Runs the process that analyses a dataset for a preview, and reads its reports.

A worker may write its report twice: first what the tokens say, then also what was measured. The first report is passed
on at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import structlog

from tmde_core.errors import TmdeError
from tmde_core.records.base import from_json
from tmde_core.records.training import PreviewReport, WorkerCommand
from tmde_core.sdk.last_words import TRACEBACK, describe_status, find_reason

log = structlog.get_logger(__name__)

SECONDS = 90.0
"""The time limit of the process, seconds. Converting the embedded model takes 30 s once, measuring it takes 15 s. A model
that takes longer is not measured; a person should not wait for it."""
LOOK_SECONDS = 0.25
"""How often the process is looked after: whether it has written a report, and whether a training run has begun."""
MAX_REPORT_BYTES = 64 * 1024**2


BEGUN = (
    "A training run has begun, so looking at the tokens was ended: two models would share the memory and the processor."
)


class Failure(NamedTuple):
    """The reason why a preview failed."""

    sentence: str
    refuses: bool = False
    """Whether a run would fail for the same reason."""


class Partial(NamedTuple):
    """The report of a worker that still runs."""

    report: PreviewReport


async def look(
    command: WorkerCommand, report: Path, busy: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[PreviewReport | Partial | Failure, None]:
    """Run a preview worker to its end and yield its reports as they appear; the last item is final.

    The worker is ended if the iterator is closed, and as soon as `busy` says that a training run has begun.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            env={**os.environ, **command.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        program = command.argv[0] if command.argv else ""
        yield Failure(f"The preview's process {program!r} cannot be started: {reason}.")
        return
    ending = asyncio.ensure_future(process.communicate())
    begun, seen = time.monotonic(), None
    try:
        while not ending.done():
            await asyncio.wait([ending], timeout=LOOK_SECONDS)
            if ending.done():
                break
            if await busy():
                yield Failure(BEGUN)
                return
            if time.monotonic() - begun > SECONDS:
                yield Failure(
                    f"Looking at the tokens and measuring the model took longer than {SECONDS:.0f} s and was ended, so what is "
                    "missing here is not known. A run can begin all the same."
                )
                return
            if (found := await asyncio.to_thread(_read_early, report)) is not None and found != seen:
                seen = found
                yield Partial(found)
        _, err = await ending
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
    lacking = "lengths" if seen is None else "time and memory"
    yield await _result(process.returncode or 0, err, report, lacking)


async def look_to_the_end(command: WorkerCommand, report: Path) -> PreviewReport | Failure:
    """Run a preview worker to its end and return what it found."""

    async def idle() -> bool:
        return False

    async with aclosing(look(command, report, idle)) as found:
        async for one in found:
            if not isinstance(one, Partial):
                return one
    raise AssertionError("the last item of `look` is final")


async def _result(status: int, err: bytes, report: Path, lacking: str) -> PreviewReport | Failure:
    """Return what an ended worker found.

    Args:
        status: its exit status.
        err: what it wrote to stderr.
        report: the file of its report.
        lacking: what is not known if the worker failed.
    """
    if status == 0:
        try:
            return await asyncio.to_thread(_read, report)
        except (TmdeError, FileNotFoundError, ValueError) as error:
            log.warning("finetune.preview_unreadable", error=str(error))
            return Failure(f"The backend's preview wrote no report that can be read, so {lacking} are not known.")
    said = err.decode("utf-8", "replace").splitlines()
    log.warning("finetune.preview_failed", status=status, stderr=said[-20:])
    reason = find_reason(said) if status > 0 else ""
    if status == 1 and reason and not any(TRACEBACK.match(line) for line in said):
        return Failure(reason[:500], refuses=True)
    last = f" ({reason[:300]})" if reason else ""
    return Failure(f"The preview's process {describe_status(status)}{last}, so {lacking} are not known.")


def _read(file: Path) -> PreviewReport:
    with file.open("rb") as opened:
        report = from_json(opened.read(MAX_REPORT_BYTES), PreviewReport)
    for trace_id in (*(one.trace_id for one in report.examples), *(one.trace_id for one in report.left_out)):
        if trace_id:
            UUID(trace_id)
    return report


def _read_early(file: Path) -> PreviewReport | None:
    """Return the report of a worker that still runs; None if there is none that can be read."""
    try:
        return _read(file)
    except (TmdeError, OSError, ValueError):
        return None
