"""`/finetune`: status, traces, runs and schedule of training. `/finetune/{id}`: one run."""

from __future__ import annotations

import asyncio

from nicegui import ui

from tmde_core.records.finetune import TRAINING_ENDED, FineTuneRun
from tmde_core.records.schedule import ScheduleStatus
from tmde_core.records.traces import TraceStats
from tmde_core.services import Services
from tmde_ui.finetune.dialog import RunDialog
from tmde_ui.finetune.panel import TrainingPanel
from tmde_ui.finetune.runs import RunTable, UsedTraces, record
from tmde_ui.finetune.words import status_of
from tmde_ui.kit.elements import Tag, button, link
from tmde_ui.kit.runs.schedule import SchedulePanel
from tmde_ui.kit.shell.frame import frame
from tmde_ui.kit.shell.problems import page
from tmde_ui.kit.shell.site import Site
from tmde_ui.kit.shell.tabs import tabs
from tmde_ui.kit.tending import draw_part, poll, start_task
from tmde_ui.kit.times import age, format_next_time
from tmde_ui.kit.words import count, plain, score

MAX_NAME = 300
"""The most letters of a base model's name in the address."""

COUNT_EVERY = 10
"""Traces are counted at every tenth update."""


def register(site: Site) -> None:
    """Register the pages with the app."""
    services, live = site.services, site.live

    @page("/finetune", site)
    async def finetune(base: str = "") -> None:
        with frame(site, "Fine-tuning", here="/finetune"), Tag("div", classes="stack wide"):
            await TrainingPage(site, base.strip()[:MAX_NAME]).build()

    @page("/finetune/{run_id:id}", site)
    async def one_run(run_id: str) -> None:
        run = await services.finetune.get(await services.ids.run(run_id))
        title = f"Training run {run.name}"
        with frame(site, title, here="/finetune"), Tag("div", classes="stack wide"):
            with Tag("div", classes="stack tight"):
                link("← All runs", "/finetune", "small")
                Tag("h1", title)
            box = Tag("div")
            rest = Tag("div", classes="stack wide")

            async def tell() -> None:
                rest.clear()
                with rest:
                    record(await services.finetune.get(run.id))
                    await draw_part(_used(services, run))

            async def show(going: FineTuneRun) -> None:
                box.clear()
                with box:
                    await draw_part(TrainingPanel(services, live, going, resumed=show, ended=tell).build())

            await show(run)
            await tell()


async def _used(services: Services, run: FineTuneRun) -> None:
    UsedTraces(run, await services.finetune.list_traces(run.id))


