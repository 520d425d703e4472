"""Writes and reads the heartbeat of a training process, which records the available memory.

Only `memory` is public. A process that is killed for lack of memory cannot report it. Two sources show it afterwards.
The kernel counts the processes that it kills for lack of memory, for the control group of the process or for the whole
machine. The last heartbeat records how much memory was available, which also detects killers outside the kernel.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import psutil

from tmde_core.records.base import Record, to_json

__all__ = [
    "HEARTBEAT_FILE",
    "Vitals",
    "count_oom_kills",
    "measure_memory",
    "oom_counter",
    "read_heartbeat",
    "was_killed_for_memory",
    "write_heartbeat",
]

HEARTBEAT_FILE = "heartbeat"

SHORT_SHARE = 0.05
"""Memory is short if less than this share of it is available. earlyoom and systemd-oomd act at 5 to 10 %."""

CGROUPS = Path("/sys/fs/cgroup")
MACHINE_COUNTER = Path("/proc/vmstat")


class Vitals(Record, frozen=True):
    """One heartbeat."""

    rss_bytes: int
    available_bytes: int
    total_bytes: int
    oom_counter: str
    """The file whose line `oom_kill N` counts the processes killed for lack of memory in the environment of this
    process."""
    oom_kills: int | None
    """None: the kernel does not report the count."""


def write_heartbeat(run_dir: Path) -> None:
    """Write the heartbeat of this process.

    The file is overwritten in place, which needs no free space. A full disk therefore does not look like a dead
    process.
    """
    total, available = measure_memory()
    counter = oom_counter()
    content = to_json(
        Vitals(
            rss_bytes=psutil.Process().memory_info().rss,
            available_bytes=available,
            total_bytes=total,
            oom_counter=str(counter),
            oom_kills=count_oom_kills(counter),
        )
    )
    descriptor = os.open(run_dir / HEARTBEAT_FILE, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(OSError):
            os.pwrite(descriptor, content.ljust(512) + b"\n", 0)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def read_heartbeat(run_dir: Path) -> Vitals | None:
    """Return the last heartbeat of a run's process; None if it cannot be read."""
    try:
        return msgspec.json.decode((run_dir / HEARTBEAT_FILE).read_bytes(), type=Vitals)
    except (OSError, msgspec.MsgspecError):
        return None


def was_killed_for_memory(last: Vitals | None) -> bool:
    """Return whether a process that was killed from outside was killed for lack of memory.

    Args:
        last: the last heartbeat of the process.
    """
    if last is None:
        return False
    now = count_oom_kills(Path(last.oom_counter))
    if now is not None and last.oom_kills is not None and now > last.oom_kills:
        return True
    return last.available_bytes < SHORT_SHARE * last.total_bytes


def measure_memory() -> tuple[int, int]:
    """Return the total and available bytes of memory: the machine's, or the control group's if its limit is lower."""
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
    """Return the file that counts the processes killed for lack of memory: this control group's, else the machine's."""
    group = _cgroup()
    if group is not None and (group / "memory.events").exists():
        return group / "memory.events"
    return MACHINE_COUNTER


def count_oom_kills(counter: Path) -> int | None:
    """Return how many processes were killed so far; None if the kernel does not report the count."""
    return _counted(counter, "oom_kill")


def _cgroup() -> Path | None:
    """Return the directory of this process's control group (version 2); None if there is none."""
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
