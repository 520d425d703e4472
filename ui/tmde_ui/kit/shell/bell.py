"""The bell in the header: notifications that nobody has dismissed."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from nicegui import ui

from tmde_core.records.notifications import Notification
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, icon, link
from tmde_ui.kit.shell.acts import act_of, draw_act, is_ours
from tmde_ui.kit.shell.live import ServerStatus, Situation
from tmde_ui.kit.words import count

PANEL = "notification-panel"
MOST = 99
"""A larger number does not fit into the badge."""

LEVELS: Mapping[str, str] = {"success": "good", "info": "minor", "warning": "major", "error": "critical"}
"""Level → colour of its mark."""

NOTHING = "No notifications. Finished and failed work, such as a training run, appears here."


class Bell:
    """The button and its panel, a native popover: Escape or a click elsewhere closes it."""

    def __init__(self, live: ServerStatus, services: Services) -> None:
        self._live = live
        self._services = services
        self._items: dict[UUID, Tag] = {}
        self._newest: int | None = None
        with Tag(
            "button", classes="icon-button bell push", type="button", popovertarget=PANEL, data_testid="notifications"
        ) as self._button:
            icon("bell")
            self._count = Tag("span", classes="bell-count", aria_hidden="true", data_testid="notification-count")
        self._spoken = Tag("span", classes="visually-hidden", role="status")
        with Tag(
            "section",
            classes="notices",
            id=PANEL,
            popover="auto",
            tabindex="-1",
            aria_label="Notifications",
            data_testid=PANEL,
        ) as self._panel:
            with Tag("div", classes="line spread"):
                Tag("h2", "Notifications")
                self._all = button("Dismiss all", "quiet", test="dismiss-all").on("click", self._dismiss_all, args=[])
            self._nothing = Tag("p", NOTHING, "muted small", data_testid="no-notifications")
            self._list = Tag("ul", classes="notice-list")
            self._more = Tag("p", classes="muted small")
        self._show(live.now)
        ui.context.client.on_delete(live.listen(self._show))

    def _show(self, situation: Situation) -> None:
        waiting = situation.waiting
        self._count.say(f"{min(waiting, MOST)}{'+' if waiting > MOST else ''}").show(waiting > 0)
        self._button.put(aria_label=f"Notifications, {waiting:,} new" if waiting else "Notifications, none new")
        self._all.show(waiting > 1)
        self._nothing.show(not waiting)
        rest = waiting - len(situation.notices)
        self._more.say(f"and {count(rest, 'older one')}" if rest > 0 else "").show(rest > 0)
        wanted = {one.id for one in situation.notices}
        for gone in [identity for identity in self._items if identity not in wanted]:
            self._items.pop(gone).delete()
        for place, one in enumerate(situation.notices):
            if one.id not in self._items:
                with self._list:
                    self._items[one.id] = self._item(one)
                self._items[one.id].move(target_index=place)
        self._announce(situation)

    def _announce(self, situation: Situation) -> None:
        """Announce a new notification to screen readers if it arrived while the page was open."""
        newest = max((one.seq for one in situation.notices), default=0)
        if self._newest is not None and newest > self._newest:
            self._spoken.say(f"New: {situation.notices[0].title}")
        self._newest = max(newest, self._newest or 0)

    def _item(self, one: Notification) -> Tag:
        made = one.created_at
        with Tag("li", classes=f"notice-item {LEVELS[one.level]}", data_testid="notification") as item:
            with Tag("div", classes="stack"):
                act = act_of(one, self._services)
                # One link to a place is enough: the button of a notification leads there if it does nothing itself.
                if one.href is not None and is_ours(one.href) and act is not None and act.deed is not None:
                    link(one.title, one.href, "notice-title")
                else:
                    Tag("span", one.title, "notice-title")
                if one.detail:
                    Tag("span", one.detail, "small")
                Tag("span", f"{made.day} {made:%b %Y, %H:%M} UTC", "muted small tabular")
                draw_act(one, self._services, lambda: self._dismiss(one.id))
            with Tag(
                "button",
                classes="icon-button",
                type="button",
                aria_label=f"Dismiss: {one.title}",
                data_testid="dismiss",
            ) as cross:
                icon("close")
            cross.on("click", lambda: self._dismiss(one.id), args=[])
        return item

    async def _dismiss(self, identity: UUID) -> None:
        self._keep_focus()
        await self._live.dismiss(identity)

    async def _dismiss_all(self) -> None:
        self._keep_focus()
        await self._live.dismiss_all()

    def _keep_focus(self) -> None:
        """Move the keyboard focus to the panel, because the pressed button is removed."""
        self._panel.run_method("focus")
