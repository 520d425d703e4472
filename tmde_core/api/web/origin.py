"""Check the Host and Origin of every request: pure ASGI middleware for HTTP and WebSocket.

A page on another site can make a browser send requests to this server. An attacker can point a domain at 127.0.0.1, so
that such requests look local ("DNS rebinding"). Therefore the Host header, and the Origin header if there is one, must
name an allowed host.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from tmde_core.api.web.problems import MEDIA_TYPE, problem
from tmde_core.errors import ForbiddenError, InvalidInputError, TmdeError
from tmde_core.settings import Settings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY_VIOLATION = 1008
"""WebSocket close code, RFC 6455 section 7.4.1."""

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
)
"""Security headers. No answer of the API may load anything or be framed; the schema page contains its own styles."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?", re.ASCII)


def host_name(host: str) -> str | None:
    """Return the lower-case host name in a Host or Origin header, without the port; None if there is no host name."""
    found = _HOST.fullmatch(host.strip().lower())
    return found["name"].removesuffix(".") if found else None


class OriginGuard:
    """Lets a request pass if its Host, and its Origin if present, are loopback or named in the settings.

    The port does not matter.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        named = (_bracketed(name) for name in (settings.host, *settings.allowed_hosts))
        self._allowed = {*LOOPBACK, *(name for name in map(host_name, named) if name)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request to the app; refuse every other HTTP request and close every other WebSocket."""
        refusal = self._refusal(scope) if scope["type"] in {"http", "websocket"} else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": ""})
        else:
            await _answer(send, refusal)

    def _refusal(self, scope: Scope) -> TmdeError | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if len(hosts) != 1 or not hosts[0].strip():
            return InvalidInputError("The request must name exactly one Host.", field="Host")
        if host_name(hosts[0]) not in self._allowed:
            return ForbiddenError(
                f"TMDE does not answer to the host {hosts[0][:100]!r}. Add it to allowed_hosts in the settings if it is yours.",
                host=hosts[0][:100],
            )
        for origin in origins:
            if not self._may(origin):
                return ForbiddenError(
                    f"Pages of {origin[:100]!r} may not use TMDE. Add the host to allowed_hosts in the settings if it is yours.",
                    origin=origin[:100],
                )
        return None

    def _may(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in {"http", "https"} and host_name(parts.netloc) in self._allowed


def _bracketed(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


async def _answer(send: Send, error: TmdeError) -> None:
    body = problem(error.code, error.status, error.title, error.detail, error.context)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), *HEADERS]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def with_security_headers(send: Send) -> Send:
    """Add to each response the security headers that the response does not set."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {bytes(name).lower() for name, _ in headers}
            message = {**message, "headers": [*headers, *(pair for pair in HEADERS if pair[0] not in present)]}
        await send(message)

    return sending
