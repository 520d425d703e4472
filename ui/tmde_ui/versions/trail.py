"""The audit trail: all switches, imports and deletions, and which version was active at a given time."""

from __future__ import annotations

from datetime import UTC, datetime

from tmde_core.records.base import utc_now
from tmde_core.records.lora import LiveAt, LoRAActivationEvent
from tmde_core.services import Services
from tmde_ui.kit.elements import Tag, button, chip
from tmde_ui.kit.forms import on_submit
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.times import age, exact
from tmde_ui.versions.words import BY, describe_event

PER_PAGE = 10


class Trail:
    """Shows the events, newest first, one page at a time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._first = 0
        self._shown: tuple[object, ...] | None = None
        self._clocks: list[tuple[LoRAActivationEvent, Tag]] = []
        with Tag("section", classes="card stack", aria_label="Audit trail", data_testid="audit-trail"):
            Tag("h2", "Audit trail")
            self._live_at()
            self._box = Tag("div")

    async def show(self) -> None:
        """Load the events and redraw the list if more than the times has changed."""
        events = await self._services.lora.list_events(PER_PAGE, self._first)
        total = await self._services.lora.count_events()
        about = {one for event in events for one in (event.adapter_id, event.previous_adapter_id)}
        shown = (self._first, total, tuple(events), frozenset(map(name_of, about)))
        if shown != self._shown:
            self._shown = shown
            self._draw(events, total)
        for event, when in self._clocks:
            when.say(age(event.timestamp))

    def _draw(self, events: list[LoRAActivationEvent], total: int) -> None:
        self._clocks.clear()
        self._box.clear()
        with self._box:
            if not total:
                Tag(
                    "p",
                    "No events yet. Activations and other changes will appear here.",
                    "muted small",
                )
                return
            with Tag("ul", classes="decisions", data_testid="events"):
                for event in events:
                    self._row(event)
            if total > PER_PAGE:
                with Tag("nav", classes="pager", aria_label="Pages of the audit trail"):
                    newer = button("Newer", test="newer-events", disabled=not self._first)
                    last = self._first + len(events)
                    Tag("span", f"{self._first + 1:,}–{last:,} of {total:,}", "muted small tabular")
                    older = button("Older", test="older-events", disabled=last >= total)
                newer.on("click", lambda: self._turn(-PER_PAGE), args=[])
                older.on("click", lambda: self._turn(PER_PAGE), args=[])

    def _row(self, event: LoRAActivationEvent) -> None:
        word, kind = {True: ("done", "good"), False: ("failed", "critical"), None: ("in progress", "accent")}[
            event.success
        ]
        with Tag("li", data_testid="event"):
            with Tag("div", classes="line"):
                chip(word, kind)
                Tag("span", describe_event(event))
                if event.operation in ("activate", "rollback", "deactivate") and event.success:
                    Tag("span", f"before: {name_of(event.previous_adapter_id)}", "muted small")
                when = Tag("span", classes="muted small tabular", title=exact(event.timestamp))
                Tag("span", BY.get(event.triggered_by, f"by {event.triggered_by}"), "muted small maybe")
            self._clocks.append((event, when))
            for text in (event.error_message, event.note):
                if text:
                    Tag("p", text, "small")

    async def _turn(self, by: int) -> None:
        self._first = max(0, self._first + by)
        await self.show()

    # ------------------------------------------------------------------------- what answered when

    def _live_at(self) -> None:
        with Tag("form", classes="line", novalidate=True, data_testid="live-at") as form:
            Tag("label", "Active version at", "small muted", for_="live-at")
            Tag("input", classes="input moment", id="live-at", name="at", type="datetime-local", step="1")
            Tag("span", "UTC", "small muted")
            button("Show", type_="submit", test="tell")
            said = Tag("p", classes="small maybe", role="status", data_testid="live-at-said")

        async def tell(fields: dict[str, str]) -> None:
            try:
                moment = datetime.fromisoformat(fields.get("at", "")).replace(tzinfo=UTC)
            except ValueError:
                said.say("Enter a date and a time first.")
                return
            if moment > utc_now():
                said.say("This time is in the future.")
                return
            said.say(_answer(await self._services.lora.find_active_at(moment)))

        on_submit(form, tell)


def _answer(live: LiveAt) -> str:
    since = f"since {exact(live.since)}" if live.since else "since the beginning"
    until = f"until {exact(live.until)}" if live.until else "until now"
    return f"{capital(name_of(live.adapter_id))}: {since}, {until}."
