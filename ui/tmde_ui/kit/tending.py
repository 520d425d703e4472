"""Run background work of a page, such as following a run, polling or comparing, until the page is closed.

NiceGUI deletes a page's client half a minute after its browser has disconnected. Drawing after that fails, far from the
cause. Every page and panel therefore runs its work here. The work is cancelled when the client is deleted, and an error
after that is only logged for debugging. Any other error is one line in the log and one sentence on the page. A browser
that reconnects in time (a sleeping laptop) finds its page up to date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from weakref import WeakKeyDictionary

import structlog
from nicegui import Client, background_tasks, ui
from nicegui.element import Element

from tmde_ui.kit.elements import Tag
from tmde_ui.kit.words import sentence

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How often pages check for changes made elsewhere: by a terminal, another tab, the schedule, the gate."""

Work = Callable[[], Awaitable[object]]

_begun: WeakKeyDictionary[Client, set[asyncio.Task[None]]] = WeakKeyDictionary()
"""The running background tasks of each page."""


def start_task(work: Work, name: str) -> asyncio.Task[None]:
    """Run `work` in the background of the current page, until the work is done or the page is closed.

    Args:
        work: called once; elements that it creates outside of any other element go to the end of the page.
        name: for the log.
    """
    client = ui.context.client
    task = background_tasks.create(_until_closed(client, work, name), name=name, handle_exceptions=False)
    if client.is_deleted:
        task.cancel()  # the page was closed while the last action on it was running
        return task
    if client not in _begun:
        begun: set[asyncio.Task[None]] = set()
        _begun[client] = begun
        client.on_delete(lambda: [one.cancel() for one in tuple(begun)])
    _begun[client].add(task)
    task.add_done_callback(_begun[client].discard)
    return task


async def _until_closed(client: Client, work: Work, name: str) -> None:
    with client:
        try:
            await work()
        except Exception as error:
            if not _closed(client, name, error):
                log.warning("ui.work_failed", work=name, error=_named(error))
                client.handle_exception(error)


async def draw_part(work: Awaitable[object], place: Element | None = None) -> None:
    """Draw a part of a page. If that fails, show the error in its place and keep the rest of the page.

    Args:
        place: where to show the error; by default where the part is drawn.
    """
    # The element whose action asked for the part may have been redrawn meanwhile; then there is no context.
    client = ui.context.client if place is None else place.client
    try:
        await work
    except Exception as error:
        if _closed(client, "part of a page", error):
            return
        log.warning("ui.part_failed", error=_named(error))
        with place or nullcontext():
            Tag("p", sentence(error), "notice bad", data_testid="part-failed")


async def poll(
    look: Work,
    name: str,
    *,
    every: float | None = None,
    until: Callable[[], bool] = lambda: False,
    at_once: bool = False,
) -> None:
    """Call `look` at an interval. An error is logged once for as long as it stays the same.

    Args:
        look: reads and draws something.
        name: the subject of `look`, for the log.
        every: seconds; `LOOK_SECONDS` by default.
        until: checked before each call; True ends the loop.
        at_once: whether to call `look` immediately.
    """
    client = ui.context.client
    told = ""
    waits = not at_once
    while not until() and not client.is_deleted:
        if waits:
            await asyncio.sleep(LOOK_SECONDS if every is None else every)
        waits = True
        try:
            await look()
            told = ""
        except Exception as error:  # the next call may succeed
            if _closed(client, name, error):
                return
            if told != (told := _named(error)):
                log.warning("ui.look_failed", at=name, error=told)


class Soon:
    """Runs an action once after a delay, however often it is requested in between.

    Args:
        deed: the action.
        seconds: the delay after the first request.
    """

    def __init__(self, deed: Callable[[], None], seconds: float) -> None:
        self._deed = deed
        self._seconds = seconds
        self._due: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Request the action."""
        if self._due is None:
            self._due = start_task(self._wait, "paint")

    def stop(self) -> None:
        """Cancel the request, if there is one."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    async def _wait(self) -> None:
        await asyncio.sleep(self._seconds)
        self._due = None
        self._deed()


def _closed(client: Client, name: str, error: Exception) -> bool:
    """Return whether the page is closed, so that no error can be shown."""
    if client.is_deleted:
        log.debug("ui.page_was_closed", work=name, error=_named(error))
    return client.is_deleted


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
