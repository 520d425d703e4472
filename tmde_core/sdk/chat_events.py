"""Splits the byte stream of a server into the data of its server-sent events."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator

import msgspec

from tmde_core.errors import WorkerFailedError
from tmde_core.sdk.chat_errors import is_error
from tmde_core.sdk.lenient_json import read_lenient

__all__ = ["MAX_EVENT_BYTES", "EventParser"]

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The most bytes of one event. A token with 20 alternatives takes 3 kB. A longer event ends the answer with an
error."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventParser:
    """Splits a byte stream into the `data` of its server-sent events. Comments and other fields are dropped.

    The parser works on bytes, so a character that arrives in two blocks is decoded only when it is complete. Lines end
    with LF, CR or CRLF. An event that is named `error`, the field `error` of older llama.cpp servers, and a bare JSON
    object between the events become events of their own.

    The package `httpx-sse` is not used for two reasons. It reads only httpx responses, and the embedded model's
    connection is not one. It also keeps an endless event in memory, loses the first event after a byte order mark, and
    loses a last event without a blank line.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._rest = bytearray()
        self._searched = 0
        self._begun = False
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0
        self._name = b""

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the events that `block` completes."""
        if self._after_cr and block:
            block, self._after_cr = block.removeprefix(b"\n"), False
        self._rest += block
        start = 0
        while found := _LINE_END.search(self._rest, max(start, self._searched)):
            line = bytes(self._rest[start : found.start()])
            start, self._searched = found.end(), 0
            # The LF of this CR may be in the next block.
            self._after_cr = start == len(self._rest) and self._rest.endswith(b"\r")
            if (data := self._line(line)) is not None:
                yield data
        del self._rest[:start]
        self._searched = len(self._rest)
        self._bound(len(self._rest))

    def close(self) -> Iterator[bytes]:
        """Yield the event that the end of the stream completes, because some servers omit the last blank line."""
        if self._rest:
            last, self._rest = bytes(self._rest), bytearray()
            self._line(last)
        if (data := self._event()) is not None:
            yield data

    def _line(self, line: bytes) -> bytes | None:
        if not self._begun:
            line, self._begun = line.removeprefix(BOM_UTF8), True
        if not line:
            return self._event()
        if line.startswith(b"{"):
            self._add(line)
            return None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field.strip().lower():
            case b"data":
                self._add(value)
            case b"event":
                self._name = value.strip()
            case b"error":
                self._name = b"error"
                self._add(value)
        return None

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1  # count the line end too, so that empty lines also reach the limit
        self._bound(self._size)

    def _event(self) -> bytes | None:
        name, self._name = self._name, b""
        data, self._data, self._size = self._data, [], 0
        if not data:
            return None
        joined = b"\n".join(data)
        return _as_error(joined) if name == b"error" and b'"choices"' not in joined else joined

    def _bound(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise WorkerFailedError(
                f"{_start(self._server)} sent an event of over {MAX_EVENT_BYTES} bytes; the answer was cut off."
            )


def _as_error(data: bytes) -> bytes:
    """Return the data of an event called `error` as a chunk that reports the error."""
    try:
        error = read_lenient(data)
    except ValueError:
        error = data.decode("utf-8", "replace")
    return msgspec.json.encode({"error": error if is_error(error) else None})


def _start(server: str) -> str:
    return server[:1].upper() + server[1:]
