"""How a run ended, read from its files after its worker is dead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.finetune import supervisor
from tmde_core.finetune.records import FineTuneMetrics
from tmde_core.finetune.store import Outcome
from tmde_core.finetune.worker import RunEvents
from tmde_core.lora.publish import staging_directory
from tmde_core.lora.store import AdapterStore
from tmde_core.storage.events import TERMINAL, Event, FileLog

EVENTS_FILE = "events.jsonl"
CANCEL_FILE = "cancel"
"""Its presence says that a person wants the run to end, whoever finds the worker dead first."""


def conclude(run_id: UUID, run_dir: Path, adapters: AdapterStore, status: int | None) -> Outcome:
    """Decide how the run ended, complete its event log and tidy up. Blocks; may be repeated, with the same result.

    A published, sound adapter is a completed run, whatever came after. Otherwise the worker's last event counts; and a
    worker that died without one has failed, or was cancelled.

    Args:
        status: the worker's exit status, where it is known.
    """
    supervisor.end(str(run_id), run_dir, grace_seconds=0)  # what a killed worker left running
    events = FileLog(run_dir / EVENTS_FILE).read()
    last = events[-1] if events and events[-1].type in TERMINAL else None
    outcome = _outcome(run_id, run_dir, adapters, last, status)
    if last is None:
        # Readers wait for a last event; the worker cannot write it any more.
        _append(run_dir / EVENTS_FILE, outcome, run_id)
    shutil.rmtree(staging_directory(adapters.directory, run_id), ignore_errors=True)
    return outcome


def _outcome(run_id: UUID, run_dir: Path, adapters: AdapterStore, last: Event | None, status: int | None) -> Outcome:
    if adapters.path(run_id).is_dir():
        return _published(run_id, adapters)
    if (run_dir / CANCEL_FILE).exists():
        return Outcome(status="cancelled")  # also when the worker took its interruption for an error
    if last is not None and last.type == "error":
        return Outcome(status="failed", error=str(last.data.get("detail") or "The training process gave no reason."))
    if last is not None and last.type == "complete":
        return Outcome(status="failed", error="The training process says it is done, but it published no adapter.")
    if last is not None:
        return Outcome(status="cancelled")
    return Outcome(status="failed", error=supervisor.obituary(run_dir, status))


def _published(run_id: UUID, adapters: AdapterStore) -> Outcome:
    try:
        manifest = adapters.verified(run_id)
    except TmdeError as error:
        return Outcome(status="failed", error=f"Training ended, but its adapter is damaged: {error.detail}")
    return Outcome(
        status="completed",
        metrics=_metrics(manifest.metrics),
        lora_path=str(adapters.path(run_id)),
        base_model=manifest.base_model,
    )


def _metrics(raw: Any) -> FineTuneMetrics | None:
    try:
        return msgspec.convert(raw, FineTuneMetrics)
    except msgspec.ValidationError:
        return None  # a backend that logs other figures: the manifest keeps them


def _append(path: Path, outcome: Outcome, run_id: UUID) -> None:
    events = RunEvents(path)
    if outcome.status == "completed":
        events.end("complete", {"adapterId": str(run_id), "metrics": msgspec.to_builtins(outcome.metrics)})
    elif outcome.status == "cancelled":
        events.end("cancelled", {})
    else:
        events.end("error", {"reason": "crash", "detail": outcome.error})
