"""`/finetune/versions`: the adapters, the active one, and everything a person can do with them."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlencode

from fastapi import Request
from nicegui import ui

from tmde_core.errors import NotFoundError
from tmde_core.records.lora import LoRAAdapter
from tmde_ui.kit.elements import Tag, button, open_on_press
from tmde_ui.kit.names import remember_names
from tmde_ui.kit.serving import silence
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.shell.tabs import tabs
from tmde_ui.kit.tending import poll, start_task
from tmde_ui.versions.compare.panel import ComparePanel
from tmde_ui.versions.imports import import_dialog, register_upload
from tmde_ui.versions.list import AdapterTable
from tmde_ui.versions.now import NowPanel, read_standing
from tmde_ui.versions.trail import Trail
from tmde_ui.versions.words import ADDRESS, identity

STORAGE_EVERY = 10
"""The disk usage is read at every tenth update."""


def register(site: Site) -> None:
    """Register the page with the app."""
    register_upload(site)

    @page(ADDRESS, site)
    async def versions(request: Request) -> None:
        with frame(site, "Adapter versions", here="/finetune"), Tag("div", classes="stack wide"):
            await VersionsPage(site, await _whole_ids(site, dict(request.query_params))).build()


async def _whole_ids(site: Site, wanted: dict[str, str]) -> dict[str, str]:
    """Return the fields of an address with the whole ids of the adapters whose first digits they give."""
    for name in ("adapter", "a", "b", "ask"):
        with contextlib.suppress(NotFoundError):
            if name in wanted:
                wanted[name] = str(await site.services.ids.adapter(wanted[name]))
    return wanted


class VersionsPage:
    """Builds the parts of the page and keeps them up to date while it is open. The address holds what is opened."""

    def __init__(self, site: Site, wanted: dict[str, str]) -> None:
        self._site = site
        self._services = site.services
        self._live = site.live
        self._wanted = wanted
        self._opened = identity(wanted.get("adapter"))
        self._looks = 0
        self._looking = asyncio.Lock()
        """Updates run every two seconds and after a person's actions. An older one must not overwrite a newer one."""

    async def build(self) -> None:
        """Draw the whole page and start its updates."""
        with Tag("div", classes="stack tight"):
            with Tag("div", classes="line spread"):
                Tag("h1", "Adapter versions")
                self._import = button("Import", test="import", aria_haspopup="dialog")
            tabs(self._site, ADDRESS)
        self._now = NowPanel(self._services, self.changed)
        self._missing = Tag("p", classes="notice warm", role="status", data_testid="missing").show(visible=False)
        self._list = AdapterTable(self._services, self)
        self._compare = ComparePanel(self._services, self._write_address)
        self._trail = Trail(self._services)
        dialog = import_dialog(self._imported, self._list.open)
        open_on_press(self._import, dialog)
        await self._look()
        self._list.show_storage(await self._services.lora.measure_storage())
        if self._opened is not None and not await self._list.open(self._opened):
            self._missing.say(
                f"Adapter {self._opened} no longer exists. The audit trail may show what happened to it."
            ).show()
        a, b = identity(self._wanted.get("a")), identity(self._wanted.get("b"))
        if a is not None and b is not None:
            await self._compare.choose(a, b)
        if (asked := identity(self._wanted.get("ask"))) is not None:
            await self._compare.resume(asked)
        start_task(lambda: poll(self._look_after, "versions"), "look after the versions page")

    # ------------------------------------------------------------------------- what the rows call

    async def changed(self) -> None:
        """See `Surroundings`."""
        self._live.nudge()
        await self._look()
        self._list.show_storage(await self._services.lora.measure_storage())

    def opened(self, adapter: LoRAAdapter | None) -> None:
        """See `Surroundings`."""
        self._opened = adapter.id if adapter else None
        self._missing.show(visible=False)
        self._write_address()

    async def compare(self, adapter: LoRAAdapter) -> None:
        """See `Surroundings`."""
        await self._compare.choose(None, adapter.id)
        self._compare.into_view()

    async def _imported(self, adapter: LoRAAdapter) -> None:
        await self.changed()
        self.opened(adapter)
        await self._list.open(adapter.id)

    # ------------------------------------------------------------------------------------ looking

    async def _look(self) -> None:
        async with self._looking:
            adapters = await self._services.lora.list()
            remember_names(adapters)
            idle = self._live.now.adapter_idle
            self._now.show(await read_standing(self._services), idle)
            adapters = silence(adapters, idle)
            await self._list.show(adapters)
            self._compare.show(adapters)
            await self._trail.show()

    async def _look_after(self) -> None:
        self._looks += 1
        await self._look()
        if self._looks % STORAGE_EVERY == 0:
            self._list.show_storage(await self._services.lora.measure_storage())

    def _write_address(self) -> None:
        compare = self._compare
        pair = (compare.a, compare.b) if compare.compared or compare.ask_id else (None, None)
        wanted = {"adapter": self._opened, "a": pair[0], "b": pair[1], "ask": compare.ask_id}
        given = {name: str(value) for name, value in wanted.items() if value}
        ui.navigate.history.replace(f"{ADDRESS}?{urlencode(given)}" if given else ADDRESS)
