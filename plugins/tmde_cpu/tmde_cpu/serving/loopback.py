"""Streams a chat from our own child over a bare loopback connection.

A general HTTP client spends 0.2 to 0.3 ms of processor time on each token that arrives, on a busy machine over a
millisecond. The child computes on every core, so that time is taken from it. This reader, which knows only the one server
that we start ourselves, spends half of it. Events and errors are those of `tmde_core.sdk.chat_http`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from tmde_core.sdk.chat_http import CHAT_PATH, MAX_ERROR_BYTES, MAX_EVENT_BYTES, ChatAnswer, EventParser, response_error
from tmde_core.sdk.errors import RuntimeTimeoutError, WorkerFailedError
from tmde_core.sdk.runtimes import ChatItem

SILENCE_SECONDS = 120.0
"""A server that sends nothing for so long is stuck: it reports progress after every step."""


async def stream_loopback(
    address: str, key: str, body: Mapping[str, Any], *, server: str, model: str
) -> AsyncGenerator[ChatItem, None]:
    """As `tmde_core.sdk.chat_http.stream_chat`, for a llama.cpp server at `http://HOST:PORT`."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), limit=MAX_EVENT_BYTES)
    except OSError:
        raise WorkerFailedError(f"{server[:1].upper()}{server[1:]} cannot be reached.") from None
    try:
        writer.write(_request(host, key, msgspec.json.encode(body)))
        status, headers = await _head(reader)
        if status != 200 or b"chunked" not in headers.get(b"transfer-encoding", b""):
            raise response_error(status, await _body(reader, headers), server)
        answer, events = ChatAnswer(server, model), EventParser(server)
        while block := await _chunk(reader):
            for data in events.feed(block):
                if data == b"[DONE]":
                    yield answer.end()
                    return
                for item in answer.feed(data):
                    yield item
        yield answer.end()
    except TimeoutError:
        raise RuntimeTimeoutError(f"{server[:1].upper()}{server[1:]} did not answer in time.") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError):
        raise WorkerFailedError(f"The connection to {server} broke before the answer was finished.") from None
    finally:
        writer.transport.abort()  # at once: this is how the server learns that nobody listens


def _request(host: str, key: str, body: bytes) -> bytes:
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    async with asyncio.timeout(SILENCE_SECONDS):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    pairs = (line.partition(b":") for line in lines if line)
    return int(first.split()[1]), {name.strip().lower(): value.strip().lower() for name, _, value in pairs}


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """The next chunk of a chunked body; empty at its end."""
    async with asyncio.timeout(SILENCE_SECONDS):
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]


async def _body(reader: asyncio.StreamReader, headers: Mapping[bytes, bytes]) -> bytes:
    length = min(int(headers.get(b"content-length", b"0")), MAX_ERROR_BYTES)
    with contextlib.suppress(EOFError):
        async with asyncio.timeout(SILENCE_SECONDS):
            return await reader.readexactly(length)
    return b""
