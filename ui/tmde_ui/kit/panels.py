"""Tabs within a page: several panels, of which one is visible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tmde_ui.kit.elements import Tag


class Panels:
    """A row of tabs and a panel for each, with the keyboard of the ARIA pattern: arrow keys, Home and End.

    Args:
        label: what the tabs are about, for screen readers.
        chosen: called with the key of a tab that a person chooses.
    """

    def __init__(self, label: str, chosen: Callable[[str], None] | None = None) -> None:
        self._chosen = chosen
        self._tabs: dict[str, tuple[Tag, Tag]] = {}
        with Tag("div", classes="stack"):
            self._row = Tag("div", classes="tabs", role="tablist", aria_label=label)
            self._body = Tag("div")
        self._row.on("keydown", js_handler="(event) => tmde.moveToTab(event)")

    @contextmanager
    def panel(self, key: str, title: str) -> Iterator[Tag]:
        """Add a panel and draw into it. The first panel is visible until another is selected."""
        first = not self._tabs
        with self._row:
            tab = Tag("button", title, "tab", type="button", role="tab", id=f"tab-{key}", aria_controls=f"panel-{key}",
                      aria_selected="true" if first else "false", tabindex="0" if first else "-1", data_testid=f"tab-{key}")  # fmt: skip
        with self._body:
            body = Tag(
                "div", classes="stack", role="tabpanel", id=f"panel-{key}", aria_labelledby=f"tab-{key}", tabindex="0"
            ).show(first)
        self._tabs[key] = (tab, body)
        tab.on("click", lambda: self._press(key), args=[])
        with body:
            yield body

    def rename(self, key: str, title: str) -> None:
        """Change a tab's title, such as the count in it."""
        self._tabs[key][0].say(title)

    def select(self, key: str) -> None:
        """Show the panel with this key. Ignore unknown keys."""
        if key not in self._tabs:
            return
        for name, (tab, body) in self._tabs.items():
            tab.put(aria_selected="true" if name == key else "false", tabindex="0" if name == key else "-1")
            body.show(name == key)

    def _press(self, key: str) -> None:
        self.select(key)
        if self._chosen is not None:
            self._chosen(key)
