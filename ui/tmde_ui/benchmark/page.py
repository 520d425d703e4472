"""`/benchmark`: the score over time and its uncertainty. `/benchmark/{id}`: one run, answer by answer."""

from __future__ import annotations

import asyncio
from uuid import UUID

import structlog
from fastapi import Request
from nicegui import ui

from tmde_core.errors import InvalidInputError
from tmde_core.records.benchmark import BenchmarkRun, BenchmarkSummary
from tmde_core.services import Services
from tmde_ui.benchmark.compare.pairs import Comparisons, Pair, list_pairs, switches
from tmde_ui.benchmark.compare.switches import SwitchList
from tmde_ui.benchmark.compare.view import ComparisonView
from tmde_ui.benchmark.dialog import BenchmarkDialog
from tmde_ui.benchmark.filters import BenchmarkFilters, filters
from tmde_ui.benchmark.gate import Alerts, GatePanel
from tmde_ui.benchmark.meters import Meters, ResourceReadings
from tmde_ui.benchmark.panel import BenchmarkPanel
from tmde_ui.benchmark.questions.imports import register_upload
from tmde_ui.benchmark.questions.panel import OwnQuestions
from tmde_ui.benchmark.results.domains import DomainCharts
from tmde_ui.benchmark.results.score import ScoreLine
from tmde_ui.benchmark.results.series import ScoreSeries
from tmde_ui.benchmark.run_page import RunPage
from tmde_ui.benchmark.runs import BenchmarkRuns
from tmde_ui.kit.elements import Tag, button, link
from tmde_ui.kit.panels import Panels
from tmde_ui.kit.runs.schedule import SchedulePanel
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.tending import draw_part, poll, start_task

log = structlog.get_logger(__name__)

EVENTS = 200
"""Number of events of the audit trail that are searched for activations."""


def register(site: Site) -> None:
    """Register the pages with the app."""
    services, live = site.services, site.live
    comparisons = Comparisons(services.benchmark)
    readings = ResourceReadings(services.settings.data_path)
    register_upload(site)

    @page("/benchmark", site)
    async def benchmark(request: Request) -> None:
        wanted = BenchmarkFilters.read(dict(request.query_params))
        with frame(site, "Benchmark", here="/benchmark"), Tag("div", classes="stack wide"):
            await BenchmarkPage(services, live, wanted, comparisons, readings).build()

    @page("/benchmark/{run_id:id}", site)
    async def one_run(run_id: str) -> None:
        run = await services.benchmark.get(await services.ids.benchmark(run_id))
        title = f"Benchmark of {run.started_at.day} {run.started_at:%b %Y, %H:%M} UTC"
        with frame(site, title, here="/benchmark"), Tag("div", classes="stack wide"):
            with Tag("div", classes="stack tight"):
                link("← All runs", "/benchmark", "small")
                Tag("h1", title)
            await RunPage(services, live, run, comparisons).build()


