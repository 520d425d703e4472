"""The names of the files of a run, and the supervisor's note of why it ended a process. Private to TMDE."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec

from tmde_core.records.base import Record, to_json
from tmde_core.storage.durable import write_whole

__all__ = [
    "ACTIVITY_FILE",
    "CANCEL_FILE",
    "EVENTS_FILE",
    "JOB_FILE",
    "LOCK_FILE",
    "STOPPED_FILE",
    "Stopped",
    "note_stopped",
    "stopped_because",
    "wanted_cancelled",
]

EVENTS_FILE = "events.jsonl"
JOB_FILE = "job.json"
LOCK_FILE = "lock"
ACTIVITY_FILE = "activity"
CANCEL_FILE = "cancel"
"""Its presence says that a person wants the run to end."""
STOPPED_FILE = "stopped.json"


class Stopped(Record, frozen=True):
    """Why the supervisor ended the process of a run."""

    reason: Literal["hung", "disk-full"]
    detail: str
    """A sentence for a person, with figures."""


def note_stopped(run_dir: Path, stopped: Stopped) -> None:
    """Keep the reason for the record of the run's end. The first reason counts."""
    if stopped_because(run_dir) is None:
        write_whole(run_dir / STOPPED_FILE, to_json(stopped))


def stopped_because(run_dir: Path) -> Stopped | None:
    """Return why the supervisor ended the process; None if it did not."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((run_dir / STOPPED_FILE).read_bytes(), type=Stopped)
    return None


def wanted_cancelled(run_dir: Path) -> bool:
    """Return whether a person has cancelled the run."""
    return (run_dir / CANCEL_FILE).exists()
