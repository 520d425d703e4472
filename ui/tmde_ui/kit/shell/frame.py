"""The frame of every page: navigation, running work, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from tmde_ui.kit.elements import Tag, close_button, icon, link, open_on_press
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.shell import theme
from tmde_ui.kit.shell.bell import Bell
from tmde_ui.kit.shell.live import ServerStatus, Situation
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.words import sentence


@contextmanager
def frame(site: Site, title: str, *, here: str | None = None, narrow: bool = False) -> Iterator[None]:
    """Draw the frame; the page's content goes inside.

    Args:
        site: provides the pages and the running work.
        title: the title of the browser's tab.
        here: the address of the navigation entry to mark.
        narrow: use a readable width, for pages with much text.
    """
    ui.page_title(f"{title} · TMDE")
    _one_main()
    drawer = _drawer(site, here)
    link("Skip to content", "#main", "skip")
    with Tag("header", classes="bar", role="banner"), Tag("div", classes="bar-inner"):
        with Tag("a", classes="brand", href="/", aria_label="TMDE, start page"):
            ui.html(theme.LOGO, sanitize=False, tag="span")
            Tag("span", "TMDE")
        _navigation(site, here)
        _situation(site.live)
        Bell(site.live, site.services)
        with Tag(
            "button", classes="icon-button", type="button", aria_label="Light or dark", data_testid="theme"
        ) as toggle:
            icon("sun", "sun")
            icon("moon", "moon")
        toggle.on("click", js_handler="() => tmde.toggleTheme()")
        with Tag(
            "button", classes="icon-button menu-button", type="button", aria_label="Menu", data_testid="menu"
        ) as menu:
            icon("menu")
        open_on_press(menu, drawer)
    with Tag("main", classes="page narrow" if narrow else "page", id="main", tabindex="-1"):
        _mishaps()
        yield


def _one_main() -> None:
    """Leave one main landmark: NiceGUI draws another one around the whole page."""
    slot = ui.context.client.content.parent_slot
    if slot is not None:
        slot.parent.props("role=none")


def _mishaps() -> None:
    """Show an unexpected error where the person looks. The log has the details."""
    notice = Tag("p", classes="notice bad", role="alert", style="margin-bottom:16px").show(visible=False)

    def tell(error: Exception) -> None:
        notice.say(sentence(error)).show()

    ui.context.client.on_exception(tell)


def _navigation(site: Site, here: str | None) -> None:
    with Tag("nav", classes="nav", aria_label="Pages"):
        for page in site.entries():
            link(page.title, page.path, aria_current="page" if page.path == here else None)


def _drawer(site: Site, here: str | None) -> Tag:
    with Tag("dialog", classes="drawer", aria_label="Menu", data_testid="drawer") as drawer:
        with Tag("div", classes="line spread"):
            Tag("span", "Menu", "eyebrow")
            close_button(drawer)
        _navigation(site, here)
    return drawer


def _situation(live: ServerStatus) -> None:
    # No live region: the time left changes every two seconds. The panels and the bell announce what matters.
    with Tag("div", classes="status", role="group", aria_label="Status"):
        with Tag("span", classes="badge", data_testid="adapter") as badge:
            dot = Tag("span", classes="dot")
            words = Tag("span")
        jobs = Tag("span", classes="jobs", data_testid="jobs")

    labels: list[tuple[str | None, Tag]] = []

    def show(situation: Situation) -> None:
        if situation.adapter and situation.adapter_flaw:
            words.say("Base model, adapter damaged")
            badge.put(
                title=f"{capital(name_of(situation.adapter))} is damaged, so the base model answers. {situation.adapter_flaw}"
            )
        elif situation.adapter and situation.adapter_idle:
            words.say("Base model")
            badge.put(title=f"{capital(name_of(situation.adapter))} is active. {situation.adapter_idle}")
        elif situation.adapter:
            words.say(f"Adapter {situation.adapter_name}")
            badge.put(title=f"{capital(name_of(situation.adapter))} is active")
        else:
            words.say("Base model")
            badge.put(title="The base model is active, without an adapter")
        kind = "bad" if situation.adapter_flaw else "on" if situation.adapter and not situation.adapter_idle else ""
        dot.classes(replace=f"dot {kind}".strip())
        where = [job.href for job in situation.jobs]
        if where != [href for href, _ in labels]:
            jobs.clear()
            labels.clear()
            with jobs:
                for href in where:
                    with Tag("a" if href else "span", classes="badge", href=href):
                        Tag("span", classes="dot busy")
                        labels.append((href, Tag("span")))
        for job, (_, label) in zip(situation.jobs, labels, strict=True):
            label.say(job.label)

    show(live.now)
    ui.context.client.on_delete(live.listen(show))