class BenchmarkPage:
    """Builds the parts of `/benchmark` and keeps them up to date while the page is open."""

    def __init__(
        self,
        services: Services,
        live: ServerStatus,
        wanted: BenchmarkFilters,
        comparisons: Comparisons,
        readings: ResourceReadings,
    ) -> None:
        self._services = services
        self._comparisons = comparisons
        self._readings = readings
        self._live = live
        self._wanted = wanted
        self._panel: BenchmarkPanel | None = None
        self._seen: object = None
        self._deepening: asyncio.Task[None] | None = None

    async def build(self) -> None:
        """Draw the whole page and start its updates."""
        with Tag("div", classes="stack tight"):
            with Tag("div", classes="line spread"):
                Tag("h1", "Benchmark")
                self._run_now = button("Run Benchmark", "primary", test="run-benchmark", aria_haspopup="dialog")
            Meters(self._readings)
        self._alerts = Alerts(self._services)
        self._live_box = Tag("div", classes="maybe")
        self._dialog = BenchmarkDialog(self._services, self._show_run)
        self._dialog.opens_with(self._run_now)
        self._empty = Tag("div", classes="card empty", data_testid="empty").show(visible=False)
        with self._empty:
            self._draw_empty()
        self._score = ScoreLine(self._offer_base, self._show_pair)
        with Tag("section", classes="stack", aria_label="Score over time") as self._over_time:
            Tag("h2", "Score over time")
            with Tag("details", classes="stack tight", open=self._wanted != BenchmarkFilters(), data_testid="filter"):
                Tag("summary", "Filter the chart and the runs")
                self._problem = filters(self._wanted, await self._adapters(), self._filter)
            self._series = ScoreSeries(self._services.settings.benchmark.quality_weight)
        self._deeper = Tag("div", classes="maybe")
        self._compared = ComparisonView(self._services, self._comparisons, "The newest run compared", folded=True)
        self._pairs: list[Pair] = []
        await self._draw_rest()
        await draw_part(self._look())
        start_task(lambda: poll(self._look, "benchmarks"), "look after the benchmark page")

    async def _draw_rest(self) -> None:
        """Draw the tabs with everything that is not needed at first sight."""
        panels = Panels("More about benchmarks")
        with panels.panel("runs", "Runs"):
            self._runs = BenchmarkRuns(self._services, self._live, self._show_run)
        with panels.panel("domains", "Domains"):
            self._domains = DomainCharts()
        with panels.panel("activations", "Activations"):
            self._switches = SwitchList(self._comparisons, self._show_pair)
        with panels.panel("questions", "Your questions"):
            self._questions = OwnQuestions(self._services)
        with panels.panel("automatic", "Automatic"):
            self._gate = GatePanel(self._services)
            self._schedule = SchedulePanel(self._services, self._gate.show, "benchmark")
            await draw_part(self._schedule.build())

    def _draw_empty(self) -> None:
        Tag("h2", "No benchmark yet")
        Tag(
            "p",
            "A benchmark asks fixed questions and shows how good the answers are and how certain the result is. Start with a "
            "quick run of the base model. Every adapter is compared with this baseline.",
        )
        begin = button("Measure the base model", test="begin")
        begin.on("click", lambda: self._dialog.offer_base("quick", "debate"), args=[])

    async def _adapters(self) -> list[UUID]:
        return [one.id for one in await self._services.lora.list()]

    async def _offer_base(self, like: BenchmarkRun) -> None:
        await self._dialog.offer_base(like.type, like.mode)

    # --------------------------------------------------------------------------------------- showing

    async def _filter(self, wanted: BenchmarkFilters) -> None:
        if wanted == self._wanted:
            return
        self._wanted = wanted
        ui.navigate.history.replace(wanted.address())
        await self._refresh()

    async def _refresh(self) -> None:
        """Draw the runs that match the filters."""
        wanted = self._wanted
        try:
            summary = await self._services.benchmark.summarise(**wanted.filter())
        except InvalidInputError as error:
            self._problem.say("The first day is after the last day. Swap them.").show()
            log.debug("ui.filters_refused", error=error.detail)
            return
        self._problem.show(visible=False)
        if wanted == self._wanted:
            await self._draw(summary)

    async def _draw(self, summary: BenchmarkSummary) -> None:
        nothing = not summary.total and self._wanted == BenchmarkFilters()
        # While the first run is in progress, its panel says what happens.
        self._empty.show(nothing and self._services.benchmark.get_running() is None)
        self._over_time.show(not nothing)
        self._score.show(summary)
        self._series.show(summary)
        self._domains.show(summary.current, summary.baseline)
        await self._runs.show(self._wanted)
        # In the background: a comparison takes half a second, and the page is useful before that.
        if self._deepening is not None:
            self._deepening.cancel()
        self._deeper.clear()
        self._deepening = start_task(lambda: draw_part(self._deepen(summary), self._deeper), "compare benchmark runs")

    async def _deepen(self, summary: BenchmarkSummary) -> None:
        """Draw the slow parts: the newest run compared with others, and what each activation changed."""
        found = switches(await self._services.lora.list_events(limit=EVENTS), summary.series)
        known = {"alone": summary.current, "previous": summary.previous, "baseline": summary.baseline}
        own = list_pairs(summary.current) if summary.current else []
        self._pairs = [*(pair for pair in own if known[pair.key] is not None), *(one.pair for one in found)]
        await self._compared.show(self._pairs)
        await self._switches.show(found)

    async def _show_pair(self, pair: Pair) -> None:
        await self._compared.show(self._pairs, pair.key)
        self._compared.into_view()

    async def _look(self) -> None:
        """Show the run in progress, whoever started it. Redraw everything when a run has ended."""
        newest, total = await self._services.benchmark.list(limit=1)
        going, _ = await self._services.benchmark.list(limit=1, status="running")
        current = going[0] if going else None
        shown = self._panel
        if current is not None and (shown is None or shown.run.id != current.id or shown.over):
            await self._show(current)
        self._run_now.put(disabled=current is not None, title="A benchmark is running." if current else None)
        seen = (total, newest and (newest[0].id, newest[0].status), current and current.id)
        await self._alerts.show()
        if seen != self._seen:
            self._seen = seen
            await self._refresh()
        await self._gate.show()
        await self._questions.show()
        await self._schedule.look()

    async def _show_run(self, run: BenchmarkRun) -> None:
        """Show a run that a person has started or resumed on this page, and scroll it into view."""
        self._live.nudge()
        if self._panel is None or self._panel.run.id != run.id or self._panel.over:
            await self._show(run)
        await self._look()
        if self._panel is not None:
            self._panel.enter()

    async def _show(self, run: BenchmarkRun) -> None:
        if self._panel is not None:
            self._panel.stop()
        self._live_box.clear()
        with self._live_box:
            self._panel = BenchmarkPanel(self._services, self._live, run, self._show_run, self._look)
            await draw_part(self._panel.build())
