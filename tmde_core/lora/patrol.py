"""While the server runs, every adapter's bytes are read again now and then, so that a bad disk is noticed before a rollback needs them.

It stays out of everybody's way: one thread of the lowest priority that reads a few megabytes a second and lets the kernel forget
them. What it finds wrong is listed as invalid with the reason, and told once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import structlog

from tmde_core.errors import NotFoundError
from tmde_core.lora.records import LoRAAdapter
from tmde_core.lora.service import LoraService

log = structlog.get_logger(__name__)

FIRST_SECONDS = 300.0
"""After a start people want their answers first."""
BETWEEN_SECONDS = 24 * 3600.0
PIECE = 1024 * 1024
BYTES_A_SECOND = 16 * 1024 * 1024
"""A thousand adapters of 20 MB take twenty minutes a day."""
LOWEST = 19

Tell = Callable[[LoRAAdapter], Awaitable[None]]


class _StoppedError(Exception):
    """The server ends."""


class Patrol:
    """Looks after all adapters of one data directory, from `start` to `stop`."""

    def __init__(
        self, lora: LoraService, tell: Tell, *, first: float = FIRST_SECONDS, pace: float = BYTES_A_SECOND
    ) -> None:
        self._lora = lora
        self._tell = tell
        self._first = first
        self._pace = pace
        self._task: asyncio.Task[None] | None = None
        self._stopped = threading.Event()

    async def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._rounds(), name="patrol")

    async def stop(self) -> None:
        """End within one piece."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self) -> None:
        await asyncio.sleep(self._first)
        while True:
            try:
                await self.round()
            except Exception:  # the next round may go better
                log.exception("patrol.failed")
            await asyncio.sleep(BETWEEN_SECONDS)

    async def round(self) -> None:
        """Read every adapter once, the active one first."""
        adapters = sorted(await self._lora.list(), key=lambda one: not one.is_active)
        with ThreadPoolExecutor(1, "patrol", _step_back) as thread:
            for adapter in adapters:
                with suppress(NotFoundError, _StoppedError):
                    await asyncio.get_running_loop().run_in_executor(
                        thread, self._lora.store.flaws, adapter.id, self._unhurried
                    )
                    now = await self._lora.get(adapter.id)
                    if adapter.is_valid and not now.is_valid:
                        log.error("patrol.damaged", adapter=str(now.id), reason=now.invalid_reason)
                        await self._tell(now)

    def _unhurried(self, file: Path) -> str:
        """SHA-256 of a file, at the pace of `BYTES_A_SECOND`."""
        digest = hashlib.sha256()
        with file.open("rb", buffering=0) as content:
            while piece := content.read(PIECE):
                digest.update(piece)
                if self._stopped.wait(len(piece) / self._pace):
                    raise _StoppedError
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return digest.hexdigest()


def _step_back() -> None:
    """The lowest priority, for this thread alone."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
