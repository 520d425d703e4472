"""Show one benchmark run on its own page: live while it runs, then its record, domains and answers."""

from __future__ import annotations

import contextlib

from nicegui import ui

from tmde_core.errors import NotFoundError
from tmde_core.records.benchmark import BenchmarkRun
from tmde_core.services import Services
from tmde_ui.benchmark.compare.pairs import Comparisons, list_pairs
from tmde_ui.benchmark.compare.view import ComparisonView
from tmde_ui.benchmark.panel import BenchmarkPanel
from tmde_ui.benchmark.results.domains import DomainCharts
from tmde_ui.benchmark.words import BY, format_answer_count, format_number, format_run_time, kind, quality
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Tag, button, facts, link
from tmde_ui.kit.names import name_of
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.times import exact, format_milliseconds


class RunPage:
    """The page `/benchmark/{id}`."""

    def __init__(self, services: Services, live: ServerStatus, run: BenchmarkRun, comparisons: Comparisons) -> None:
        self._services = services
        self._live = live
        self._run = run
        self._comparisons = comparisons

    async def build(self) -> None:
        """Draw the page and follow the run while it is running."""
        self._box = Tag("div", classes="maybe")
        self._record = Tag("div", classes="stack wide")
        self._domains = DomainCharts()
        self._compared = ComparisonView(self._services, self._comparisons, "Answers of this run")
        if self._run.status != "completed":
            await self._show(self._run)
        await self._tell()

    async def _show(self, run: BenchmarkRun) -> None:
        self._box.clear()
        with self._box:
            await BenchmarkPanel(self._services, self._live, run, self._show, self._tell, elsewhere=False).build()

    async def _tell(self) -> None:
        run = self._run = await self._services.benchmark.get(self._run.id)
        baseline = None
        if run.baseline_run_id is not None:
            with contextlib.suppress(NotFoundError):  # the baseline may have been deleted
                baseline = await self._services.benchmark.get(run.baseline_run_id)
        self._record.clear()
        with self._record:
            self._draw_record(run)
        self._domains.show(run, baseline)
        if run.status not in ("pending", "running"):
            await self._compared.show(list_pairs(run))

    def _draw_record(self, run: BenchmarkRun) -> None:
        metrics = run.metrics
        with Tag("section", classes="card stack", aria_label="Record", data_testid="record"):
            with Tag("div", classes="line spread"):
                Tag("h2", "Record")
                with Tag("div", classes="line"):
                    if run.status == "completed":
                        link("Report", f"/api/benchmark/{run.id}/report", "button", download=True, data_testid="report")
                    if run.status not in ("pending", "running"):
                        button("Delete", "danger", test="delete").on("click", self._ask_delete, args=[])
            for warning in run.warnings:
                Tag("p", warning, "notice warm")
            facts(
                (
                    ("Run", str(run.id)),
                    ("Started", f"{exact(run.started_at)}, {BY.get(run.triggered_by, f'by {run.triggered_by}')}"),
                    ("Took", format_run_time(run) if run.completed_at else ""),
                    ("Who answered", f"{name_of(run.adapter_id)}, {run.adapter_id or run.base_model}"),
                    ("Kind", kind(run.type, run.mode)),
                    ("Answers", format_answer_count(run)),
                    ("TMDE score", format_number(metrics.tmde_score) if metrics else ""),
                    ("Quality", quality(metrics.intervals.quality) if metrics else ""),
                    ("Response time", format_milliseconds(metrics.avg_response_time_ms) if metrics else ""),
                    ("Judge", run.judge),
                    (
                        "Asked",
                        f"each question {run.repeats} times, seed {run.seed}"
                        if run.repeats > 1
                        else f"once, seed {run.seed}",
                    ),
                    ("Questions", f"{run.suite}, {run.suite_sha256[:16]}"),
                    ("Base model", run.base_model),
                )
            )

    def _ask_delete(self) -> None:
        async def leave() -> None:
            ui.navigate.to("/benchmark")

        ask_once(
            self._record,
            "Delete this run?",
            "Its answers and verdicts are deleted too. This cannot be undone.",
            yes="Delete the run",
            no="Keep it",
            deed=lambda: self._services.benchmark.delete(self._run.id),
            then=leave,
            test="delete",
        )
