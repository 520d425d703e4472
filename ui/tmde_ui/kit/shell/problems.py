"""The error pages for unknown addresses, unknown ids and defects: one sentence in the frame, no traceback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import structlog
from fastapi import Request
from nicegui import Client, app, ui
from nicegui.page import page as nicegui_page
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from tmde_core.errors import TmdeError
from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.words import sentence

log = structlog.get_logger(__name__)

P = ParamSpec("P")

BUILD_SECONDS = 30.0
"""Time limit for building a page. NiceGUI's default of 3 s is too short for a machine that is training."""


class IdConvertor(StringConvertor):
    """Matches an id or its first digits in an address, and no word such as `versions`."""

    regex = "[0-9A-Fa-f-]{4,36}"


register_url_convertor("id", IdConvertor())


def page(path: str, site: Site) -> Callable[[Callable[P, Awaitable[None]]], Callable[P, Awaitable[None]]]:
    """Register a page like `ui.page`. A `TmdeError` becomes an error page with the error's status."""

    def decorate(build: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
        @wraps(build)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                await build(*args, **kwargs)
            except TmdeError as error:
                client = ui.context.client
                client.content.clear()
                client.status_code = error.status
                with client:
                    _problem(site, "Not found" if error.status == 404 else error.title, error.detail)

        ui.page(path, response_timeout=BUILD_SECONDS)(guarded)
        return guarded

    return decorate


def register(site: Site) -> None:
    """Register the handlers with the app."""

    @app.exception_handler(404)
    async def unknown_address(request: Request, _error: Exception) -> Response:
        with Client(nicegui_page(""), request=request) as client:
            _problem(site, "Page not found", f"There is no page at {request.url.path[:120]}.")
        return client.build_response(request, 404)

    @app.on_page_exception
    def failed_page(error: Exception) -> None:
        log.error("ui.page_failed", error=f"{type(error).__name__}: {error}")
        _problem(site, "This page could not be loaded", sentence(error))


def _problem(site: Site, title: str, detail: str) -> None:
    with frame(site, title), Tag("section", classes="empty", data_testid="problem"):
        Tag("h1", title)
        Tag("p", detail)
        with Tag("div", classes="line"):
            link("Ask a question", "/", "button primary")
            link("Browse the traces", "/traces", "button")
