"""Stores numbered events in logs. Any number of readers can follow a log, each from its own position.

There are two kinds of log with one interface for reading. A `MemoryLog` lives as long as the process, for example
while a debate streams. A `FileLog` is a JSON Lines file to which another process appends, for example a training run.
Its ids are line numbers. A reader that reconnects with the last id it saw therefore gets every later event exactly
once, even after a restart of the server.

A reader may also send an id that the log does not have, because the log was shortened or the id is another log's. Such
a reader gets the terminal event of an ended log, and every new event of a log that continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import msgspec

from tmde_core.records.base import Record
from tmde_core.storage.durable import storage_errors

TERMINAL = frozenset({"complete", "error", "cancelled"})
"""Event types after which a log has no more events."""

BLOCK_BYTES = 1024 * 1024
"""The most bytes of a log that a follower holds in memory at once."""
POLL_SECONDS = 0.25
"""The time between two checks of a followed file. No portable call waits for another process's append."""


class Event(Record):
    """One event. `id` counts from 1 without gaps."""

    id: int
    type: str
    data: dict[str, Any]


class EventLog(Protocol):
    """The interface that SSE, the terminal and the pages read."""

    def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield every event with an id above `after`: existing events first, then new ones, up to a terminal event.

        If the log has no event `after`, yield its terminal event, or only new events if it has none yet.
        """


class MemoryLog:
    """An event log in memory. Appending never blocks. Any number of readers can follow one log."""

    def __init__(self, shortened: bool = False) -> None:
        """Create an empty log.

        Args:
            shortened: the log stands for an earlier, longer one, of which only the end is left. Its ids differ, so
                every follower gets all of its events.
        """
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        self._closed = False
        self._shortened = shortened

    def append(self, type_: str, data: dict[str, Any] | None = None) -> Event:
        """Add an event and wake the followers."""
        event = Event(id=len(self._events) + 1, type=type_, data=data or {})
        self._events.append(event)
        if type_ in TERMINAL:
            self._closed = True
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return event

    @property
    def events(self) -> tuple[Event, ...]:
        """All events so far."""
        return tuple(self._events)

    @property
    def closed(self) -> bool:
        """Whether the log has a terminal event."""
        return self._closed

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield events as `EventLog.follow` describes."""
        position = 0 if self._shortened else max(0, after)
        if position > len(self._events):
            position = len(self._events) - int(self._closed)
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self._closed:
                return
            await self._changed.wait()


class EndedLogs:
    """Stores the logs of the last ended items in memory, for readers that connect a little later."""

    def __init__(self, most: int) -> None:
        """Create an empty store that keeps at most `most` logs."""
        self._most = most
        self._logs: dict[UUID, MemoryLog] = {}

    def keep(self, identity: UUID, log: MemoryLog) -> None:
        """Store the log of an item that has ended. Remove the oldest log if there are too many."""
        self.forget(identity)
        self._logs[identity] = log
        while len(self._logs) > self._most:
            del self._logs[next(iter(self._logs))]

    def forget(self, identity: UUID) -> None:
        """Remove a log, because its item continues or was deleted."""
        self._logs.pop(identity, None)

    def get(self, identity: UUID) -> MemoryLog | None:
        """Return a stored log; None if it is not stored."""
        return self._logs.get(identity)


class FileLog:
    """An event log in a file: one JSON object `{"type": …, "data": {…}}` per line."""

    def __init__(self, path: Path, settled: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Create a log for the file `path`.

        The file need not exist yet.

        Args:
            path: the file.
            settled: returns whether the result that the terminal event announces is stored. Followers get the terminal
                event only then, so that every follower finds the stored result.
        """
        self.path = path
        self._settled = settled

    def read(self, after: int = 0) -> list[Event]:
        """Return the complete lines after line `after`. A last line without a newline is still being written."""
        with contextlib.suppress(FileNotFoundError):
            return list(_parse(self.path.read_bytes(), after))
        return []

    def last(self) -> Event | None:
        """Return the last event without reading the whole log. Its id is 0, because its line number is unknown."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - BLOCK_BYTES))
            for line in reversed(file.read().split(b"\n")[:-1]):
                if (event := _event(0, line)) is not None:
                    return event
        return None

    def find_position(self, after: int) -> int:
        """Return the id after which a reader continues that has seen the event `after`; see `EventLog.follow`."""
        if after <= 0:
            return 0
        count = 0
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                count += block.count(b"\n")
        if after <= count:
            return after
        last = self.last()
        return count - 1 if last is not None and last.type in TERMINAL else count

    def append(self, type_: str, data: dict[str, Any] | None = None) -> None:
        """Append one event and sync it to the disk.

        Only one process may write to a log at a time.

        Raises:
            InsufficientStorageError: the disk is full or read-only; readers do not see a half-written event.
        """
        line = msgspec.json.encode({"type": type_, "data": data or {}}) + b"\n"
        with storage_errors(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    # A writer died within a line. The newline ends it, so only that line is unreadable.
                    line = b"\n" + line
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield events as `EventLog.follow` describes.

        Continue if the log continues after a terminal event (a resumed run).
        """
        after = await asyncio.to_thread(self.find_position, after)
        number, offset, rest = 0, 0, b""
        end: Event | None = None
        while True:
            block = self._block(offset)
            offset += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                number += 1
                event = _event(number, line)
                if event is None:
                    continue
                if end is not None and end.id > after:  # the log continues, so this event was not the end
                    yield end
                end = event if event.type in TERMINAL else None
                if end is None and number > after:
                    yield event
            if len(block) == BLOCK_BYTES:
                await asyncio.sleep(0)
                continue
            if end is not None and (self._settled is None or await self._settled()) and not self._block(offset):
                if end.id > after:
                    yield end
                return
            await asyncio.sleep(POLL_SECONDS)

    def _block(self, offset: int) -> bytes:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(offset)
            return file.read(BLOCK_BYTES)
        return b""


def _event(number: int, line: bytes) -> Event | None:
    try:
        raw = msgspec.json.decode(line)
        return Event(id=number, type=str(raw["type"]), data=dict(raw.get("data") or {}))
    except (msgspec.DecodeError, TypeError, KeyError, ValueError, AttributeError):
        return None  # an incomplete line after a crash; it keeps its number, so later ids do not change


def _parse(content: bytes, after: int) -> list[Event]:
    lines = content.split(b"\n")[:-1]
    parsed = (_event(number, line) for number, line in enumerate(lines, 1) if number > after)
    return [event for event in parsed if event is not None]
