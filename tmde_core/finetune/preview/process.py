"""Runs the process that analyses a dataset for a preview, and reads its report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import structlog

from tmde_core.errors import TmdeError
from tmde_core.finetune.supervision.supervisor import lower_priority
from tmde_core.records.base import from_json
from tmde_core.records.training import PreviewReport, WorkerCommand

log = structlog.get_logger(__name__)

SECONDS = 300.0
"""The time limit of the process, seconds. Loading and measuring a model takes less."""
MAX_REPORT_BYTES = 64 * 1024**2
TRACEBACK = "Traceback (most recent call last):"


class Failure(NamedTuple):
    """The reason why a preview failed."""

    sentence: str
    refuses: bool = False
    """Whether a run would fail for the same reason."""


async def look(command: WorkerCommand, report: Path, niceness: int) -> PreviewReport | Failure:
    """Run a preview worker to its end and read its report; end the worker if the task is cancelled."""
    failure = await _run(command, niceness)
    if failure is not None:
        return failure
    try:
        return await asyncio.to_thread(_read, report)
    except (TmdeError, FileNotFoundError, ValueError) as error:
        log.warning("finetune.preview_unreadable", error=str(error))
        return Failure("The backend's preview wrote no report that can be read, so lengths are not known.")


def _read(file: Path) -> PreviewReport:
    with file.open("rb") as opened:
        report = from_json(opened.read(MAX_REPORT_BYTES), PreviewReport)
    for trace_id in (*(one.trace_id for one in report.examples), *(one.trace_id for one in report.left_out)):
        if trace_id:
            UUID(trace_id)
    return report


async def _run(command: WorkerCommand, niceness: int) -> Failure | None:
    """Run a preview worker and return why it failed; None if it succeeded."""
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
        return Failure(f"The preview's process {program!r} cannot be started: {reason}.")
    lower_priority(process.pid, niceness)
    try:
        async with asyncio.timeout(SECONDS):
            _, err = await process.communicate()
    except TimeoutError:
        return Failure(
            f"Looking at the tokens took longer than {SECONDS:.0f} s and was ended. A run can begin all the same."
        )
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode == 0:
        return None
    said = err.decode("utf-8", "replace").strip().splitlines()
    log.warning("finetune.preview_failed", status=process.returncode, stderr=said[-20:])
    if process.returncode == 1 and said and TRACEBACK not in said:
        return Failure(said[-1][:500], refuses=True)
    last = f" ({said[-1][:300]})" if said else ""
    return Failure(f"The preview's process ended with {process.returncode}{last}, so lengths are not known.")
