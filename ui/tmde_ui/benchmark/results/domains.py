"""Show the quality by domain: a radar next to bars with their intervals."""

from __future__ import annotations

from nicegui import ui

from tmde_core.records.benchmark import BenchmarkRun, DomainMetrics
from tmde_ui.benchmark.words import domain_name, domain_place
from tmde_ui.kit.chart.shapes import Bar, bars, radar
from tmde_ui.kit.elements import Tag
from tmde_ui.kit.names import name_of

TOP = 10.0

FEWEST = 3
"""A radar needs at least three corners."""


class DomainCharts:
    """Shows the domains of the newest run next to those of its baseline."""

    def __init__(self) -> None:
        self._shown: object = None
        self._box = Tag("section", classes="stack", aria_label="By domain", data_testid="domains").show(visible=False)
        self._none = Tag("p", "No completed run yet.", "muted")

    def show(self, run: BenchmarkRun | None, baseline: BenchmarkRun | None) -> None:
        """Redraw the charts if the runs have changed."""
        self._box.show(run is not None and run.metrics is not None)
        self._none.show(run is None or run.metrics is None)
        shown = (run and run.id, baseline and baseline.id)
        if run is None or run.metrics is None or shown == self._shown:
            return
        self._shown = shown
        base = _by_domain(baseline)
        domains = sorted(run.metrics.domains, key=lambda one: domain_place(one.domain))
        self._box.clear()
        with self._box:
            Tag("h2", "Quality by domain")
            with Tag("div", classes="sides"):
                with Tag("div", classes="card", data_testid="radar"):
                    self._radar(domains, base, run)
                with Tag("div", classes="card", data_testid="bars"):
                    rows = [_bar(one, base) for one in domains]
                    held = "the base model" if base else ""
                    ui.html(bars(rows, title="Quality of 10, by domain", top=TOP, mark=held), sanitize=False)

    def _radar(self, domains: list[DomainMetrics], base: dict[str, float | None], run: BenchmarkRun) -> None:
        if len(domains) < FEWEST:
            Tag("p", "A run with three or more domains is drawn here as a radar.", "muted small")
            return
        shapes = [(name_of(run.adapter_id), [one.quality.mean for one in domains], "accent")]
        if base:
            shapes.append(("the base model", [base.get(one.domain) for one in domains], "skeptic"))
        names = [domain_name(one.domain) for one in domains]
        ui.html(radar(names, shapes, title="Quality of 10, by domain", top=TOP), sanitize=False)


def _by_domain(run: BenchmarkRun | None) -> dict[str, float | None]:
    return {one.domain: one.quality.mean for one in run.metrics.domains} if run is not None and run.metrics else {}


def _bar(one: DomainMetrics, base: dict[str, float | None]) -> Bar:
    return Bar(domain_name(one.domain), one.quality.mean, one.quality.low, one.quality.high, base.get(one.domain))
