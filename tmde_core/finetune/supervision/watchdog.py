"""Checks from outside whether a training process still makes progress.

Time counts only while the watchdog runs. If the machine slept or the watching process was stopped, the worker had no
chance to show progress. Such a pause must not count as a hang.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tmde_core.finetune.limits import Limits
from tmde_core.sdk.worker.kit import list_checkpoints
from tmde_core.sdk.worker.run_files import ACTIVITY_FILE, EVENTS_FILE, WORKER_LOCK, Stopped
from tmde_core.sdk.worker.vitals import HEARTBEAT_FILE
from tmde_core.storage.events import FileLog
from tmde_core.storage.locks import FileLock

MAX_LOOKS = 5
"""A longer pause between two checks counts as this many checks."""


class Watchdog:
    """Checks one process of one run repeatedly."""

    def __init__(self, run_dir: Path, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_dir = run_dir
        self._limits = limits
        self._clock = clock
        self._looked = clock()
        self._beat: object = None
        self._sign: object = None
        self._without_beat = 0.0
        self._without_sign = 0.0

    def look(self) -> Stopped | Literal["dead"] | None:
        """Return why the process must be ended; None if nothing is wrong.

        The result is "dead" if the trainer is dead and only a process that it left behind lives.
        """
        now = self._clock()
        passed = min(now - self._looked, MAX_LOOKS * self._limits.look_seconds)
        self._looked = now
        beat = _changed(self._run_dir / HEARTBEAT_FILE)
        sign = (_changed(self._run_dir / EVENTS_FILE), _changed(self._run_dir / ACTIVITY_FILE))
        self._without_sign = 0.0 if sign != self._sign else self._without_sign + passed
        self._without_beat = 0.0 if (beat, sign) != (self._beat, self._sign) else self._without_beat + passed
        self._beat, self._sign = beat, sign
        if (free := shutil.disk_usage(self._run_dir).free) < self._limits.floor_bytes:
            return Stopped(reason="disk-full", detail=self._disk_full(free))
        if beat and self._without_beat >= self._limits.orphan_seconds and self._has_let_go():
            return "dead"
        # Importing libraries from a cold disk takes minutes. Before the first heartbeat, the limit for a step applies.
        silent = self._limits.silent_seconds if beat else max(self._limits.silent_seconds, self._limits.step_seconds)
        if self._without_beat >= silent:
            return Stopped(reason="hung", detail=self._silent())
        if self._without_sign >= self._limits.step_seconds and self._without_sign >= self._patience():
            return Stopped(reason="hung", detail=self._hung())
        return None

    def _patience(self) -> float:
        """Return the longest allowed time without a step, seconds."""
        median = self._median_step()
        return max(self._limits.step_seconds, self._limits.step_medians * median if median else 0.0)

    def _median_step(self) -> float | None:
        events = FileLog(self._run_dir / EVENTS_FILE).read()
        paces = [event.data.get("stepSeconds") for event in events if event.type == "progress"]
        known = [pace for pace in paces if isinstance(pace, int | float)]
        return statistics.median(known) if known else None

    def _hung(self) -> str:
        median = self._median_step()
        limit = f"the limit is {_spoken(self._patience())}"
        if median:
            limit += (
                f", the larger of {_spoken(self._limits.step_seconds)} and {self._limits.step_medians:g} times the median "
                f"step of {_spoken(median)}"
            )
        return (
            f"The training process hung: it lived, but made no step for {_spoken(self._without_sign)} ({limit}). "
            f"It was ended {self._place()}."
        )

    def _silent(self) -> str:
        return (
            f"The training process hung: it gave no sign of life for {_spoken(self._without_beat)}, where one is due every two "
            f"seconds. It was ended {self._place()}."
        )

    def _disk_full(self, free: int) -> str:
        mb = 1024**2
        return (
            f"The disk is full: {free / mb:.0f} MB are free in {self._run_dir.parent}, and a run is ended below "
            f"{self._limits.floor_bytes / mb:.0f} MB. Free some space, then resume the run. It was ended {self._place()}."
        )

    def _place(self) -> str:
        steps = [e.data for e in FileLog(self._run_dir / EVENTS_FILE).read() if e.type == "progress"]
        where = (
            f"after step {steps[-1].get('step')} of {steps[-1].get('totalSteps')}" if steps else "before its first step"
        )
        kept = list_checkpoints(self._run_dir)
        return (
            f"{where}; the newest checkpoint is of step {step_of(kept[-1])}"
            if kept
            else f"{where}; there is no checkpoint"
        )

    def _has_let_go(self) -> bool:
        """Return whether the trainer's lock is free, which means that the trainer is dead."""
        try:
            lock = FileLock.try_acquire(self._run_dir / WORKER_LOCK, shared=True, create=False)
        except OSError:
            return False  # the lock file does not exist yet
        if lock is None:
            return False
        lock.release()
        return True


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def _changed(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _spoken(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
