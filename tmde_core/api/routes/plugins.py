"""Routes for plugins: list them with what they provide and with their problems."""

from __future__ import annotations

from litestar import get

from tmde_core.api.web.requests import Given, Listing
from tmde_core.api.web.schema import describe_route
from tmde_core.plugins import PluginInfo


class PluginList(Listing, frozen=True):
    """All plugins that were found, ordered by name."""

    items: tuple[PluginInfo, ...] = ()


@get("/api/plugins", sync_to_thread=False, **describe_route("listPlugins", "System"))
def listing(services: Given) -> PluginList:
    """List every installed plugin, including broken plugins."""
    found = services.plugins.infos()
    return PluginList(items=tuple(found), total=len(found))


ROUTES = (listing,)
