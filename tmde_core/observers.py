"""Sends events to TMDE's own listeners and to the plugins' `tmde_event`.

Publishing an event never blocks and never fails. TMDE's own listeners are coroutines, and each event runs in its own
task. Each plugin's observer runs in its own thread with a bounded queue, so a slow or failing observer does not affect
others. Its exceptions are recorded as problems of its plugin. An observer that falls too far behind misses events.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from tmde_core.plugins import Plugins
from tmde_core.plugins.catalog import Observe
from tmde_core.plugins.records import describe_error
from tmde_core.sdk.context import PluginContext, PluginSettings
from tmde_core.sdk.events import Event

log = structlog.get_logger(__name__)

Listener = Callable[[Event], Awaitable[None]]

Publish = Callable[[Event], asyncio.Task[None]]
"""The type of `Observers.publish`. Services call it to publish events."""

LISTENER_SECONDS = 5.0
"""The time that TMDE's own listeners have to finish when this process ends."""
OBSERVER_SECONDS = 2.0
"""The time that the observers of all plugins together have to finish when this process ends."""
MOST_WAITING = 1000
"""The most events that may wait for one observer."""


class Observers:
    """The listeners and observers of one process."""

    def __init__(self, plugins: Plugins, data_dir: Path) -> None:
        self._listeners: list[Listener] = []
        self._telling: set[asyncio.Task[None]] = set()
        self._threads = [
            _ObserverThread(name, bind(function, name, data_dir), plugins.report)
            for name, function in plugins.observers()
        ]

    def subscribe(self, listener: Listener) -> None:
        """Await `listener` with every event from now on; log its exceptions."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> asyncio.Task[None]:
        """Send an event to all listeners and observers.

        Call this method from the event loop.

        Returns:
            The task that ends when TMDE's own listeners have handled the event. Awaiting it is optional.
        """
        for thread in self._threads:
            thread.put(event)
        task = asyncio.create_task(self._tell(event), name=f"tell of {type(event).__name__}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return task

    async def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                await listener(event)
            except Exception:  # a failing listener must not keep the event from the others
                log.exception("observers.listener_failed", of=type(event).__name__)

    async def stop(self) -> None:
        """Wait a short time for listeners and observers to finish."""
        if self._telling:
            _, late = await asyncio.wait(self._telling, timeout=LISTENER_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if any(thread.started for thread in self._threads):
            await asyncio.to_thread(self._stop_threads, time.monotonic() + OBSERVER_SECONDS)

    def _stop_threads(self, deadline: float) -> None:
        for thread in self._threads:
            thread.finish()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def bind(function: Observe, plugin: str, data_dir: Path) -> Callable[[Event], object]:
    """Return a plugin's observer as a function of the event alone; pass the context if the observer takes one."""
    try:
        takes_context = "context" in inspect.signature(function).parameters
    except Exception:  # the signature cannot be read: every observer takes the event
        takes_context = False
    if not takes_context:
        return function
    log = structlog.get_logger("tmde.plugin").bind(plugin=plugin)
    return functools.partial(_call_with_context, function, PluginContext(data_dir, PluginSettings(), log))


def _call_with_context(function: Observe, context: PluginContext[PluginSettings], event: Event) -> object:
    return function(event=event, context=context)


class _ObserverThread:
    """Runs one plugin's observer in a daemon thread, which does not keep the process from exiting."""

    def __init__(self, plugin: str, function: Callable[[Event], object], report: Callable[[str, str], None]) -> None:
        self._plugin = plugin
        self._function = function
        self._report = report
        self._waiting: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether the observer has received an event."""
        return self._thread is not None

    def put(self, event: Event) -> None:
        """Queue an event; drop it and report a problem if the queue is full."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"observer-{self._plugin}", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self._report(self._plugin, f"Its tmde_event is {MOST_WAITING} events behind and misses some.")

    def finish(self) -> None:
        """End the thread after the queued events."""
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                log.warning("observers.behind", plugin=self._plugin)

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, for at most `seconds`."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                returned = self._function(event)
                if inspect.iscoroutine(returned):
                    returned.close()
                    self._report(self._plugin, "Its tmde_event is asynchronous; it must be a plain function.")
            except BaseException as error:  # a plugin may even call sys.exit()
                self._report(self._plugin, f"Its tmde_event raised {describe_error(error)}")
                log.warning("observers.failed", plugin=self._plugin, error=describe_error(error))
