"""Keep the state of the whole server in memory for the header of every open page.

One task reads the state every two seconds, and only while a page is open: the running debates (in memory), the pointer
to the active adapter (one small file), the current training run (one indexed row) and the notifications that nobody has
dismissed. Pages are updated only when something has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import NotFoundError
from tmde_core.records.finetune import FineTuneRun
from tmde_core.records.notifications import Notification
from tmde_core.services import Services
from tmde_ui.kit.names import is_named, remember_names, short_name
from tmde_ui.kit.serving import why_active_is_idle
from tmde_ui.kit.times import format_milliseconds

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0

NAMES_SECONDS = 10.0
"""How often the names of the adapters are read while a page is open. Most are read more often by the page itself."""

NOTICES = 20
"""The bell lists this many of the newest notifications. The others are counted."""


class Job(msgspec.Struct, frozen=True):
    """A running debate, training run or benchmark."""

    label: str
    href: str | None


class Situation(msgspec.Struct, frozen=True):
    """The state that the header shows."""

    adapter: str | None = None
    """Id of the active adapter; None for the base model."""
    jobs: tuple[Job, ...] = ()
    notices: tuple[Notification, ...] = ()
    """The newest notifications that nobody has dismissed."""
    waiting: int = 0
    """Number of all notifications that nobody has dismissed."""
    adapter_flaw: str | None = None
    """Why the base model answers although an adapter is active; None if the adapter answers."""
    adapter_idle: str | None = None
    """Why the base model answers although a sound adapter is active: see `why_active_is_idle`."""
    adapter_name: str | None = None
    """What people call the active adapter."""


Listener = Callable[[Situation], None]


class ServerStatus:
    """Reads the state, stores it and informs the listeners."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._listeners: set[Listener] = set()
        self._wake = asyncio.Event()
        self.now = Situation()
        self._named_at = -NAMES_SECONDS
        self._idle: str | None = None
        self._asking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep reading the state while the block runs. The first page needs the names, so they are read before."""
        await self._read_names()
        task = asyncio.create_task(self._watch(), name="situation of the header")
        try:
            yield
        finally:
            for ending in (task, *((self._asking,) if self._asking is not None else ())):
                ending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await ending

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` on every change, until the returned function is called."""
        self._listeners.add(listener)
        self._wake.set()
        return lambda: self._listeners.discard(listener)

    def nudge(self) -> None:
        """Read the state at once, because something has been started or stopped."""
        self._wake.set()

    async def look(self) -> Situation:
        """Return the current state and call the listeners if it has changed."""
        adapter = self._services.lora.get_active_ref()
        if time.monotonic() - self._named_at >= NAMES_SECONDS or (adapter is not None and not is_named(adapter.id)):
            await self._read_names()
        debates = self._services.debates.running()
        run = await self._services.finetune.get_current()
        jobs = []
        if len(debates) == 1:
            jobs.append(Job("1 debate running", f"/debates/{debates[0].id}"))
        elif debates:
            jobs.append(Job(f"{len(debates)} debates running", "/"))
        if run is not None:
            paused = self._services.workspace.find_why_paused() is not None
            label = await self._training(run)
            jobs.append(Job(f"{label} (model paused)" if paused else label, f"/finetune/{run.id}"))
        if (benchmark := self._services.benchmark.get_running()) is not None:
            share = 100 * benchmark.completed_answers // max(1, benchmark.answer_count)
            jobs.append(Job(f"Benchmark {share} %", f"/benchmark/{benchmark.id}"))
        notices, waiting = await self._services.notifications.list(NOTICES)
        flaw = self._services.lora.find_active_flaw() if adapter else None
        found = Situation(
            adapter.id if adapter else None,
            tuple(jobs),
            tuple(notices),
            waiting,
            adapter_flaw=flaw,
            adapter_idle=self._idle if adapter and not flaw else None,
            adapter_name=short_name(adapter.id) if adapter else None,
        )
        if found != self.now:
            self.now = found
            for listener in tuple(self._listeners):
                try:
                    listener(found)
                except Exception as error:  # the other listeners must still be called
                    log.warning("ui.situation_untold", error=f"{type(error).__name__}: {error}")
        return found

    async def dismiss(self, notification_id: UUID) -> None:
        """Dismiss a notification that a person has seen. Ignore one that no longer exists."""
        with contextlib.suppress(NotFoundError):
            await self._services.notifications.dismiss(notification_id)
        await self.look()

    async def dismiss_all(self) -> None:
        """Dismiss all notifications."""
        await self._services.notifications.dismiss_all()
        await self.look()

    async def _read_names(self) -> None:
        self._named_at = time.monotonic()
        remember_names(await self._services.lora.list())
        if self._asking is None or self._asking.done():
            # In the background: a model server that is away is waited for.
            self._asking = asyncio.create_task(self._read_idle(), name="whether adapters are served")

    async def _read_idle(self) -> None:
        found = await why_active_is_idle(self._services)
        if found != self._idle:
            self._idle = found
            self._wake.set()

    async def _training(self, run: FineTuneRun) -> str:
        """Return the progress of a training run: `Training 34 %, 3 min 05 s left`."""
        if run.status == "pending":
            return "Training starts"
        steps = await self._services.finetune.metrics(run.id)
        if not steps or not steps[-1].total_steps:
            return "Training"
        last = steps[-1]
        share = f"Training {100 * last.step // last.total_steps} %"
        return f"{share}, {format_milliseconds(last.eta_seconds * 1000)} left" if last.eta_seconds else share

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
