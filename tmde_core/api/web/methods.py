"""Answer HEAD and OPTIONS for every path (RFC 9110, sections 9.3.2 and 9.3.7).

Handlers therefore need not implement these methods.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tmde_core.api.web.origin import App, Message, Receive, Scope, Send

NEVER_OFFERED = "TRACE"
"""A method that no route offers. The router answers a request with this method with 405 and the allowed methods."""


class HeadAndOptions:
    """Answers HEAD like GET without the body, and OPTIONS with the allowed methods of the path."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD and OPTIONS requests, and pass every other request to the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, send)
        elif scope["method"] == "OPTIONS":
            await self._app({**scope, "method": NEVER_OFFERED}, receive, _allowing(send))
        else:
            await self._app(scope, receive, _naming_head(send))

    async def _head(self, scope: Scope, send: Send) -> None:
        """Answer HEAD with the headers of GET.

        An event stream could run for hours, so the app receives a disconnect after the headers are sent.
        """
        answered = asyncio.Event()
        heard = False

        async def hearing() -> Message:
            nonlocal heard
            if not heard:
                heard = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await answered.wait()
            return {"type": "http.disconnect"}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not answered.is_set():
                answered.set()
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"}, hearing, _naming_head(sending))


def _allowing(send: Send) -> Send:
    """Turn a 405 into a 204 that names the allowed methods, and leave other responses, such as a 404, unchanged."""
    named = False

    async def sending(message: Any) -> None:
        nonlocal named
        if message["type"] == "http.response.start" and message["status"] == 405:
            named = True
            kept = [pair for pair in message["headers"] if bytes(pair[0]).lower() == b"allow"]
            await send({**message, "status": 204, "headers": kept})
        else:
            await send({**message, "body": b""} if named else message)

    return _naming_head(sending)


def _naming_head(send: Send) -> Send:
    """Add HEAD to a response's Allow header wherever it names GET."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [
                (name, _with_head(value) if bytes(name).lower() == b"allow" else value)
                for name, value in message.get("headers", ())
            ]
            message = {**message, "headers": headers}
        await send(message)

    return sending


def _with_head(allow: bytes) -> bytes:
    methods = {method.strip() for method in bytes(allow).split(b",")}
    return b", ".join(sorted(methods | {b"HEAD"} if b"GET" in methods else methods))
