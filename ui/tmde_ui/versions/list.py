"""The list of adapters, newest first, one page at a time. Rows keep their place and their open details on updates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from tmde_core.records.lora import LoRAAdapter, StorageFigures
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, link
from tmde_ui.kit.words import count, format_bytes
from tmde_ui.versions.details import Surroundings
from tmde_ui.versions.row import AdapterRow

PER_PAGE = 20


class AdapterTable:
    """Shows the given adapters. Creates or deletes a row only for a new or deleted adapter."""

    def __init__(self, services: Services, around: Surroundings) -> None:
        self._services = services
        self._around = around
        self._all: Sequence[LoRAAdapter] = ()
        self._first = 0
        self._drawing = asyncio.Lock()
        self._rows: dict[UUID, AdapterRow] = {}
        with Tag("section", classes="stack tight", aria_label="Adapters"):
            with Tag("div", classes="line spread"):
                Tag("h2", "Adapters")
                self._storage = Tag("p", classes="muted small tabular", data_testid="storage")
            self._empty = Tag("div", classes="maybe")
            self._list = Tag("ul", classes="rows versions", data_testid="adapter-list")
            self._pager = Tag("nav", classes="pager", aria_label="Pages of adapters")
            with self._pager:
                self._newer = button("Newer", test="newer").on("click", lambda: self._turn(-PER_PAGE), args=[])
                self._range = Tag("span", classes="muted small tabular", data_testid="range")
                self._older = button("Older", test="older").on("click", lambda: self._turn(PER_PAGE), args=[])

    async def show(self, adapters: Sequence[LoRAAdapter]) -> None:
        """Update the list."""
        self._all = adapters
        async with self._drawing:
            await self._draw(self._all)

    async def _draw(self, adapters: Sequence[LoRAAdapter]) -> None:
        while self._first and self._first >= len(adapters):
            self._first -= PER_PAGE
        page = adapters[self._first : self._first + PER_PAGE]
        wanted = {adapter.id: adapter for adapter in page}
        for gone in [identity for identity in self._rows if identity not in wanted]:
            self._rows.pop(gone).element.delete()
        for place, adapter in enumerate(page):
            row = self._rows.get(adapter.id)
            if row is None:
                with self._list:
                    row = self._rows[adapter.id] = AdapterRow(self._services, self._around, adapter)
            if self._list.default_slot.children[place] is not row.element:
                row.element.move(target_index=place)
            await row.show(adapter)
        self._list.show(bool(adapters))
        self._show_empty(bool(adapters))
        last = self._first + len(page)
        self._range.say(f"{self._first + 1:,}–{last:,} of {len(adapters):,}")
        self._newer.put(disabled=not self._first)
        self._older.put(disabled=last >= len(adapters))
        self._pager.show(len(adapters) > PER_PAGE)

    def show_storage(self, figures: StorageFigures) -> None:
        """Show the disk space that the adapters use."""
        invalid = f", {figures.invalid:,} of them invalid" if figures.invalid else ""
        words = f"{count(figures.adapters, 'adapter')}{invalid} · {format_bytes(figures.bytes)} on the disk · {format_bytes(figures.free_bytes)} free"
        self._storage.say(words)

    async def open(self, adapter_id: UUID) -> bool:
        """Show an adapter's page of the list, open the adapter and scroll to it; return False for an unknown id."""
        place = next((index for index, one in enumerate(self._all) if one.id == adapter_id), None)
        if place is None:
            return False
        self._first = place - place % PER_PAGE
        await self.show(self._all)
        row = self._rows[adapter_id]
        await row.open()
        row.element.bring_into_view()
        return True

    def _show_empty(self, filled: bool) -> None:
        if filled:
            self._empty.clear()
            return
        if self._empty.default_slot.children:
            return
        with self._empty, Tag("div", classes="card empty", data_testid="no-adapters"):
            Tag("h3", "No adapter yet")
            Tag(
                "p",
                "An adapter is the result of a training run: a small addition to the model that makes it answer like your best "
                "debates. Train an adapter, or import one that was exported elsewhere.",
            )
            link("Go to the training", "/finetune", "button primary")

    async def _turn(self, by: int) -> None:
        self._first = max(0, self._first + by)
        await self.show(self._all)
        self._list.bring_into_view("start")
