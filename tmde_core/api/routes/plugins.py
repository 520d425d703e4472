"""Plugins: what is there, what it provides, what is wrong with it."""

from __future__ import annotations

from litestar import get

from tmde_core.api.web.requests import Given, Listing
from tmde_core.api.web.schema import described
from tmde_core.plugins import PluginInfo


class PluginList(Listing, frozen=True):
    """Every plugin that was found, by name."""

    items: tuple[PluginInfo, ...] = ()


@get("/api/plugins", sync_to_thread=False, **described("listPlugins", "System"))
def listing(services: Given) -> PluginList:
    """Every installed plugin, the broken ones too."""
    found = services.plugins.infos()
    return PluginList(items=tuple(found), total=len(found))


ROUTES = (listing,)
