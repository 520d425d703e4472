"""What this machine has and how much of it is in use."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import shutil
import subprocess
from pathlib import Path

import psutil

from tmde_core.records.base import Record

NVIDIA_SMI_SECONDS = 5.0
"""A driver that hangs must not hang the request."""

MIB = 1024**2


class Cpu(Record):
    """The processors."""

    count: int
    percent: float
    """Busy share of all processors since the last reading, 0–100."""
    load_average: float
    """Of the last minute: processes that want a processor."""


class Capacity(Record):
    """Bytes of memory or disk."""

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
    """One reading."""

    cpu: Cpu
    ram: Capacity
    disk: Capacity
    """Of the filesystem that holds the data directory."""
    process_rss_bytes: int
    """Resident memory of the server itself, without the model's process."""
    gpus: tuple[Gpu, ...] = ()
    """Empty where there is no NVIDIA card or driver."""


async def read_resources(data_dir: Path) -> Resources:
    """Take a reading, off the event loop."""
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
    """NVIDIA's cards, as `nvidia-smi` tells; none when it is not there or does not answer."""
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
    """Read `name, MiB in all, MiB in use, percent` a line; a line that says "[N/A]" for the memory is left out."""
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
