"""Show the TMDE score, the quality, and the change since earlier runs with its uncertainty."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

from tmde_core.benchmark.results.report import difference_words
from tmde_core.records.benchmark import BenchmarkRun, BenchmarkSummary, RunComparison
from tmde_ui.benchmark.compare.pairs import Pair, list_pairs
from tmde_ui.benchmark.panel import answers_words
from tmde_ui.benchmark.words import OUTCOMES, between, change, day, format_number, kind
from tmde_ui.kit.elements import Tag, button, link
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.times import age, exact


class ScoreLine:
    """Shows the newest run of the active version, or else the newest run that matches the filters."""

    def __init__(
        self, measure_base: Callable[[BenchmarkRun], Awaitable[None]], compare: Callable[[Pair], Awaitable[None]]
    ) -> None:
        self._measure_base = measure_base
        self._compare = compare
        self._shown: object = None
        self._box = Tag("section", classes="card score-line", aria_label="TMDE score", data_testid="score-line")

    def show(self, summary: BenchmarkSummary) -> None:
        """Redraw the line if it has changed."""
        run = summary.current
        self._box.show(run is not None)
        shown = (run, summary.answering, summary.vs_baseline, summary.vs_previous)
        if run is None or run.metrics is None or shown == self._shown:
            return
        self._shown = shown
        self._box.clear()
        with self._box:
            with Tag("div", classes="stack tight score-now"):
                self._now(run, summary.answering)
            with Tag("div", classes="versus"):
                baseline, previous = summary.vs_baseline, summary.vs_previous
                if baseline is not None and previous is not None and baseline.a.id == previous.a.id:
                    # The previous run is the baseline: one comparison says everything.
                    self._versus("v. baseline, the previous run", baseline, self._without_baseline(run), "vs-baseline")
                else:
                    self._versus("v. baseline", baseline, self._without_baseline(run), "vs-baseline")
                    self._versus("v. previous", previous, _without_previous(run), "vs-previous")
            for warning in run.warnings:
                Tag("p", warning, "notice warm small")

    def _now(self, run: BenchmarkRun, answering: UUID | None) -> None:
        metrics = run.metrics
        assert metrics is not None
        with Tag("p", classes="line score-figures"):
            with Tag("span", classes="score-big"):
                Tag("strong", format_number(metrics.tmde_score), "score-number tabular", data_testid="tmde-score")
                Tag("span", "of 100", "muted small")
            with Tag("span", classes="score-quality", data_testid="score-quality"):
                Tag("span", f"Quality {format_number(metrics.avg_quality_score)} of 10", "tabular")
                if span := between(metrics.intervals.quality):
                    Tag("span", f"95 % interval {span}", "muted small tabular")
        with Tag("p", classes="muted small"):
            Tag("span", f"{capital(name_of(run.adapter_id))}, {kind(run.type, run.mode)}, ")
            link(age(run.started_at), f"/benchmark/{run.id}", title=exact(run.started_at))
        if run.adapter_id != answering:
            now = capital(name_of(answering))
            Tag(
                "p",
                f"{now} is active. This score belongs to another version.",
                "muted small",
                data_testid="not-answering",
            )
        if words := answers_words(run):
            Tag("p", f"{words}.", "muted small")

    def _versus(self, title: str, found: RunComparison | None, without: Callable[[], None], test: str) -> None:
        with Tag("div", classes="stack tight", data_testid=test):
            Tag("h2", title, "eyebrow")
            if found is None:
                without()
                return
            word, kind_ = OUTCOMES[found.quality.outcome]
            with Tag("p", classes="line"):
                Tag("strong", change(found.score_difference, found.score_low, found.score_high), "difference tabular")
                Tag("span", word, f"chip {kind_}")
            Tag("p", f"Quality {difference_words(found.quality)}", "muted small")
            with Tag("p", classes="line small"):
                link(f"{capital(name_of(found.a.adapter_id))}, {day(found.a.started_at)}", f"/benchmark/{found.a.id}")
                answers = button("Both answers", "quiet", test=f"{test}-answers")
                answers.on("click", lambda: self._compare(_pair(found)), args=[])

    def _without_baseline(self, run: BenchmarkRun) -> Callable[[], None]:
        def draw() -> None:
            if run.adapter_id is None:
                Tag("p", "This is the base model. Adapters are compared with it.", "muted small")
                return
            Tag("p", "The base model has not answered the same questions yet.", "muted small")
            button("Measure the base model", test="measure-base").on("click", lambda: self._measure_base(run), args=[])

        return draw


def _without_previous(run: BenchmarkRun) -> Callable[[], None]:
    def draw() -> None:
        Tag("p", f"No run before {day(run.started_at)} asked the same questions in the same way.", "muted small")

    return draw


def _pair(found: RunComparison) -> Pair:
    """Return the pair as the choice of comparisons names it."""
    return next(pair for pair in [*list_pairs(found.b), Pair("", "", found.b.id, found.a.id)] if pair.a == found.a.id)
