"""Stream a chat from TMDE's own child process over a plain loopback connection.

A general HTTP client uses 0.2 to 0.3 ms of processor time for each token, and over a millisecond on a busy machine. The
child computes on every core, so this time slows the child down. This reader supports only the server that TMDE itself
starts, and uses half of that time. Its events and errors are those of `tmde_core.sdk.chat_http`.
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

COMPLETION_PATH = "/v1/completions"
"""The path that continues a prompt of token ids."""

SILENCE_SECONDS = 120.0
"""The longest silence. The server reports progress after every step, so a silent server is stuck."""


async def stream_loopback(
    address: str, key: str, body: Mapping[str, Any], *, server: str, model: str
) -> AsyncGenerator[ChatItem, None]:
    """Stream like `tmde_core.sdk.chat_http.stream_chat`, from a llama.cpp server at `http://HOST:PORT`.

    A body with a `prompt` of token ids is sent to the completion endpoint, one with `messages` to the chat endpoint.
    """
    path = COMPLETION_PATH if "prompt" in body else CHAT_PATH
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), limit=MAX_EVENT_BYTES)
    except OSError:
        raise WorkerFailedError(f"{server[:1].upper()}{server[1:]} cannot be reached.") from None
    try:
        writer.write(_request(path, host, key, msgspec.json.encode(body)))
        status, headers = await _head(reader)
        if status != 200 or b"chunked" not in headers.get(b"transfer-encoding", b""):
            raise response_error(status, await _body(reader, headers), server)
        answer, events = ChatAnswer(server, model), EventParser(server)
        while block := await _chunk(reader):
            for data in events.feed(block):
                if data == b"[DONE]":
                    yield answer.end()
                    return
                for item in answer.feed(data if path == CHAT_PATH else _as_chat(data)):
                    yield item
        yield answer.end()
    except TimeoutError:
        raise RuntimeTimeoutError(f"{server[:1].upper()}{server[1:]} did not answer in time.") from None
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError):
        raise WorkerFailedError(f"The connection to {server} broke before the answer was finished.") from None
    finally:
        writer.transport.abort()  # closed at once, because this tells the server that nobody listens


def _as_chat(data: bytes) -> bytes:
    """Return an event of the completion endpoint in the form of the chat endpoint."""
    event = msgspec.json.decode(data)
    for choice in event.get("choices") or ():
        choice["delta"] = {"content": choice.pop("text", "")}
    return msgspec.json.encode(event)


def _request(path: str, host: str, key: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    async with asyncio.timeout(SILENCE_SECONDS):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    pairs = (line.partition(b":") for line in lines if line)
    return int(first.split()[1]), {name.strip().lower(): value.strip().lower() for name, _, value in pairs}


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """Return the next chunk of a chunked body, or empty bytes at its end."""
    async with asyncio.timeout(SILENCE_SECONDS):
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]


async def _body(reader: asyncio.StreamReader, headers: Mapping[bytes, bytes]) -> bytes:
    length = min(int(headers.get(b"content-length", b"0")), MAX_ERROR_BYTES)
    with contextlib.suppress(EOFError):
        async with asyncio.timeout(SILENCE_SECONDS):
            return await reader.readexactly(length)
    return b""
