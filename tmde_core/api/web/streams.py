"""Serve event logs as server-sent events to any number of clients, each from the client's last event.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import msgspec
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from litestar.response import Stream

from tmde_core.api.web.requests import AnyRequest
from tmde_core.errors import InvalidInputError
from tmde_core.storage.events import Event, EventLog, FileLog

HEARTBEAT_SECONDS = 15.0
"""The time between heartbeats. Proxies and browsers close a silent connection after 30 to 60 seconds."""

RETRY_MS = 2_000
"""How long a browser waits before it reconnects."""

LONGEST_ID = 15
"""The number of digits of the largest id. JavaScript and SQLite represent such numbers exactly."""

TOGETHER, TURN_SECONDS = 25, 0.01
"""Followers of one file are notified in groups: the size of a group, and the pause before the next group in seconds.
The server answers other requests during the pauses. Sending to 500 followers takes some 60 ms of the only thread."""


class Streams:
    """The open event streams of this server."""

    def __init__(self, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._heartbeat = heartbeat_seconds
        self._closing = asyncio.Event()
        self._files: dict[Path, _SharedFile] = {}
        self._open = 0

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._open

    @property
    def polled(self) -> int:
        """The number of files that are polled. Each file is polled once, however many clients follow it."""
        return len(self._files)

    def shutdown(self) -> None:
        """End every open stream now; streams that are opened later end at once."""
        self._closing.set()

    def respond(self, request: AnyRequest, log: EventLog) -> Stream:
        """Follow a log from `Last-Event-ID` (a header, or the query's `lastEventId`) until its terminal event.

        Raises:
            InvalidInputError: the id is not a number.
        """
        return Stream(
            self._sent(log, last_event_id(request)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def _sent(self, log: EventLog, after: int) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MS
            async with contextlib.aclosing(self._paced(log, after)) as events:
                async for event in events:
                    yield b": still here\n\n" if event is None else encode(event)
        finally:
            self._open -= 1

    async def _paced(self, log: EventLog, after: int) -> AsyncGenerator[Event | None, None]:
        """Yield the events, and None whenever no event arrived for a while. End when the server shuts down."""
        closing = asyncio.create_task(self._closing.wait())
        events = self._followed(log, after)
        upcoming: asyncio.Task[Event] | None = None
        try:
            while not self._closing.is_set():
                upcoming = upcoming or asyncio.ensure_future(anext(events))
                await asyncio.wait({upcoming, closing}, timeout=self._heartbeat, return_when=asyncio.FIRST_COMPLETED)
                if upcoming.done():
                    done, upcoming = upcoming, None
                    try:
                        yield done.result()
                    except StopAsyncIteration:
                        return
                elif not self._closing.is_set():
                    yield None
        finally:
            for task in (closing, upcoming):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
            await events.aclose()

    async def _followed(self, log: EventLog, after: int) -> AsyncGenerator[Event, None]:
        if not isinstance(log, FileLog):
            async for event in log.follow(after):
                yield event
            return
        # A file has to be polled. One poller serves all followers of the file.
        shared = self._files.get(log.path)
        if shared is None:
            shared = self._files[log.path] = _SharedFile(log)
        shared.followers += 1
        try:
            async for event in shared.follow(await asyncio.to_thread(log.find_position, after) if after else 0):
                yield event
        finally:
            shared.followers -= 1
            if not shared.followers:
                del self._files[log.path]
                await shared.stop()


OpenStreams = NamedDependency[SkipValidation[Streams]]
"""The streams. Litestar passes them to every handler that has a parameter `streams`."""


class _SharedFile:
    """One reader of a file log, which keeps the events it has read for any number of followers."""

    def __init__(self, log: FileLog) -> None:
        self.followers = 0
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        self._ended = False
        self._reader = asyncio.create_task(self._read(log))

    async def _read(self, log: FileLog) -> None:
        try:
            async for event in log.follow():
                self._events.append(event)
                self._wake()
        finally:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int) -> AsyncIterator[Event]:
        """Yield the events with an id above `after`. See `EventLog.follow`."""
        position, turn = 0, self.followers // TOGETHER * TURN_SECONDS
        while True:
            changed, ended = self._changed, self._ended
            while position < len(self._events):
                event = self._events[position]
                position += 1
                if event.id > after:
                    yield event
            if ended:
                return
            await changed.wait()
            if turn:
                await asyncio.sleep(turn)

    async def stop(self) -> None:
        """Stop reading."""
        self._reader.cancel()
        await asyncio.wait({self._reader})


def encode(event: Event) -> bytes:
    """Encode one event for the wire. JSON has no line breaks, so one `data` line holds the event."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.type.encode(), msgspec.json.encode(event.data))


def last_event_id(request: AnyRequest) -> int:
    """Return the id of the last event that the client has, or 0.

    A number that no event can have is beyond the end of every log.

    Raises:
        InvalidInputError: the id is not a number.
    """
    text = request.headers.get("last-event-id") or request.query_params.get("lastEventId") or "0"
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise InvalidInputError("Last-Event-ID: must be the number of an event.", field="Last-Event-ID")
    return int(text) if len(text) <= LONGEST_ID else 10**LONGEST_ID
