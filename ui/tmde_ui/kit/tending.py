"""What a page does beside answering its person: following a run, looking for news, comparing. It ends with the page.

NiceGUI deletes a page's client half a minute after its browser has gone; whatever draws after that fails, and far from its
cause. So every page and panel has its work done here. It is cancelled when the client is deleted, and what still fails then
is seen by nobody and said to nobody. Any other failure is one line in the log and one sentence where the person looks. A
browser that comes back in time (a laptop that slept) finds its page as it would have been.
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
"""How often pages look whether something was changed elsewhere: by a terminal, another tab, the schedule, the gate."""

Work = Callable[[], Awaitable[object]]

_begun: WeakKeyDictionary[Client, set[asyncio.Task[None]]] = WeakKeyDictionary()
"""What goes on behind each page."""


def begin(work: Work, name: str) -> asyncio.Task[None]:
    """Do `work` beside the page that is being built or used, until it is done or the page is closed.

    Args:
        work: called once; elements that it makes without naming a place are put at the page's end.
        name: for the log.
    """
    client = ui.context.client
    task = background_tasks.create(_until_closed(client, work, name), name=name, handle_exceptions=False)
    if client.is_deleted:
        task.cancel()  # the page was closed while its person's last wish was seen to
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


async def part(work: Awaitable[object], place: Element | None = None) -> None:
    """A part of a page that cannot be made says so in its place; the rest of the page stands.

    Args:
        place: where to say so; where the part is being made, when left out.
    """
    client = ui.context.client
    try:
        await work
    except Exception as error:
        if _closed(client, "part of a page", error):
            return
        log.warning("ui.part_failed", error=_named(error))
        with place or nullcontext():
            Tag("p", sentence(error), "notice bad", data_testid="part-failed")


async def look_again(
    look: Work,
    name: str,
    *,
    every: float | None = None,
    until: Callable[[], bool] = lambda: False,
    at_once: bool = False,
) -> None:
    """Look every so many seconds. A look that fails is told in the log, once for as long as it fails in the same way.

    Args:
        name: of what is looked at, for the log.
        every: seconds; `LOOK_SECONDS` when left out.
        until: asked before each look.
        at_once: whether the first look is now.
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
        except Exception as error:  # the next look may succeed
            if _closed(client, name, error):
                return
            if told != (told := _named(error)):
                log.warning("ui.look_failed", at=name, error=told)


class Soon:
    """Does something a moment later, once, however often it is asked for meanwhile.

    Args:
        deed: what is done.
        seconds: after the first time that it was asked for.
    """

    def __init__(self, deed: Callable[[], None], seconds: float) -> None:
        self._deed = deed
        self._seconds = seconds
        self._due: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Let it be done soon."""
        if self._due is None:
            self._due = begin(self._wait, "paint")

    def stop(self) -> None:
        """It is not to be done, or was done just now."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    async def _wait(self) -> None:
        await asyncio.sleep(self._seconds)
        self._due = None
        self._deed()


def _closed(client: Client, name: str, error: Exception) -> bool:
    """Whether the page is closed, so that nobody can be told."""
    if client.is_deleted:
        log.debug("ui.page_was_closed", work=name, error=_named(error))
    return client.is_deleted


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
