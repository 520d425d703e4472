"""Event logs: numbered events that any number of readers follow, each from where it left off.

Two kinds with one reading interface. `MemoryLog` lives as long as the process (a debate that streams). `FileLog` is a
JSON Lines file that another process appends to (a training run); its ids are line numbers, so a reader that
reconnects with the last id it saw gets every later event once, even after a restart of the server.
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
"""A follower has no more of a log in its memory at once, however long that is."""
POLL_SECONDS = 0.25
"""How often a followed file is looked at. There is no portable way to wait for another process's append."""


class Event(Record):
    """One event. `id` counts from 1 without gaps."""

    id: int
    type: str
    data: dict[str, Any]


class EventLog(Protocol):
    """What SSE, the terminal and the pages read."""

    def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Every event with an id above `after`: those there are, then new ones as they come, until a terminal one."""


class MemoryLog:
    """An event log in memory. Appending never waits; one log serves any number of followers."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._changed = asyncio.Event()
        self._closed = False

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
        """Whether the terminal event has come."""
        return self._closed

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """See `EventLog.follow`."""
        position = min(max(0, after), len(self._events))
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self._closed:
                return
            await self._changed.wait()


class EndedLogs:
    """The logs of what ended last, kept in memory for readers that come a little later."""

    def __init__(self, most: int) -> None:
        """Keep the logs of the last `most` things."""
        self._most = most
        self._logs: dict[UUID, MemoryLog] = {}

    def keep(self, identity: UUID, log: MemoryLog) -> None:
        """Keep the log of something that ends now; the oldest goes when there are too many."""
        self.forget(identity)
        self._logs[identity] = log
        while len(self._logs) > self._most:
            del self._logs[next(iter(self._logs))]

    def forget(self, identity: UUID) -> None:
        """Let go of a log: what it tells of goes on, or was deleted."""
        self._logs.pop(identity, None)

    def get(self, identity: UUID) -> MemoryLog | None:
        """Return a kept log; None if there is none, or no longer."""
        return self._logs.get(identity)


class FileLog:
    """An event log in a file: one JSON object `{"type": …, "data": {…}}` a line."""

    def __init__(self, path: Path, settled: Callable[[], Awaitable[bool]] | None = None) -> None:
        """A log in the file `path`, which need not be there yet.

        Args:
            settled: whether what the terminal event tells is on record. Followers are told of the end only then: whoever hears of it
                finds the record.
        """
        self.path = path
        self._settled = settled

    def read(self, after: int = 0) -> list[Event]:
        """The complete lines after line `after`. A last line without its newline is still being written."""
        with contextlib.suppress(FileNotFoundError):
            return list(_parse(self.path.read_bytes(), after))
        return []

    def last(self) -> Event | None:
        """The last event of a log that may be very long; its id is not known."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - BLOCK_BYTES))
            for line in reversed(file.read().split(b"\n")[:-1]):
                if (event := _event(0, line)) is not None:
                    return event
        return None

    def append(self, type_: str, data: dict[str, Any] | None = None) -> None:
        """Append one event and bring it to the disk. One process at a time writes to a log.

        Raises:
            InsufficientStorageError: the disk is full or read-only; readers do not see a half-written event.
        """
        line = msgspec.json.encode({"type": type_, "data": data or {}}) + b"\n"
        with storage_errors(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    # A writer died within a line. Ended here it stays one unreadable line and spoils no other.
                    line = b"\n" + line
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """See `EventLog.follow`. A log that goes on after a terminal event (a resumed run) is followed on."""
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
                if end is not None and end.id > after:  # the log goes on, so it was not the end
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
        return None  # a torn line after a crash; its number stays taken, so later ids do not move


def _parse(content: bytes, after: int) -> list[Event]:
    lines = content.split(b"\n")[:-1]
    parsed = (_event(number, line) for number, line in enumerate(lines, 1) if number > after)
    return [event for event in parsed if event is not None]
