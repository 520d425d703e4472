"""What became of a worker, read from its run's files after its death."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.finetune.store import Outcome
from tmde_core.finetune.supervision import supervisor
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.base import Record
from tmde_core.records.finetune import AttemptOutcome, FineTuneMetrics
from tmde_core.sdk.adapters import find_flaw, staging_directory
from tmde_core.sdk.worker.kit import OUT_OF_MEMORY, RunEvents
from tmde_core.sdk.worker.run_files import EVENTS_FILE, stopped_because, wanted_cancelled
from tmde_core.sdk.worker.vitals import died_of_memory, last_beat
from tmde_core.storage.events import TERMINAL, Event, FileLog

UNKNOWN_OR_KILLED = (None, -signal.SIGKILL)
"""Exit statuses of a process that may have been killed for lack of memory."""


class Ending(Record):
    """How one attempt ended, and how the run has ended if no other follows."""

    kind: AttemptOutcome
    outcome: Outcome

    @property
    def reason(self) -> str:
        """Why, for a person; empty when all went well."""
        return self.outcome.error or ""


def examine(run_id: UUID, run_dir: Path, adapters: AdapterStore, status: int | None) -> Ending:
    """Say how the last attempt ended, and clear away what it left behind. Blocks; the caller holds the leash.

    A published, sound adapter is a completed run, whatever came after. Otherwise a person's wish to cancel counts, then the
    supervisor's reason to end it, then the worker's last event; and a worker that died without one was killed.

    Args:
        status: the worker's exit status, where it is known.
    """
    supervisor.end_family(str(run_id), grace_seconds=0)  # what a killed worker left running
    shutil.rmtree(staging_directory(adapters.directory, run_id), ignore_errors=True)
    if adapters.path(run_id).is_dir():
        return _published(run_id, adapters)
    if wanted_cancelled(run_dir):
        return Ending(
            kind="cancelled", outcome=Outcome(status="cancelled")
        )  # also when the worker took it for an error
    if (stopped := stopped_because(run_dir)) is not None:
        return _failed(stopped.detail, "hung" if stopped.reason == "hung" else "failed")
    last = last_of_attempt(FileLog(run_dir / EVENTS_FILE))
    if last is not None and last.data.get("reason") == OUT_OF_MEMORY:
        return _failed(str(last.data.get("detail") or last.data.get("text") or "Memory ran out."), OUT_OF_MEMORY)
    if last is not None and last.type == "error":
        return _failed(str(last.data.get("detail") or "The training process gave no reason."))
    if last is not None and last.type == "complete":
        return _failed("The training process says it is done, but it published no adapter.")
    if last is not None and last.type == "cancelled":
        # Nobody asked TMDE for it: the machine is being shut down, or someone sent the signal by hand.
        return _failed("The training process was asked to end (SIGTERM), but not by TMDE.", "killed")
    if status in UNKNOWN_OR_KILLED and died_of_memory(last_beat(run_dir)):
        return _failed(supervisor.obituary(run_dir, status, of_memory=True), OUT_OF_MEMORY)
    died = status is None or status < 0
    return _failed(supervisor.obituary(run_dir, status), "killed" if died else "failed")


def last_of_attempt(events: FileLog) -> Event | None:
    """The last event, unless it is the mark with which the attempt begins."""
    last = events.last()
    return None if last is None or "attempt" in last.data else last


def close_log(run_dir: Path, run_id: UUID, ending: Ending) -> None:
    """Complete the run's event log: readers wait for a last event, which a dead worker cannot write any more."""
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
        stopped = stopped_because(run_dir)
        reason = stopped.reason if stopped else ending.kind if ending.kind == OUT_OF_MEMORY else "crash"
        log.end("error", {"reason": reason, "detail": outcome.error})


def _failed(detail: str, kind: AttemptOutcome = "failed") -> Ending:
    return Ending(kind=kind, outcome=Outcome(status="failed", error=detail))


def _published(run_id: UUID, adapters: AdapterStore) -> Ending:
    try:
        manifest = adapters.verified(run_id)
    except TmdeError as error:
        return _failed(f"Training ended, but its adapter is damaged: {error.detail}")
    # The worker kit refuses to publish such an adapter; a worker may have been written without the kit.
    if (flaw := find_flaw(adapters.path(run_id), manifest.base_model)) is not None:
        return _failed(f"Training ended, but its adapter is of no use: {flaw.detail}")
    return Ending(
        kind="completed",
        outcome=Outcome(
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
        return None  # a backend that logs other figures: the manifest keeps them
