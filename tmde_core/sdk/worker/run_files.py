"""The names of what lies in a run's directory beside the dataset, and the supervisor's own note of why it ended a process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec

from tmde_core.records.base import Record, to_json
from tmde_core.storage.durable import write_whole

EVENTS_FILE = "events.jsonl"
JOB_FILE = "job.json"
LOCK_FILE = "lock"
ACTIVITY_FILE = "activity"
CANCEL_FILE = "cancel"
"""Its presence says that a person wants the run to end, whoever finds the worker dead first."""
STOPPED_FILE = "stopped.json"


class Stopped(Record, frozen=True):
    """Why the supervisor ended the process of a run."""

    reason: Literal["hung", "disk-full"]
    detail: str
    """A sentence for a person, with figures."""


def note_stopped(run_dir: Path, stopped: Stopped) -> None:
    """Keep the reason, for whoever records the end. The first one counts."""
    if stopped_because(run_dir) is None:
        write_whole(run_dir / STOPPED_FILE, to_json(stopped))


def stopped_because(run_dir: Path) -> Stopped | None:
    """Why the supervisor ended the process, None when it did not."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((run_dir / STOPPED_FILE).read_bytes(), type=Stopped)
    return None


def wanted_cancelled(run_dir: Path) -> bool:
    """Whether a person has asked for the end of the run."""
    return (run_dir / CANCEL_FILE).exists()