class TrainingPage:
    """Builds the parts of `/finetune` and keeps them up to date while the page is open."""

    def __init__(self, site: Site, base: str = "") -> None:
        """Prepare the page.

        Args:
            site: provides the services.
            base: the base model of the dialog to open at once; empty: no dialog is opened.
        """
        self._site = site
        self._base = base
        self._services = site.services
        self._live = site.live
        self._panel: TrainingPanel | None = None
        self._current: FineTuneRun | None = None
        self._looks = 0

    async def build(self) -> None:
        """Draw the whole page and start its updates."""
        with Tag("div", classes="stack tight"):
            with Tag("div", classes="line spread"):
                Tag("h1", "Fine-tuning")
                self._run_now = button("Run Now", "primary", test="run-now", aria_haspopup="dialog")
            tabs(self._site, "/finetune")
            self._line = Tag("p", classes="muted tabular", data_testid="status-line")
            self._packages = Tag("p", classes="muted small tabular", role="status", data_testid="packages-line")
            self._worker = Tag("p", classes="maybe", role="status", data_testid="worker-line")
        self._live_box = Tag("div", classes="maybe")
        self._cards()
        with Tag("section", classes="stack tight", aria_label="Recent runs"):
            Tag("h2", "Recent runs")
            self._runs = RunTable(self._services, self._live, self._show_run)
            await draw_part(self._runs.show())
        self._schedule_panel = SchedulePanel(self._services, self._say_status)
        await draw_part(self._schedule_panel.build())
        await draw_part(self._build_dialog())
        await draw_part(self._count())
        await draw_part(self._look())
        await self._say_status()
        start_task(lambda: poll(self._look_after, "training"), "look after the training page")

    async def _build_dialog(self) -> None:
        dialog = RunDialog(self._services, self._show_run)
        backends = await asyncio.to_thread(self._services.finetune.backends)
        await dialog.build(backends, self._base)
        dialog.opens_with(self._run_now)
        if self._base:
            start_task(self._press_run_now, "open the dialog")

    async def _press_run_now(self) -> None:
        await ui.context.client.connected()
        self._run_now.run_method("click")

    # ---------------------------------------------------------------------------------------- cards

    def _cards(self) -> None:
        with Tag("div", classes="cards", data_testid="cards"):
            self._total, self._total_words = _card("Traces", "total-traces")
            self._eligible, self._eligible_words = _card("Fit for training", "eligible-traces")
            self._done, self._done_words = _card("Runs done", "runs-done")

    async def _count(self) -> None:
        stats = await self._services.traces.stats()
        _, done = await self._services.finetune.list(limit=1, status="completed")
        _, total = await self._services.finetune.list(limit=1)
        config = self._services.finetune.config()
        self._total.say(f"{stats.total:,}")
        self._total_words.say(
            f"{stats.rated:,} rated by you" if stats.total else "Every debate creates a trace. Ask a question to start."
        )
        self._eligible.say(f"{stats.eligible:,}")
        self._eligible_words.say(_fitness(stats, config.min_traces, config.min_quality_score))
        self._done.say(f"{done:,}")
        self._done_words.say(
            f"of {count(total, 'run')} started" if total else "The first run creates your first adapter."
        )

    # --------------------------------------------------------------------------------------- status

    async def _say_status(self) -> None:
        # Two rows are enough: only the newest run can be in progress.
        runs, _ = await self._services.finetune.list(limit=2)
        last = next((run for run in runs if run.status in TRAINING_ENDED), None)
        schedule = self._schedule_panel.shown
        parts = (f"Status: {self._state()}", f"Last run: {_last(last)}", f"Next: {_next(schedule)}")
        self._line.say(" · ".join(parts))
        packages = await asyncio.to_thread(self._services.backends.describe_missing)
        self._packages.say(packages).show(bool(packages))
        # A queued run says so itself.
        worker = await asyncio.to_thread(self._services.finetune.describe_worker) if self._current is None else ""
        self._worker.say(plain(worker)).classes(replace="notice warm" if worker else "maybe")

    def _state(self) -> str:
        run = self._current
        if run is None:
            return "Idle"
        share = self._panel.state.share if self._panel is not None else None
        word = status_of(run)[0].capitalize()
        return word if share is None or run.status == "pending" else f"{word} {int(100 * share)} %"

    async def _look(self) -> None:
        """Show the run in progress, whoever started it."""
        run = await self._services.finetune.get_current()
        changed = (run and (run.id, run.status)) != (self._current and (self._current.id, self._current.status))
        self._current = run
        shown = self._panel
        if run is not None and (shown is None or shown.run.id != run.id or shown.over):
            await self._show(run)
        self._run_now.put(disabled=run is not None, title="A run is in progress." if run else None)
        if changed:
            await self._runs.show()
            await self._count()

    async def _show_run(self, run: FineTuneRun) -> None:
        """Show a run that a person has started or resumed on this page, and scroll it into view."""
        self._live.nudge()
        await self._look()
        if self._panel is None or self._panel.run.id != run.id:
            await self._show(run)
        await self._say_status()
        if self._panel is not None:
            self._panel.enter()

    async def _show(self, run: FineTuneRun) -> None:
        if self._panel is not None:
            self._panel.stop()
        self._live_box.clear()
        with self._live_box:
            self._panel = TrainingPanel(self._services, self._live, run, resumed=self._show_run)
            await draw_part(self._panel.build())

    async def _look_after(self) -> None:
        self._looks += 1
        await self._look()
        if self._looks % COUNT_EVERY == 0:
            await self._count()
            await self._runs.show()
            await self._schedule_panel.look()
        await self._say_status()


def _card(title: str, test: str) -> tuple[Tag, Tag]:
    """Draw a figure with its name above and text below; return both elements."""
    with Tag("section", classes="card count", aria_label=title):
        Tag("h2", title, "eyebrow")
        figure = Tag("p", "–", "number tabular", data_testid=test)
        return figure, Tag("p", classes="muted small", data_testid=f"{test}-words")


def _fitness(stats: TraceStats, needed: int, least: float) -> str:
    short = needed - stats.eligible
    enough = f"{needed:,} needed" if short <= 0 else f"{needed:,} needed, {short:,} missing"
    cut = f" · {stats.cut:,} cut off and left out" if stats.cut else ""
    new = f"{stats.since_last_run:,} new since the last run"
    return f"scored {score(least)} or more, or corrected · {enough} · {new}{cut}"


def _last(run: FineTuneRun | None) -> str:
    if run is None:
        return "never"
    ending = {"failed": " (failed)", "cancelled": " (cancelled)"}.get(run.status, "")
    return f"{age(run.completed_at or run.started_at)}{ending}"


def _next(schedule: ScheduleStatus | None) -> str:
    if schedule is None:
        return "unknown"
    if not schedule.enabled or not schedule.next_runs:
        return "not scheduled"
    return format_next_time(schedule.next_runs[0], schedule.timezone)
