"""Serve the API and the pages as one ASGI app on one port.

Requests to `/api` and `/schema` go to Litestar, all others to NiceGUI. One exit stack runs both lifespans. The Host
and Origin of every request and WebSocket are checked before either app receives it. A dispatcher is used because routes
with path parameters break when Litestar mounts NiceGUI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import structlog
from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui

from tmde_core.api.app import create_app as create_api
from tmde_core.api.web.origin import OriginGuard
from tmde_core.services import Services
from tmde_ui.kit.shell import problems, theme
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.shell.site import Site
from tmde_ui.pages import PAGES

log = structlog.get_logger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]

API_PREFIXES = ("/api", "/schema")

RECONNECT_SECONDS = 30.0
"""A page that lost its connection (a sleeping laptop) can reconnect within this time and keep its state."""

CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The browser loads nothing from other servers. NiceGUI compiles templates in the browser: hence `unsafe-eval`."""

HEADERS = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


class Composition:
    """The ASGI app: runs both lifespans and dispatches each request by its path."""

    def __init__(self, api: Any, web: FastAPI, live: ServerStatus, guard: Callable[[Asgi], Asgi]) -> None:
        self._api = api
        self._web = web
        self._live = live
        self._guarded = guard(self._dispatch)

    def shutdown_streams(self) -> None:
        """End all open event streams, so that the server can stop while a client is listening."""
        self._api.shutdown_streams()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Run the lifespan, or check and dispatch one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _dispatch(self, scope: Any, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if any(path == prefix or path.startswith(f"{prefix}/") for prefix in API_PREFIXES):
            await self._api(scope, receive, send)
        else:
            await _until_gone(self._web, scope, receive, _with_headers(send))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        stack = AsyncExitStack()
        try:
            await stack.enter_async_context(self._api.lifespan())
            await stack.enter_async_context(self._web.router.lifespan_context(self._web))
            await stack.enter_async_context(self._live.running())
        except Exception as error:
            await stack.aclose()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


def create_app(services: Services) -> Composition:
    """Create the app with API and pages. Call it once per process, because NiceGUI has one app per process."""
    live = ServerStatus(services)
    api = create_api(services)
    return Composition(api, _create_web(services, live), live, lambda app: OriginGuard(app, services.settings))


def _create_web(services: Services, live: ServerStatus) -> FastAPI:
    web = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    ui.add_head_html(theme.head(), shared=True)
    # Quasar's bar for requests in the background has no name for screen readers, and no page needs it.
    pages.config.quasar_config["loadingBar"] = {"skipHijack": True}
    pages.add_static_files("/assets", theme.ASSETS, max_cache_age=31_536_000)
    site = Site(services, live, web, PAGES)
    for page in PAGES:
        page.register(site)
    problems.register(site)
    ui.run_with(
        web,
        title="TMDE",
        favicon=theme.LOGO,
        language="en-GB",  # of the sentences; screen readers pronounce by it
        dark=False,  # our own variables choose the scheme; Quasar's would conflict
        tailwind=False,
        binding_refresh_interval=None,  # nothing is bound, so no polling ten times a second
        reconnect_timeout=RECONNECT_SECONDS,
        show_welcome_message=False,
    )
    return web


async def _until_gone(web: Asgi, scope: Any, receive: Receive, send: Send) -> None:
    """Run the pages' app and ignore the error that Starlette's middleware raises when the client disconnects early."""
    gone = False

    async def receiving() -> Message:
        nonlocal gone
        message = await receive()
        gone = gone or message["type"] == "http.disconnect"
        return message

    try:
        await web(scope, receiving, send)
    except RuntimeError as error:
        if not gone:
            raise
        log.debug("ui.nobody_to_answer", path=scope["path"], error=str(error))


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
        await send(message)

    return sending
