"""The base of the fake servers: requests are recorded, answers are sent piece by piece or broken off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn

__all__ = ["WORDS", "Call", "FakeServer", "Reply", "finish_word", "serving"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WORDS = ("The", " answer", " is", " four", ".")
"""The answer of every fake model, one word for each token."""


class Call(msgspec.Struct):
    """One request that a fake server received."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


class FakeServer:
    """The base of the fake servers. It records requests, sends JSON or streams, and detects clients that disconnect."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.hung_up = asyncio.Event()
        """Set when a client closes the connection before its answer is finished."""
        self.hold: asyncio.Event | None = None
        """If this event exists and is not set, streams wait after their first word."""

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies of all requests to `path`."""
        return [call.body for call in self.calls if call.path == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            return
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        call = Call(scope["method"], scope["path"], msgspec.json.decode(content) if content else None, headers)
        self.calls.append(call)
        answering = asyncio.ensure_future(self.answer(call, Reply(send)))
        leaving = asyncio.ensure_future(_gone(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            self.hung_up.set()
        for task in (answering, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionAbortedError):
                await task

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request."""
        raise NotImplementedError

    async def words(self, limit: int) -> AsyncIterator[str]:
        """Yield the first `limit` canned words. After the first word, wait for `hold` if there is one."""
        for number, word in enumerate(WORDS[:limit]):
            yield word
            if number == 0 and self.hold is not None:
                await self.hold.wait()


class Reply:
    """Sends one answer."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send a whole JSON answer."""
        await self.start(status, "application/json", headers)
        await self.write(msgspec.json.encode(value), last=True)

    async def start(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        """Send the status and headers of an answer."""
        pairs = [(b"content-type", kind.encode()), *((k.encode(), v.encode()) for k, v in (headers or {}).items())]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, content: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": content, "more_body": not last})

    async def break_off(self, *, reset: bool = False) -> None:
        """Break the connection. With `reset`, the client gets a reset instead of an orderly end."""
        # ASGI has no way to break a connection, so this reaches for the transport of uvicorn.
        transport = self._send.__self__.transport  # type: ignore[attr-defined]
        if reset and (peer := transport.get_extra_info("socket")) is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def end_early(self) -> None:
        """Send what is written, and close the connection although the answer is not whole."""
        self._send.__self__.transport.close()  # type: ignore[attr-defined]

    async def event(self, value: Any) -> None:
        """Send a server-sent event."""
        await self.write(b"data: " + (value if isinstance(value, bytes) else msgspec.json.encode(value)) + b"\n\n")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def serving(app: FakeServer) -> AsyncIterator[str]:
    """Serve the app on a free loopback port and yield the base URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    server = _Quiet(config)
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await server.listening.wait()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listening.close()


class _Quiet(uvicorn.Server):
    """A uvicorn server that reports when it listens and does not touch the process's signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server and set `listening`."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave the signals of the process alone."""
        yield


def finish_word(count: int, limit: int, whole: int = len(WORDS)) -> str:
    """Return the reason for the end of an answer of `count` tokens, where the whole answer has `whole` tokens."""
    return "length" if count == limit and count < whole else "stop"
