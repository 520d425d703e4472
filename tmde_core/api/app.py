"""Assemble the HTTP API from its routes, error handlers, event streams and guards."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from tmde_core.api.routes import benchmark, debates, models, notifications, plugins, system, templates, traces
from tmde_core.api.routes.adapters import archive as lora_archive
from tmde_core.api.routes.adapters import lora
from tmde_core.api.routes.training import backends, finetune, schedule
from tmde_core.api.routes.training import preview as finetune_preview
from tmde_core.api.web.methods import HeadAndOptions
from tmde_core.api.web.origin import OriginGuard, with_security_headers
from tmde_core.api.web.problems import HANDLERS
from tmde_core.api.web.requests import JSON_BODY_BYTES
from tmde_core.api.web.schema import routes_for
from tmde_core.api.web.streams import Streams
from tmde_core.services import Services

DOMAINS = (
    debates,
    traces,
    finetune,
    finetune_preview,
    backends,
    schedule,
    lora,
    lora_archive,
    benchmark,
    templates,
    plugins,
    models,
    notifications,
    system,
)
ROUTES: tuple[ControllerRouterHandler, ...] = tuple(route for domain in DOMAINS for route in domain.ROUTES)


class Api(Litestar):
    """The API as an ASGI app. `OriginGuard` checks the Host and Origin of every request first."""

    def __init__(self, services: Services, streams: Streams) -> None:
        super().__init__(
            route_handlers=[*ROUTES, *routes_for(ROUTES)],
            dependencies={
                "services": Provide(lambda: services, sync_to_thread=False),
                "streams": Provide(lambda: streams, sync_to_thread=False),
            },
            exception_handlers=HANDLERS,
            request_max_body_size=JSON_BODY_BYTES,
            on_shutdown=[streams.shutdown],
            openapi_config=None,
            # The program configures logging. Litestar's own configuration would print uvicorn's messages to the
            # terminal.
            logging_config=None,
            state=State({"shutdown_streams": streams.shutdown}),
        )
        self._guarded = OriginGuard(HeadAndOptions(super().__call__), services.settings)

    def shutdown_streams(self) -> None:
        """End all open event streams, so that the server can stop while clients are still connected."""
        self.state.shutdown_streams()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one connection."""
        if scope["type"] == "http":
            send = with_security_headers(send)
        await self._guarded(scope, receive, send)


def create_app(services: Services) -> Api:
    """Return the API for these services."""
    return Api(services, Streams())
