"""Determines how a worker ended, from the files of its run."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.finetune.store import RunResult
from tmde_core.finetune.supervision import supervisor
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.base import Record
from tmde_core.records.finetune import AttemptOutcome, FineTuneMetrics
from tmde_core.sdk.adapters import find_flaw, staging_directory
from tmde_core.sdk.worker.kit import OUT_OF_MEMORY, RunEvents
from tmde_core.sdk.worker.run_files import EVENTS_FILE, is_cancel_requested, is_pause_requested, read_stop
from tmde_core.sdk.worker.vitals import read_heartbeat, was_killed_for_memory
from tmde_core.storage.events import TERMINAL, Event, FileLog

UNKNOWN_OR_KILLED = (None, -signal.SIGKILL)
"""Exit statuses of a process that may have been killed for lack of memory."""


class Ending(Record):
    """How one attempt ended, and how the run ended if no other attempt follows."""

    kind: AttemptOutcome
    outcome: RunResult

    @property
    def reason(self) -> str:
        """Why the attempt ended, for a person; empty if it succeeded."""
        return self.outcome.error or ""


def examine(run_id: UUID, run_dir: Path, adapters: AdapterStore, status: int | None) -> Ending:
    """Return how the last attempt ended, and remove what it left behind.

    This function blocks. The caller must hold the leash. The first condition that applies decides: a published, valid
    adapter means a completed run; then a person's cancellation; then the supervisor's reason for ending the process;
    then a pause; then the worker's last event. A worker that died without a last event was killed.

    Args:
        run_id: the run.
        run_dir: the run's directory.
        adapters: the published adapters.
        status: the worker's exit status; None: unknown.
    """
    supervisor.end_family(str(run_id), grace_seconds=0)  # child processes of a killed worker
    shutil.rmtree(staging_directory(adapters.directory, run_id), ignore_errors=True)
    if adapters.path(run_id).is_dir():
        return _published(run_id, adapters)
    if is_cancel_requested(run_dir):
        return Ending(
            kind="cancelled", outcome=RunResult(status="cancelled")
        )  # even if the worker reported the cancellation as an error
    if (stopped := read_stop(run_dir)) is not None:
        return _failed(stopped.detail, "hung" if stopped.reason == "hung" else "failed")
    if is_pause_requested(run_dir):
        return _failed("The worker ended.", "paused")
    last = read_last_event(FileLog(run_dir / EVENTS_FILE))
    if last is not None and last.data.get("reason") == OUT_OF_MEMORY:
        return _failed(str(last.data.get("detail") or last.data.get("text") or "Memory ran out."), OUT_OF_MEMORY)
    if last is not None and last.type == "error":
        return _failed(str(last.data.get("detail") or "The training process gave no reason."))
    if last is not None and last.type == "complete":
        return _failed("The training process says it is done, but it published no adapter.")
    if last is not None and last.type == "cancelled":
        # TMDE did not cancel the run: the machine is shutting down, or a person sent the signal.
        return _failed("The training process was asked to end (SIGTERM), but not by TMDE.", "killed")
    if status in UNKNOWN_OR_KILLED and was_killed_for_memory(read_heartbeat(run_dir)):
        return _failed(supervisor.describe_exit(run_dir, status, of_memory=True), OUT_OF_MEMORY)
    died = status is None or status < 0
    return _failed(supervisor.describe_exit(run_dir, status), "killed" if died else "failed")


def read_last_event(events: FileLog) -> Event | None:
    """Return the last event; None if it only marks the start of the attempt."""
    last = events.last()
    return None if last is None or "attempt" in last.data else last


def close_log(run_dir: Path, run_id: UUID, ending: Ending) -> None:
    """Write the last event of the run's log if it is missing.

    Readers wait for this event, which a dead worker cannot write.
    """
    path = run_dir / EVENTS_FILE
    last = FileLog(path).last()
    if last is not None and last.type in TERMINAL:
        return
    log, outcome = RunEvents(path), ending.outcome
    if outcome.status == "completed":
        log.end("complete", {"adapterId": str(run_id), "metrics": msgspec.to_builtins(outcome.metrics)})
    elif outcome.status == "cancelled":
        log.end("cancelled", {})
    else:
        stopped = read_stop(run_dir)
        reason = stopped.reason if stopped else ending.kind if ending.kind == OUT_OF_MEMORY else "crash"
        log.end("error", {"reason": reason, "detail": outcome.error})


def _failed(detail: str, kind: AttemptOutcome = "failed") -> Ending:
    return Ending(kind=kind, outcome=RunResult(status="failed", error=detail))


def _published(run_id: UUID, adapters: AdapterStore) -> Ending:
    try:
        manifest = adapters.verify_files(run_id)
    except TmdeError as error:
        return _failed(f"Training ended, but its adapter is damaged: {error.detail}")
    # The worker kit refuses to publish such an adapter. A worker that does not use the kit may publish it.
    if (flaw := find_flaw(adapters.path(run_id), manifest.base_model)) is not None:
        return _failed(f"Training ended, but its adapter is of no use: {flaw.detail}")
    return Ending(
        kind="completed",
        outcome=RunResult(
            status="completed",
            metrics=_metrics(manifest.metrics),
            lora_path=str(adapters.path(run_id)),
            base_model=manifest.base_model,
        ),
    )


def _metrics(raw: Any) -> FineTuneMetrics | None:
    try:
        return msgspec.convert(raw, FineTuneMetrics)
    except msgspec.ValidationError:
        return None  # the backend logs other metrics; the manifest still contains them
