"""Defines the names of a run's files, and stores why the supervisor ended a process. Private to TMDE."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec

from tmde_core.records.base import Record, to_json
from tmde_core.storage.durable import write_atomic

__all__ = [
    "ACTIVITY_FILE",
    "CANCEL_FILE",
    "EVENTS_FILE",
    "JOB_FILE",
    "PAUSE_FILE",
    "STOPPED_FILE",
    "WORKER_LOCK",
    "Stopped",
    "is_cancel_requested",
    "is_pause_requested",
    "read_stop",
    "record_stop",
]

EVENTS_FILE = "events.jsonl"
JOB_FILE = "job.json"
WORKER_LOCK = "lock"
ACTIVITY_FILE = "activity"
CANCEL_FILE = "cancel"
"""Exists if a person has cancelled the run."""
PAUSE_FILE = "pause"
"""Exists if the run is to stop at a checkpoint, because the program that looks after it ends. The run goes on later."""
STOPPED_FILE = "stopped.json"


class Stopped(Record, frozen=True):
    """Why the supervisor ended the process of a run."""

    reason: Literal["hung", "disk-full"]
    detail: str
    """A sentence for a person, with numbers."""


def record_stop(run_dir: Path, stopped: Stopped) -> None:
    """Store why the supervisor ended the process. Only the first reason is stored."""
    if read_stop(run_dir) is None:
        write_atomic(run_dir / STOPPED_FILE, to_json(stopped))


def read_stop(run_dir: Path) -> Stopped | None:
    """Return why the supervisor ended the process; None if it did not."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((run_dir / STOPPED_FILE).read_bytes(), type=Stopped)
    return None


def is_cancel_requested(run_dir: Path) -> bool:
    """Return whether a person has cancelled the run."""
    return (run_dir / CANCEL_FILE).exists()


def is_pause_requested(run_dir: Path) -> bool:
    """Return whether the run is to stop at a checkpoint and go on later."""
    return (run_dir / PAUSE_FILE).exists()
