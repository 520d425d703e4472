"""The tabs of an entry of the navigation that has several pages."""

from __future__ import annotations

from tmde_ui.kit.elements import Tag, link
from tmde_ui.kit.shell.site import Site


def tabs(site: Site, here: str) -> None:
    """Links to all of them, with the one marked that is shown."""
    entry, pages = site.tabs_of(here)
    with Tag("nav", classes="tabs", aria_label=entry.title):
        for page in pages:
            link(page.tab or page.title, page.path, aria_current="page" if page.path == here else None)
