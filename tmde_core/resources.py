"""Reads which resources this machine has, and how much of each is in use."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import shutil
import subprocess
from pathlib import Path

import psutil

from tmde_core.records.base import Record

NVIDIA_SMI_SECONDS = 5.0
"""The time limit for `nvidia-smi`, so that a hanging driver does not block the request."""

MIB = 1024**2


class Cpu(Record):
    """The processors."""

    count: int
    percent: float
    """Busy share of all processors since the last measurement, 0–100."""
    load_average: float
    """The average number of processes that wanted a processor in the last minute."""


class Capacity(Record):
    """Sizes of memory or disk in bytes."""

    total_bytes: int
    available_bytes: int
    used_bytes: int


class Gpu(Record):
    """A graphics card."""

    name: str
    total_bytes: int
    used_bytes: int
    utilization_percent: float | None = None


class Resources(Record):
    """One measurement."""

    cpu: Cpu
    ram: Capacity
    disk: Capacity
    """The file system that holds the data directory."""
    process_rss_bytes: int
    """Resident memory of the server itself, without the model's process."""
    gpus: tuple[Gpu, ...] = ()
    """Empty if there is no NVIDIA card or driver."""


def count_cores() -> int:
    """Return the number of physical cores, but at most those that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


async def read_resources(data_dir: Path) -> Resources:
    """Measure the resources in a thread, so that the event loop is not blocked."""
    return await asyncio.to_thread(_read, data_dir)


def _read(data_dir: Path) -> Resources:
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(data_dir)
    return Resources(
        cpu=Cpu(count=os.cpu_count() or 1, percent=psutil.cpu_percent(), load_average=round(os.getloadavg()[0], 2)),
        ram=Capacity(
            total_bytes=memory.total, available_bytes=memory.available, used_bytes=memory.total - memory.available
        ),
        disk=Capacity(total_bytes=disk.total, available_bytes=disk.free, used_bytes=disk.used),
        process_rss_bytes=psutil.Process().memory_info().rss,
        gpus=read_gpus(),
    )


def read_gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA cards that `nvidia-smi` reports; empty if it is missing, fails or does not respond."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = "--query-gpu=name,memory.total,memory.used,utilization.gpu"
    try:
        done = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Parse lines of `name, total MiB, used MiB, percent`; skip lines whose memory is "[N/A]"."""
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) == 4 and row[1].isdigit() and row[2].isdigit():
            busy = float(row[3]) if row[3].strip().isdigit() else None
            found.append(
                Gpu(
                    name=row[0].strip(),
                    total_bytes=int(row[1]) * MIB,
                    used_bytes=int(row[2]) * MIB,
                    utilization_percent=busy,
                )
            )
    return tuple(found)


def lower_priority(pid: int, niceness: int) -> None:
    """Give a new process in its own session, and its later threads, a lower priority than all other processes."""
    with contextlib.suppress(psutil.Error, OSError):  # it may have ended already
        psutil.Process(pid).nice(niceness)
    # Linux first divides the processor among sessions (sched(7), autogroup). Niceness works only within a session.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
