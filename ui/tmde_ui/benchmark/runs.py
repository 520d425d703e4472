"""The list of benchmark runs, newest first, and their downloads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tmde_core.errors import TmdeError
from tmde_core.records.benchmark import BenchmarkRun
from tmde_core.services import Services
from tmde_ui.benchmark.filters import BenchmarkFilters
from tmde_ui.benchmark.panel import GOING
from tmde_ui.benchmark.words import BY, OUTCOMES, STATUS, format_answer_count, format_number, kind
from tmde_ui.kit.elements import Tag, button, chip, link
from tmde_ui.kit.names import name_of
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.times import age, exact
from tmde_ui.kit.words import sentence

PER_PAGE = 10

RESUMABLE = ("failed", "cancelled", "interrupted")


class BenchmarkRuns:
    """Shows the runs that match the filters, one page at a time."""

    def __init__(
        self, services: Services, live: ServerStatus, resumed: Callable[[BenchmarkRun], Awaitable[None]]
    ) -> None:
        self._services = services
        self._live = live
        self._resumed = resumed
        self._wanted = BenchmarkFilters()
        self._offset = 0
        self._shown: tuple[object, ...] = ()
        self._clocks: list[tuple[BenchmarkRun, Tag]] = []
        with Tag("section", classes="stack tight", aria_label="Runs"):
            with Tag("div", classes="line spread"):
                Tag("h2", "Runs")
                self._files = Tag("div", classes="line small", data_testid="export")
            self._box = Tag("div", data_testid="benchmark-runs")

    async def show(self, wanted: BenchmarkFilters) -> None:
        """Load the runs and redraw the list if more than the times has changed."""
        if wanted != self._wanted:
            self._wanted, self._offset = wanted, 0
        runs, total = await self._services.benchmark.list(PER_PAGE, self._offset, **wanted.filter())
        shown = (wanted, self._offset, total, tuple(runs))
        if shown != self._shown:
            self._shown = shown
            self._draw(runs, total)
        for run, begun in self._clocks:
            begun.say(age(run.started_at).capitalize())

    def _draw(self, runs: list[BenchmarkRun], total: int) -> None:
        self._clocks.clear()
        self._box.clear()
        self._files.clear()
        with self._box:
            if not total and self._wanted == BenchmarkFilters():
                Tag("p", "No run yet.", "muted")
                return
            with self._files:
                _files(self._wanted)
            if not total:
                Tag("p", "No run matches. Remove a filter.", "muted", data_testid="no-runs-match")
                return
            with Tag("ul", classes="rows"):
                for run in runs:
                    with Tag("li", classes="run", data_testid="benchmark-run"):
                        self._row(run)
            if total > PER_PAGE:
                self._pager(len(runs), total)

    def _row(self, run: BenchmarkRun) -> None:
        word, colour = STATUS[run.status]
        complaint = Tag("p", classes="notice bad", role="alert").show(visible=False)
        with Tag("div", classes="run-line benchmark-line"):
            chip(word, colour)
            with Tag("span", classes="lead"):
                self._clocks.append((run, link("", f"/benchmark/{run.id}", title=exact(run.started_at))))
                by = BY.get(run.triggered_by, f"by {run.triggered_by}")
                Tag("span", f"{kind(run.type, run.mode)}, {by}", "muted small")
            Tag("span", name_of(run.adapter_id), "cell")
            with Tag("span", classes="cell"):
                if run.metrics is None:
                    Tag("span", "in progress" if run.status in GOING else format_answer_count(run))
                else:
                    Tag("span", format_number(run.metrics.tmde_score), "score")
                    Tag("span", f" · quality {format_number(run.metrics.avg_quality_score)}")
            with Tag("span", classes="cell"):
                if run.verdict_vs_baseline is not None:
                    outcome, of = OUTCOMES[run.verdict_vs_baseline]
                    chip(outcome if of else "undecided", of, title=f"Against the base model: {outcome}")
            with Tag("span", classes="cell last"):
                if run.status == "completed":
                    link("Report", f"/api/benchmark/{run.id}/report", download=True, data_testid="report",
                         aria_label=f"Report of the run of {exact(run.started_at)}")  # fmt: skip
                elif run.status in RESUMABLE:
                    again = button("Resume", test="resume", aria_label=f"Resume the run of {exact(run.started_at)}")
                    again.on("click", lambda: self._resume(run, again, complaint), args=[])
        if run.error_message:
            Tag("p", run.error_message, "reason", data_testid="run-reason")

    def _pager(self, number: int, total: int) -> None:
        with Tag("nav", classes="pager", aria_label="Pages of runs"):
            newer = button("Newer", disabled=not self._offset)
            Tag("span", f"{self._offset + 1:,}–{self._offset + number:,} of {total:,}", "muted small tabular")
            older = button("Older", disabled=self._offset + number >= total)
        newer.on("click", lambda: self._turn(-PER_PAGE), args=[])
        older.on("click", lambda: self._turn(PER_PAGE), args=[])

    async def _turn(self, by: int) -> None:
        self._offset = max(0, self._offset + by)
        await self.show(self._wanted)

    async def _resume(self, run: BenchmarkRun, control: Tag, complaint: Tag) -> None:
        control.put(disabled=True)
        try:
            going = await self._services.benchmark.resume(run.id)
        except TmdeError as error:
            control.put(disabled=False)
            complaint.say(sentence(error)).show()
            return
        self._live.nudge()
        await self._resumed(going)


def _files(wanted: BenchmarkFilters) -> None:
    """Draw the downloads of the runs in this range of dates, with all answers."""
    Tag("span", "Export", "muted")
    for name in ("json", "csv"):
        link(name.upper(), wanted.export(name), download=f"benchmarks.{name}", data_testid=f"export-{name}")
