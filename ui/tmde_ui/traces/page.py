"""`/traces`: search, filter, page through, import and export traces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from fastapi import Request
from nicegui import ui

from tmde_core.errors import InvalidInputError
from tmde_core.records.traces import ImportReport, Trace, TraceFilter, TracePage, TraceStats
from tmde_core.services import Services
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.dropzone import DropZone
from tmde_ui.kit.elements import Modal, Tag, button, chip, choice, link, open_on_press
from tmde_ui.kit.forms import form_fields
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.times import ago, exact
from tmde_ui.kit.words import count, plain, score, snippet, source
from tmde_ui.traces import trace_page
from tmde_ui.traces.deleting import DELETING, deletion_words
from tmde_ui.traces.imports import ADDRESS, ENDINGS, MAX_IMPORT_BYTES, register_upload, report_of

PER_PAGE = 25
SHOWN_SKIPPED = 100
"""Number of skipped lines listed in an import's report. The others are counted."""

SOURCES = (("", "anywhere"), ("ui", "these pages"), ("api", "the API"), ("cli", "the command line"), ("import", "an import"), ("loop", "a loop"), ("benchmark", "a benchmark"))  # fmt: skip
QUALITIES = (("", "any"), *((str(number), f"{number} or more") for number in range(10, 0, -1)))


