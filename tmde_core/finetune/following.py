"""Tells the server about completed runs whose end another program has recorded, such as a `tmde worker`.

The program that records the end of a run publishes it: it notifies the user and the plugins' observers. What only the
server does about a new adapter would not happen, because no event reaches another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import structlog

from tmde_core.errors import TmdeError
from tmde_core.finetune.store import RunStore
from tmde_core.observers import Listener
from tmde_core.sdk.events import RunFinished

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""The time between two looks. One look is one query."""


class RunFollower:
    """Watches for completed runs, from `start` to `stop`."""

    def __init__(self, store: RunStore, hear: Listener, look_seconds: float = LOOK_SECONDS) -> None:
        """Create the follower.

        Args:
            store: the stored runs.
            hear: is awaited with the end of each run that is completed after `start`, whoever recorded it.
            look_seconds: the time between two looks.
        """
        self._store = store
        self._hear = hear
        self._look_seconds = look_seconds
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Follow the runs in the background."""
        self._task = asyncio.create_task(self._follow(await self._store.newest_completed()), name="run follower")

    async def stop(self) -> None:
        """End the following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self, known: object) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            with contextlib.suppress(TmdeError, sqlite3.Error):  # the next look may succeed
                newest = await self._store.newest_completed()
                if newest is None or newest == known:
                    continue
                known = newest
                run = await self._store.get(newest)
                if run is not None:
                    log.info("finetune.heard", run=str(run.id))
                    await self._hear(
                        RunFinished(
                            run_id=run.id,
                            status="completed",
                            triggered_by=run.triggered_by,
                            traces_used=run.traces_used,
                            metrics=run.metrics,
                            error_message=None,
                        )
                    )
