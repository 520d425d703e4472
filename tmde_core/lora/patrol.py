"""While the server runs, every adapter's bytes are read again now and then, so that a bad disk is noticed before a rollback needs them.

It stays out of everybody's way: one thread of the lowest priority that reads a few megabytes a second and lets the kernel forget
them. What it finds wrong is listed as invalid with the reason, and told once. What it has found is kept (see `readings`): after a
restart it goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog

from tmde_core.errors import NotFoundError
from tmde_core.lora.files.on_disk import version_of
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.service import LoraService
from tmde_core.observers import Publish
from tmde_core.records.base import utc_now
from tmde_core.records.lora import LoRAAdapter
from tmde_core.sdk.events import AdapterDamaged

log = structlog.get_logger(__name__)

FIRST_SECONDS = 300.0
"""After a start people want their answers first."""
BETWEEN_SECONDS = 24 * 3600.0
SAVE_SECONDS = 60.0
"""A server that is killed reads so much again."""
PIECE = 1024 * 1024
BYTES_A_SECOND = 16 * 1024 * 1024
"""A thousand adapters of 20 MB take twenty minutes a day."""
LOWEST = 19


class _StoppedError(Exception):
    """The server ends."""


class Patrol:
    """Looks after all adapters of one data directory, from `start` to `stop`."""

    def __init__(
        self,
        lora: LoraService,
        store: AdapterStore,
        publish: Publish,
        *,
        first: float = FIRST_SECONDS,
        pace: float = BYTES_A_SECOND,
    ) -> None:
        self._lora = lora
        self._store = store
        self._publish = publish
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
        """Read every adapter that was not read within a day, the active one first; those found damaged again in any case."""
        readings, saved = self._store.readings, time.monotonic()
        try:
            with ThreadPoolExecutor(1, "patrol", _step_back) as thread:
                for adapter in self._due(await self._lora.list()):
                    with suppress(NotFoundError, _StoppedError):
                        await asyncio.get_running_loop().run_in_executor(
                            thread, self._store.flaws, adapter.id, self._unhurried
                        )
                        now = await self._lora.get(adapter.id)
                        if adapter.is_valid and not now.is_valid:
                            log.error("patrol.damaged", adapter=str(now.id), reason=now.invalid_reason)
                            reason = now.invalid_reason or ""
                            await self._publish(
                                AdapterDamaged(adapter_id=now.id, is_active=now.is_active, reason=reason)
                            )
                    if time.monotonic() - saved > SAVE_SECONDS:
                        await asyncio.to_thread(readings.save)
                        saved = time.monotonic()
        except BaseException:  # the server ends: there is no time to wait for a thread
            readings.save()
            raise
        await asyncio.to_thread(readings.save)

    def _due(self, adapters: list[LoRAAdapter]) -> list[LoRAAdapter]:
        readings, since = self._store.readings, utc_now() - timedelta(seconds=BETWEEN_SECONDS)
        last = {one.id: readings.last(Path(one.path).name, version_of(one.path)) for one in adapters}
        due = [one for one in adapters if last[one.id] <= since or not one.is_valid]
        return sorted(due, key=lambda one: (not one.is_active, last[one.id]))

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
