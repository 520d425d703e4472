"""What is going on in the whole server, kept in memory for the header of every open page.

One task looks every two seconds, and only while a page is open: at the running debates (in memory), at the pointer to the
active adapter (one small file), at the running training run (one indexed row) and at the notifications that nobody has dismissed.
Pages are told only of changes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import NotFoundError
from tmde_core.records.finetune import FineTuneRun
from tmde_core.records.notifications import Notification
from tmde_core.services import Services
from tmde_ui.kit.times import duration

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0

NOTICES = 20
"""Notifications that the bell lists, the newest; the rest is counted."""


class Job(msgspec.Struct, frozen=True):
    """Something that is running."""

    label: str
    href: str | None


class Situation(msgspec.Struct, frozen=True):
    """What the header shows."""

    adapter: str | None = None
    """Id of the adapter that answers; None: the base model."""
    jobs: tuple[Job, ...] = ()
    notices: tuple[Notification, ...] = ()
    """The newest that nobody has dismissed."""
    waiting: int = 0
    """How many those are in all."""


Listener = Callable[[Situation], None]


class Live:
    """Looks, remembers, tells."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._listeners: set[Listener] = set()
        self._wake = asyncio.Event()
        self.now = Situation()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep looking while the block runs."""
        task = asyncio.create_task(self._watch(), name="situation of the header")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell `listener` of every change, until the returned function is called."""
        self._listeners.add(listener)
        self._wake.set()
        return lambda: self._listeners.discard(listener)

    def nudge(self) -> None:
        """Look at once: something has just been started or stopped."""
        self._wake.set()

    async def look(self) -> Situation:
        """The situation now; tells the listeners when it has changed."""
        adapter = self._services.lora.active_ref()
        debates = self._services.debates.running()
        run = await self._services.finetune.current()
        jobs = []
        if len(debates) == 1:
            jobs.append(Job("1 debate running", f"/debates/{debates[0].id}"))
        elif debates:
            jobs.append(Job(f"{len(debates)} debates running", "/"))
        if run is not None:
            jobs.append(Job(await self._training(run), f"/finetune/{run.id}"))
        if (benchmark := self._services.benchmark.running()) is not None:
            share = 100 * benchmark.questions_done // max(1, benchmark.questions_total)
            jobs.append(Job(f"Benchmark {share} %", f"/benchmark/{benchmark.id}"))
        notices, waiting = await self._services.notifications.list(NOTICES)
        found = Situation(adapter.id if adapter else None, tuple(jobs), tuple(notices), waiting)
        if found != self.now:
            self.now = found
            for listener in tuple(self._listeners):
                try:
                    listener(found)
                except Exception as error:  # the other pages are told all the same
                    log.warning("ui.situation_untold", error=f"{type(error).__name__}: {error}")
        return found

    async def dismiss(self, notification_id: UUID) -> None:
        """A person has seen a notification. One that is gone already is none to speak of."""
        with contextlib.suppress(NotFoundError):
            await self._services.notifications.dismiss(notification_id)
        await self.look()

    async def dismiss_all(self) -> None:
        """A person has seen them all."""
        await self._services.notifications.dismiss_all()
        await self.look()

    async def _training(self, run: FineTuneRun) -> str:
        """How far a training run is: `Training 34 %, 3 min 05 s left`."""
        if run.status == "pending":
            return "Training starts"
        steps = await self._services.finetune.metrics(run.id)
        if not steps or not steps[-1].total_steps:
            return "Training"
        last = steps[-1]
        share = f"Training {100 * last.step // last.total_steps} %"
        return f"{share}, {duration(last.eta_seconds * 1000)} left" if last.eta_seconds else share

    async def _watch(self) -> None:
        while True:
            if not self._listeners:
                await self._wake.wait()
            self._wake.clear()
            try:
                await self.look()
            except Exception:
                log.exception("ui.situation_unknown")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
