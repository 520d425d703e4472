"""The heartbeat of a training process: it is alive, and this much memory is left. Private, but for `memory`.

A process that is killed for lack of memory cannot say so. Two things tell afterwards: the kernel counts whom it kills
for memory, in the control group of the process or for the whole machine; and the last heartbeat says how much was left,
which also catches killers that are no part of the kernel.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import psutil

from tmde_core.records.base import Record, to_json

__all__ = ["HEARTBEAT_FILE", "Vitals", "beat", "died_of_memory", "last_beat", "memory", "oom_counter", "oom_kills"]

HEARTBEAT_FILE = "heartbeat"

SHORT_SHARE = 0.05
"""Memory is short when less than this share of it is available; earlyoom and systemd-oomd act at 5 to 10 %."""

CGROUPS = Path("/sys/fs/cgroup")
MACHINE_COUNTER = Path("/proc/vmstat")


class Vitals(Record, frozen=True):
    """One heartbeat."""

    rss_bytes: int
    available_bytes: int
    total_bytes: int
    oom_counter: str
    """The file whose line `oom_kill N` counts the processes killed for memory where this one lives."""
    oom_kills: int | None
    """None where the kernel does not tell."""


def beat(run_dir: Path) -> None:
    """Write the heartbeat of this process.

    The file is overwritten in place: that needs no room, so a full disk does not look like a dead process.
    """
    total, available = memory()
    counter = oom_counter()
    content = to_json(
        Vitals(
            rss_bytes=psutil.Process().memory_info().rss,
            available_bytes=available,
            total_bytes=total,
            oom_counter=str(counter),
            oom_kills=oom_kills(counter),
        )
    )
    descriptor = os.open(run_dir / HEARTBEAT_FILE, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, content.ljust(512) + b"\n", 0)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def last_beat(run_dir: Path) -> Vitals | None:
    """Return the last heartbeat of a run's process; None if it cannot be read."""
    try:
        return msgspec.json.decode((run_dir / HEARTBEAT_FILE).read_bytes(), type=Vitals)
    except (OSError, msgspec.MsgspecError):
        return None


def died_of_memory(last: Vitals | None) -> bool:
    """Return whether a process with this last heartbeat, killed from outside, was killed for lack of memory."""
    if last is None:
        return False
    now = oom_kills(Path(last.oom_counter))
    if now is not None and last.oom_kills is not None and now > last.oom_kills:
        return True
    return last.available_bytes < SHORT_SHARE * last.total_bytes


def memory() -> tuple[int, int]:
    """Return the bytes of memory in all and available: the machine's, or the control group's if that allows less."""
    machine = psutil.virtual_memory()
    group = _cgroup()
    if group is not None:
        with contextlib.suppress(OSError, ValueError):
            limit = int((group / "memory.max").read_text())  # "max": no limit
            reclaimable = _counted(group / "memory.stat", "inactive_file") or 0
            used = int((group / "memory.current").read_text()) - reclaimable
            return min(limit, machine.total), max(0, min(limit - used, machine.available))
    return machine.total, machine.available


def oom_counter() -> Path:
    """Return the file in which the kernel counts processes killed for memory: this control group's, else the machine's."""
    group = _cgroup()
    if group is not None and (group / "memory.events").exists():
        return group / "memory.events"
    return MACHINE_COUNTER


def oom_kills(counter: Path) -> int | None:
    """Return how many were killed so far; None if the kernel does not say."""
    return _counted(counter, "oom_kill")


def _cgroup() -> Path | None:
    """The directory of this process's control group (version 2)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return CGROUPS / line[3:].lstrip("/")
    return None


def _counted(file: Path, name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            word, _, figure = line.partition(" ")
            if word == name:
                return int(figure)
    return None
