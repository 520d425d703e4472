"""Verifies the files of all adapters once a day while the server runs.

A bad disk is noticed before a rollback needs the damaged adapter. The patrol costs little: one thread of the lowest
priority reads 16 MiB per second and drops the pages from the kernel's cache. A damaged adapter is listed as invalid
with the reason, and one `AdapterDamaged` event is published. The results are stored (see `readings`), so the patrol
continues after a restart where it stopped.
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
from uuid import UUID

import structlog

from tmde_core.errors import NotFoundError
from tmde_core.lora.files.on_disk import read_version
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.service import LoraService
from tmde_core.observers import Publish
from tmde_core.records.base import utc_now
from tmde_core.records.lora import LoRAAdapter
from tmde_core.sdk.adapters import MANIFEST_FILE

log = structlog.get_logger(__name__)

FIRST_SECONDS = 300.0
"""Delay before the first round, so that the first debates after a start are not slowed down."""
BETWEEN_SECONDS = 24 * 3600.0
"""Pause between two rounds, and the age at which a reading is repeated."""
ACTIVE_SECONDS = 10.0
"""How often the sizes and times of the active adapter's files are looked at."""
SAVE_SECONDS = 60.0
"""Interval at which results are saved. A killed server reads at most this much again."""
PIECE = 1024 * 1024
BYTES_A_SECOND = 16 * 1024 * 1024
"""At this rate 1,000 adapters of 20 MB take 20 minutes a day."""
LOWEST = 19
"""The lowest priority of a thread on Linux (its nice value)."""


class _StoppedError(Exception):
    """The server is shutting down."""


class Patrol:
    """Verifies all adapters of one data directory, from `start` to `stop`."""

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
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = threading.Event()
        self._active_files: dict[str, int] = {}
        """File of the active adapter → time of its last change, in nanoseconds, when the watch looked last."""

    async def start(self) -> None:
        """Start the rounds in the background and return at once."""
        work = (self._rounds(), "patrol"), (self._watch_active(), "watch of the active adapter")
        self._tasks = [asyncio.create_task(one, name=name) for one, name in work]

    async def stop(self) -> None:
        """Stop the rounds. A running read stops after the current piece of 1 MiB."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch_active(self) -> None:
        """Notice damage of the active adapter soon, so that a person hears that the base model answers."""
        while True:
            try:
                await self.look_at_active()
            except Exception:  # the next look may succeed
                log.exception("patrol.active_failed")
            await asyncio.sleep(ACTIVE_SECONDS)

    async def look_at_active(self) -> None:
        """Publish damage of the active adapter. Read its files if one was written after the last reading.

        Sizes are looked at each time. A file whose bytes were overwritten keeps its size, but its time changes.
        """
        active = self._lora.get_active_ref()
        if active is None or self._lora.find_active_flaw() is not None:
            return
        files = await asyncio.to_thread(_read_times, Path(active.directory))
        if files == self._active_files:
            return
        last = self._store.readings.last(Path(active.directory).name, read_version(active.directory))
        if max(files.values(), default=0) > last.timestamp() * 1e9:
            with suppress(NotFoundError, _StoppedError):
                await asyncio.to_thread(self._store.find_flaws, UUID(active.id), self._unhurried)
        self._active_files = files
        self._lora.find_active_flaw()

    async def _rounds(self) -> None:
        await asyncio.sleep(self._first)
        first = True
        while True:
            try:
                await self.round(first=first)
                first = False
            except Exception:  # the next round may succeed
                log.exception("patrol.failed")
            await asyncio.sleep(BETWEEN_SECONDS)

    async def round(self, *, first: bool = False) -> None:
        """Read every adapter that was not read within the last day.

        The active adapter is read first. In the first round after a start it is always read. Adapters that are known to be damaged are read in every round.
        """
        readings, saved = self._store.readings, time.monotonic()
        try:
            with ThreadPoolExecutor(1, "patrol", _step_back) as thread:
                for adapter in self._due(await self._lora.list(), first):
                    with suppress(NotFoundError, _StoppedError):
                        await asyncio.get_running_loop().run_in_executor(
                            thread, self._store.find_flaws, adapter.id, self._unhurried
                        )
                        now = await self._lora.get(adapter.id)
                        newly = adapter.is_valid and not now.is_valid
                        if newly and (damage := self._lora.note_damage(now)) is not None:
                            await self._publish(damage)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        await asyncio.to_thread(readings.save)
                        saved = time.monotonic()
        except BaseException:  # the server is shutting down: save here, because a thread might not finish in time
            readings.save()
            raise
        await asyncio.to_thread(readings.save)

    def _due(self, adapters: list[LoRAAdapter], first: bool) -> list[LoRAAdapter]:
        readings, since = self._store.readings, utc_now() - timedelta(seconds=BETWEEN_SECONDS)
        last = {one.id: readings.last(Path(one.path).name, read_version(one.path)) for one in adapters}
        due = [one for one in adapters if last[one.id] <= since or not one.is_valid or (first and one.is_active)]
        return sorted(due, key=lambda one: (not one.is_active, last[one.id]))

    def _unhurried(self, file: Path) -> str:
        """Return the SHA-256 of a file, read at the configured pace (`BYTES_A_SECOND` by default)."""
        digest = hashlib.sha256()
        with file.open("rb", buffering=0) as content:
            while piece := content.read(PIECE):
                digest.update(piece)
                if self._stopped.wait(len(piece) / self._pace):
                    raise _StoppedError
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return digest.hexdigest()


def _read_times(directory: Path) -> dict[str, int]:
    """Return when each file of an adapter was written. TMDE rewrites the manifest itself, so it does not count."""
    return {
        file.path: file.stat(follow_symlinks=False).st_mtime_ns
        for file in os.scandir(directory)
        if file.name != MANIFEST_FILE
    }


def _step_back() -> None:
    """Give the current thread the lowest priority."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
