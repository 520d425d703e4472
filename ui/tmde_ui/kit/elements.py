"""Plain HTML elements for the pages: native controls, styled by `assets/tmde.css`.

Native buttons, inputs, selects and dialogs have keyboard and screen-reader support built in, send nothing to the server
while a person types, and do not look like any framework.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from inspect import isawaitable
from typing import Any, Self

import structlog
from nicegui import Client, ui
from nicegui.elements.mixins.text_element import TextElement

log = structlog.get_logger(__name__)


class PageClosedError(Exception):
    """Raised when code draws on a page that is already closed."""


class Tag(TextElement):
    """An HTML element with text or children. `_` in attribute names becomes `-`. False and None omit an attribute."""

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: Any) -> None:
        _still_open(ui.context.client)
        super().__init__(tag=tag, text=text)
        if classes:
            self.classes(classes)
        self.put(**attributes)

    def put(self, **attributes: Any) -> Self:
        """Set attributes. Nothing is sent if nothing changes."""
        changed = False
        for name, value in attributes.items():
            key = name.rstrip("_").replace("_", "-")
            if value is None or value is False:
                changed |= self._props.pop(key, None) is not None
            elif self._props.get(key) != value:
                self._props[key] = "" if value is True else value
                changed = True
        if changed:
            self.update()
        return self

    def say(self, text: str) -> Self:
        """Set the text. Nothing is sent if the text is the same."""
        if self.text != text:
            self.text = text
        return self

    def show(self, visible: bool = True) -> Self:
        """Show or hide the element (`hidden` also hides it from screen readers)."""
        return self.put(hidden=not visible)

    def bring_into_view(self, block: str = "nearest") -> None:
        """Scroll the page to the element.

        Args:
            block: its vertical position afterwards: nearest, start, center.
        """
        self.run_method("scrollIntoView", {"block": block})

    def clear(self) -> Self:
        """Remove all children."""
        _still_open(self.client)
        return super().clear()

    def on(self, type: str, handler: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Self:  # noqa: A002  # the overridden method calls it that
        """Listen to an event. The page may be closed before the handler ends: see `outliving`."""
        return super().on(type, run_to_completion(handler) if handler else None, *args, **options)


def run_to_completion(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an event handler so that its work is completed even if the page is closed meanwhile.

    After that, the result is not drawn and an error is only logged.
    """

    @wraps(handler)
    def handle(*args: Any) -> Any:
        result = handler(*args)
        return _outlive(ui.context.client, result) if isawaitable(result) else result

    return handle


def _still_open(client: Client) -> None:
    if client.is_deleted:
        raise PageClosedError("The page was closed.")


async def _outlive(client: Client, work: Awaitable[Any]) -> None:
    try:
        await work
    except Exception as error:
        if not client.is_deleted:
            raise
        log.debug("ui.page_was_closed", error=f"{type(error).__name__}: {error}")


def button(text: str, kind: str = "", *, test: str | None = None, **attributes: Any) -> Tag:
    """Return a button; `kind` is primary, danger, quiet or empty."""
    return Tag(
        "button", text, f"button {kind}".strip(), type=attributes.pop("type_", "button"), data_testid=test, **attributes
    )


def chip(text: str, kind: str = "", **attributes: Any) -> Tag:
    """Return a short label with a coloured background."""
    return Tag("span", text, f"chip {kind}".strip(), **attributes)


def link(text: str, href: str, classes: str = "", **attributes: Any) -> Tag:
    """Return a link within the pages."""
    return Tag("a", text, classes, href=href, **attributes)


def field(label: str, name: str, **attributes: Any) -> Tag:
    """Draw a labelled input; return the input."""
    with Tag("div", classes="field"):
        Tag("label", label, for_=f"field-{name}")
        return Tag("input", classes="input", id=f"field-{name}", name=name, **attributes)


def choice(label: str, name: str, options: Sequence[tuple[str, str]], value: str = "", **attributes: Any) -> Tag:
    """Draw a labelled select of (value, text); return the select."""
    with Tag("div", classes="field"):
        Tag("label", label, for_=f"field-{name}")
        with Tag("select", classes="input", id=f"field-{name}", name=name, **attributes) as select:
            for option, text in options:
                Tag("option", text, value=option, selected=option == value)
    return select


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Draw a list of names and values. Empty values are left out."""
    with Tag("dl", classes="facts"):
        for name, value in pairs:
            if value:
                Tag("dt", name)
                Tag("dd", value)


class Modal(Tag):
    """A native dialog: Escape closes it, focus stays inside, the page behind is inert."""

    def __init__(self, title: str, *, test: str | None = None, classes: str = "") -> None:
        super().__init__("dialog", classes=classes, data_testid=test, aria_label=title)
        with self, Tag("div", classes="stack"):
            with Tag("div", classes="line spread"):
                self.heading = Tag("h2", title)
                close_button(self)
            self.body = Tag("div", classes="stack")

    def open(self) -> None:
        """Show the dialog above the page."""
        self.run_method("showModal")

    def close(self) -> None:
        """Close the dialog. Do nothing if a person has closed it, because some dialogs are then deleted."""
        if not self.is_deleted:
            self.run_method("close")


def close_button(dialog: Tag) -> None:
    """Draw the cross that closes a dialog without a round trip to the server."""
    with Tag("button", classes="icon-button", type="button", aria_label="Close") as cross:
        icon("close")
    close_on_press(cross, dialog)


def open_on_press(control: Tag, dialog: Tag) -> None:
    """Make a button open a dialog without a round trip to the server."""
    control.put(aria_haspopup="dialog")
    control.on("click", js_handler=f"() => getHtmlElement({dialog.id}).showModal()")


def close_on_press(control: Tag, dialog: Tag) -> None:
    """Make a button close a dialog without a round trip to the server. The dialog may already be deleted."""
    control.on("click", js_handler=f"() => getHtmlElement({dialog.id})?.close()")


_PATHS = {
    "bell": '<path d="M6 9a6 6 0 0 1 12 0c0 6 2.5 7 2.5 7h-17S6 15 6 9M10 20a2.2 2.2 0 0 0 4 0"/>',
    "close": '<path d="M6 6l12 12M18 6L6 18"/>',
    "menu": '<path d="M4 7h16M4 12h16M4 17h16"/>',
    "sun": '<circle cx="12" cy="12" r="4"/><path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.4 1.4M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4"/>',
    "moon": '<path d="M20 14.5A8 8 0 0 1 9.5 4a8 8 0 1 0 10.500 10.500z"/>',
}


def icon(name: str, classes: str = "") -> None:
    """Draw an icon, hidden from screen readers because its button or link has the label."""
    svg = (
        '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" '
        f'stroke-linejoin="round" aria-hidden="true">{_PATHS[name]}</svg>'
    )
    ui.html(svg, sanitize=False, tag="span").classes(classes)
