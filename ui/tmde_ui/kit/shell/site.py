"""What every page is given, and what the navigation knows of a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI

from tmde_core.services import Services
from tmde_ui.kit.shell.live import Live


@dataclass(frozen=True)
class Page:
    """An entry of the navigation, or a tab of one."""

    path: str
    title: str
    """Its name in the navigation."""
    register: Callable[[Site], None]
    """Puts its addresses into the app: the page at `path`, pages of single things below it, addresses that take files."""
    tab: str = ""
    """Its name among the tabs of its entry; the title when left out."""
    under: str = ""
    """Path of the entry whose tab it is. Empty: it is an entry of the navigation itself."""


@dataclass(frozen=True)
class Site:
    """What the pages are built with."""

    services: Services
    live: Live
    web: FastAPI
    pages: tuple[Page, ...]
    """In the order of the navigation."""

    def entries(self) -> list[Page]:
        """The entries of the navigation."""
        return [page for page in self.pages if not page.under]

    def tabs_of(self, path: str) -> tuple[Page, list[Page]]:
        """The entry that has the page at `path` as a tab, and all of its tabs."""
        shown = next(page for page in self.pages if page.path == path)
        entry = next(page for page in self.pages if page.path == (shown.under or shown.path))
        return entry, [page for page in self.pages if entry.path in (page.path, page.under)]
