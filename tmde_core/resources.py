"""Reads which resources this machine has, and how much of each is in use."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

import psutil

from tmde_core.records.base import Record
from tmde_core.sdk.cards import Card, read_cards, usable_cards


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
    return tuple(_as_gpu(card) for card in read_cards())


def read_usable_gpus() -> tuple[Gpu, ...]:
    """Return the cards that a training run may use: those that `CUDA_VISIBLE_DEVICES` does not hide."""
    return tuple(_as_gpu(card) for card in usable_cards(read_cards()))


def _as_gpu(card: Card) -> Gpu:
    return Gpu(
        name=card.name,
        total_bytes=card.total_bytes or 0,
        used_bytes=card.used_bytes,
        utilization_percent=card.utilization_percent,
    )


def lower_priority(pid: int, niceness: int) -> None:
    """Give a new process in its own session, and its later threads, a lower priority than all other processes."""
    with contextlib.suppress(psutil.Error, OSError):  # it may have ended already
        psutil.Process(pid).nice(niceness)
    # Linux first divides the processor among sessions (sched(7), autogroup). Niceness works only within a session.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
