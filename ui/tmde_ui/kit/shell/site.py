"""What every page receives, and the entries of the navigation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI

from tmde_core.services import Services
from tmde_ui.kit.shell.live import ServerStatus


@dataclass(frozen=True)
class Page:
    """An entry of the navigation, or a tab of an entry."""

    path: str
    title: str
    """The name in the navigation."""
    register: Callable[[Site], None]
    """Registers the page at `path`, the pages below it and the addresses that receive files."""
    tab: str = ""
    """The name of its tab; `title` if empty."""
    under: str = ""
    """Path of the entry that has this page as a tab. Empty for an entry of the navigation."""


@dataclass(frozen=True)
class Site:
    """Stores what the pages are built with."""

    services: Services
    live: ServerStatus
    web: FastAPI
    pages: tuple[Page, ...]
    """In the order of the navigation."""

    def entries(self) -> list[Page]:
        """Return the entries of the navigation."""
        return [page for page in self.pages if not page.under]

    def tabs_of(self, path: str) -> tuple[Page, list[Page]]:
        """Return the entry that has the page at `path` as a tab, and all tabs of the entry."""
        shown = next(page for page in self.pages if page.path == path)
        entry = next(page for page in self.pages if page.path == (shown.under or shown.path))
        return entry, [page for page in self.pages if entry.path in (page.path, page.under)]