class TraceFilters(msgspec.Struct, frozen=True):
    """The values of the filters, which are part of the page's address."""

    q: str = ""
    quality: str = ""
    source: str = ""
    rated: str = ""
    eligible: str = ""

    @classmethod
    def read(cls, fields: dict[str, str]) -> TraceFilters:
        """Read the filters from a form or an address. Ignore values that the filters do not offer."""
        return cls(
            q=fields.get("q", "").strip()[:500],
            quality=_offered(fields.get("quality", ""), QUALITIES),
            source=_offered(fields.get("source", ""), SOURCES),
            rated="on" if fields.get("rated") else "",
            eligible="on" if fields.get("eligible") else "",
        )

    def filter(self) -> TraceFilter:
        """Return the filter as the service expects it."""
        return TraceFilter(
            q=self.q or None,
            min_quality=float(self.quality) if self.quality else None,
            source=self.source or None,
            rated=True if self.rated else None,
            eligible=True if self.eligible else None,
        )

    def address(self) -> str:
        """Return the address of the page with these filters."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value}
        return f"/traces?{urlencode(given)}" if given else "/traces"


class TraceTable:
    """The list below the filters. Stores the current page of the list."""

    def __init__(self, services: Services, wanted: TraceFilters, deleted: Callable[[], Awaitable[None]]) -> None:
        self._services = services
        self.wanted = wanted
        self._deleted = deleted
        self._cursors: list[str | None] = [None]
        self._asked = 0
        self._selected: set[UUID] = set()
        """The selected traces of the page that is shown."""
        self._said = Tag("p", classes="notice", role="status", data_testid="deleted").show(visible=False)
        self._dialogs = Tag("div", classes="maybe")
        self._spoken = Tag("p", classes="visually-hidden", role="status", data_testid="found")
        self._box = Tag("div", data_testid="trace-list")

    async def show(self) -> None:
        """Load and draw the traces. If the filters change meanwhile, only the later result is drawn."""
        self._asked += 1
        asked = self._asked
        try:
            found = await self._services.traces.list(self.wanted.filter(), limit=PER_PAGE, cursor=self._cursors[-1])
        except InvalidInputError:
            self._cursors = [None]
            found = await self._services.traces.list(self.wanted.filter(), limit=PER_PAGE)
        if asked != self._asked:
            return
        # The whole list would be read aloud, so only its size is.
        self._spoken.say(f"{self._range(found)} traces" if found.items else "No trace matches.")
        self._box.clear()
        with self._box:
            if found.items:
                self._rows(found)
            elif self.wanted == TraceFilters():
                _nothing_yet()
            else:
                _nothing_found()

    async def change(self, wanted: TraceFilters) -> None:
        """Apply other filters and go back to the first page."""
        if wanted == self.wanted:
            return
        self.wanted = wanted
        self._cursors = [None]
        ui.navigate.history.replace(wanted.address())
        await self.show()

    async def restart(self) -> None:
        """Show the newest traces, because the traces have changed."""
        self._cursors = [None]
        await self.show()

    def _range(self, found: TracePage) -> str:
        """Return `26–50 of 130`."""
        first = (len(self._cursors) - 1) * PER_PAGE + 1
        return f"{first:,}–{first + len(found.items) - 1:,} of {found.total:,}"

    def _rows(self, found: TracePage) -> None:
        with Tag("div", classes="row heading", aria_hidden="true"):
            for name in ("Question and answer", "Quality", "Rounds", "From"):
                Tag("span", name)
            Tag("span", "When", "when")
        self._draw_selection(found)
        with Tag("ul", classes="rows"):
            for trace in found.items:
                self._row(trace)
        with Tag("nav", classes="pager", aria_label="Pages of traces"):
            newer = button("Newer", test="newer", disabled=len(self._cursors) == 1)
            Tag("span", self._range(found), "muted small tabular", data_testid="range")
            older = button("Older", test="older", disabled=found.next_cursor is None)
        newer.on("click", self._newer, args=[])
        older.on("click", lambda: self._older(found.next_cursor), args=[])

    # ----------------------------------------------------------------------------------- selecting, deleting

    def _row(self, trace: Trace) -> None:
        with Tag("li", classes="selectable"):
            box = Tag(
                "input", type="checkbox", aria_label=f"Select: {snippet(trace.query)}", data_testid="select-trace"
            )
            _link(trace)
        box.on(
            "change",
            lambda event: self._select(trace.id, event.args),
            js_handler="(event) => emit(event.target.checked)",
        )

    def _draw_selection(self, found: TracePage) -> None:
        """Draw what can be done with the selected traces of this page."""
        self._selected.clear()
        with Tag("div", classes="line selection", role="group", aria_label="Selected traces"):
            every = Tag("input", type="checkbox", aria_label="Select all on this page", data_testid="select-all")
            self._chosen = Tag("span", "", "muted small", data_testid="selected", role="status")
            self._delete = button("Delete", "danger", test="delete-selected").show(visible=False)
        every.on(
            "change",
            lambda event: self._select_all([trace.id for trace in found.items], event.args),
            js_handler="(event) => emit(tmde.checkAll(event.target, '.selectable input'))",
        )
        self._delete.on("click", self._ask_delete, args=[])
        self._count()

    def _select(self, trace_id: UUID, checked: object) -> None:
        if checked is True:
            self._selected.add(trace_id)
        else:
            self._selected.discard(trace_id)
        self._count()

    def _select_all(self, trace_ids: Sequence[UUID], checked: object) -> None:
        self._selected = set(trace_ids) if checked is True else set()
        self._count()

    def _count(self) -> None:
        number = len(self._selected)
        self._chosen.say(f"{count(number, 'trace')} selected" if number else "Select all")
        self._delete.show(bool(number))

    def _ask_delete(self) -> None:
        chosen = tuple(self._selected)

        async def delete() -> None:
            done = await self._services.traces.delete(chosen)
            self._said.say(deletion_words(done)).show()
            await self._deleted()

        ask_once(
            self._dialogs,
            f"Delete {count(len(chosen), 'trace')}?",
            DELETING,
            yes="Delete",
            no="Keep them" if len(chosen) > 1 else "Keep it",
            deed=delete,
            then=self.restart,
            test="delete",
        )

    def _to_the_top(self) -> None:
        # Run the script from the list: the pressed button is already deleted, and its context with it.
        with self._box:
            ui.run_javascript("scrollTo(0, 0)")

    async def _newer(self) -> None:
        if len(self._cursors) > 1:
            self._cursors.pop()
            await self.show()
            self._to_the_top()

    async def _older(self, cursor: str | None) -> None:
        if cursor is not None:
            self._cursors.append(cursor)
            await self.show()
            self._to_the_top()


def register(site: Site) -> None:
    """Register the page with the app."""
    services = site.services
    register_upload(site)
    trace_page.register(site)

    @page("/traces", site)
    async def traces(request: Request) -> None:
        wanted = TraceFilters.read(dict(request.query_params))
        stats = await services.traces.stats()
        with frame(site, "Traces", here="/traces"), Tag("div", classes="stack"):
            with Tag("div", classes="line spread"):
                with Tag("div", classes="stack tight"):
                    Tag("h1", "Traces")
                    figures = Tag("p", _figures(stats, services), "muted", data_testid="stats")
                with Tag("div", classes="line"):
                    bring = button("Import", test="import")
                    link("Export", "/api/traces/export", "button", download="traces.jsonl", data_testid="export")
            form = _filters(wanted)

            async def count_again() -> None:
                figures.say(_figures(await services.traces.stats(), services))

            listing = TraceTable(services, wanted, count_again)
            await listing.show()

            async def imported() -> None:
                await count_again()
                await listing.restart()

            dialog = _import_dialog(imported)
        open_on_press(bring, dialog)
        form_fields(form, lambda fields: listing.change(TraceFilters.read(fields)))


def _filters(wanted: TraceFilters) -> Tag:
    with Tag("form", classes="filters", role="search", data_testid="filters") as form:
        with Tag("div", classes="field"):
            Tag("label", "Search", for_="field-q")
            Tag("input", classes="input", id="field-q", name="q", type="search", defaultValue=wanted.q, autocomplete="off",
                placeholder="Words in the question or the answer", data_testid="search")  # fmt: skip
        choice("Quality", "quality", QUALITIES, wanted.quality, data_testid="quality")
        choice("From", "source", SOURCES, wanted.source, data_testid="source")
        for name, text, on in (("rated", "Rated", wanted.rated), ("eligible", "Fit for training", wanted.eligible)):
            with Tag("label", classes="check"):
                Tag("input", type="checkbox", name=name, checked=bool(on), data_testid=name)
                Tag("span", text)
    return form


def _link(trace: Trace) -> None:
    with Tag("a", classes="row", href=f"/traces/{trace.id}", data_testid="trace"):
        with Tag("div", classes="lead"):
            Tag("span", snippet(trace.query), "q")
            Tag("span", snippet(trace.corrected_answer or trace.final_answer), "a")
        with Tag("span", classes="cell"):
            if trace.withdrawn_at is not None:
                chip("withdrawn")
            elif trace.quality_score is None:
                Tag("span", "no verdict", "score none")
            else:
                Tag("span", score(trace.quality_score), "score")
                Tag("span", " yours" if trace.user_rating is not None else " judge", "muted")
        Tag("span", count(len(trace.rounds), "round") if trace.rounds else "–", "cell optional")
        Tag("span", source(trace.source), "cell optional")
        Tag("span", ago(trace.created_at), "cell when", title=exact(trace.created_at))


def _nothing_yet() -> None:
    with Tag("div", classes="card empty", data_testid="empty"):
        Tag("h2", "No traces yet")
        Tag(
            "p",
            "Every finished debate is stored here as a trace: the question, the arguments, the answer and its score. Good traces become training data.",
        )
        link("Ask the first question", "/", "button primary")


def _nothing_found() -> None:
    with Tag("div", classes="card empty", data_testid="nothing-found"):
        Tag("h2", "Nothing matches")
        Tag("p", "Use fewer or other words, or remove a filter.")
        link("Show all", "/traces", "button")


def _import_dialog(imported: Any) -> Modal:
    dialog = Modal("Import traces", test="import-dialog")

    async def done(answer: dict[str, Any]) -> None:
        outcome = report_of(answer)
        report.clear()
        with report:
            _report(outcome)
            if isinstance(outcome, ImportReport) and outcome.already_here:
                copies = button("Import copies of them anyway", test="import-again")
                copies.on("click", lambda: zone.resend(again="true"), args=[])
        if isinstance(outcome, ImportReport) and outcome.imported:
            await imported()

    with dialog.body:
        Tag(
            "p",
            "A JSON Lines file with one trace per line (the fields query and finalAnswer are enough), or the SQLite file of the original project.",
            "muted",
        )
        with DropZone(done, ADDRESS, ENDINGS, MAX_IMPORT_BYTES) as zone:
            Tag("strong", "Drop a file here")
        report = Tag("div", classes="stack tight", role="status", data_testid="import-report")
    return dialog


def _report(outcome: ImportReport | str) -> None:
    if isinstance(outcome, str):
        Tag("p", plain(outcome), "notice bad")
        return
    skipped = max(outcome.skipped_total, len(outcome.skipped))
    words = f"{count(outcome.imported, 'trace')} imported" + (
        f", {count(skipped, 'line')} skipped." if skipped else "."
    )
    if outcome.already_here:
        words += f" {outcome.already_here:,} {'is' if outcome.already_here == 1 else 'are'} already here."
    Tag("p", words, "notice good" if outcome.imported else "notice warm")
    if skipped:
        with Tag("ul", classes="skipped"):
            for line in outcome.skipped[:SHOWN_SKIPPED]:
                Tag("li", plain(f"Line {line.line}: {line.reason}"))
        if skipped > SHOWN_SKIPPED:
            Tag("p", f"and {skipped - SHOWN_SKIPPED:,} more", "muted small")


def _figures(stats: TraceStats, services: Services) -> str:
    if not stats.total:
        return "Finished debates with their answers and scores."
    ready = f"{stats.eligible:,} fit for training ({score(services.traces.min_quality_score)} or more, or corrected)"
    return f"{count(stats.total, 'trace')} · {ready} · {stats.rated:,} rated by you"


def _offered(value: str, options: tuple[tuple[str, str], ...]) -> str:
    return value if any(value == offered for offered, _ in options) else ""
