"""The tabs of a navigation entry with several pages."""

from __future__ import annotations

from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.shell.site import Site


def tabs(site: Site, here: str) -> None:
    """Draw links to all tabs and mark the current one."""
    entry, pages = site.tabs_of(here)
    with Tag("nav", classes="tabs", aria_label=entry.title):
        for page in pages:
            link(page.tab or page.title, page.path, aria_current="page" if page.path == here else None)
