"""Show the score over time: each run as a point with its interval, and a mark at each activation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nicegui import ui

from tmde_core.records.benchmark import ActivationMark, BenchmarkSummary, SeriesPoint
from tmde_ui.benchmark.words import day, format_number, kind
from tmde_ui.kit.chart.axes import time_ticks
from tmde_ui.kit.chart.lines import Band, Mark, Series, chart, thin_out
from tmde_ui.kit.chart.zoom import Readable, Zoom
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.names import name_of, short_name
from tmde_ui.kit.words import count

COLOURS = ("accent", "proposer", "skeptic", "synthesizer", "judge", "major")
"""Colours of the kinds of runs, the most frequent kind first. There are three types and two modes."""

DOTTED = 40
"""A line with at most this many points has a dot on each point."""

LONGEST_MARK = 18
"""Characters of the name of an activated adapter. Longer names collide in the chart."""
LEAST_SECONDS = 60.0
"""Smallest stretch of time that a person can zoom to."""

TOP = 100.0

KEYS = "The left and right arrow keys move between runs, Enter opens a run."

Span = tuple[float, float]


def interval(point: SeriesPoint, weight: float) -> Span | None:
    """Return the run's score at both ends of the 95 % interval of its quality, with the measured efficiency.

    In the formula of `benchmark.metrics`, the score is proportional to the quality to the power `weight`.
    """
    if not point.tmde_score or not point.quality or point.low is None or point.high is None:
        return None
    low, high = (point.tmde_score * (max(0.0, end) / point.quality) ** weight for end in (point.low, point.high))
    return low, min(TOP, high)


class ScoreSeries:
    """The chart of the score, with zoom."""

    def __init__(self, weight: float) -> None:
        self._weight = weight
        self._points: list[SeriesPoint] = []
        self._marks: tuple[ActivationMark, ...] = ()
        self._part: Span | None = None
        """The visible stretch of time; None if all of it is visible."""
        self._readable: list[SeriesPoint] = []
        with Tag("div", classes="card stack tight", data_testid="score-chart"):
            with Tag("div", classes="line spread"):
                self._words = Tag("p", classes="muted small tabular", data_testid="chart-words")
                with Tag("div", classes="line zoom-buttons", role="group", aria_label="Zoom"):
                    self._earlier = button("Earlier", "quiet", test="zoom-earlier")
                    self._later = button("Later", "quiet", test="zoom-later")
                    button("Zoom in", "quiet", test="zoom-closer").on("click", lambda: self._zoomed(0.5, 1.0), args=[])
                    self._all = button("All", "quiet", test="zoom-all").on("click", self._reset, args=[])
            self._earlier.on("click", lambda: self._shift(-0.5), args=[])
            self._later.on("click", lambda: self._shift(0.5), args=[])
            self._chart = Zoom(
                f"Score over time. {KEYS}",
                "Drag to zoom in. Point at a run to read its figures, click it to open it.",
                KEYS,
                self._zoomed,
                self._open,
            )

    def show(self, summary: BenchmarkSummary) -> None:
        """Show these runs."""
        self._points = [point for point in summary.series if point.tmde_score is not None]
        self._marks = summary.activations
        self._draw()

    # -------------------------------------------------------------------------------------- zooming

    @property
    def _whole(self) -> Span:
        times = [*(point.at.timestamp() for point in self._points), *(mark.at.timestamp() for mark in self._marks)]
        low, high = min(times), max(times)
        margin = max(LEAST_SECONDS, 0.02 * (high - low))
        return low - margin, high + margin

    def _zoomed(self, start: float, end: float) -> None:
        low, high = self._part or self._whole
        width = high - low
        self._go(low + start * width, low + end * width)

    def _shift(self, by: float) -> None:
        if self._points and self._part is not None:
            (low, high), (first, last) = self._part, self._whole
            move = min(max(by * (high - low), first - low), last - high)
            self._go(low + move, high + move)

    def _go(self, low: float, high: float) -> None:
        if self._points and high - low >= LEAST_SECONDS:
            self._part = (low, high)
            self._draw()

    def _reset(self) -> None:
        self._part = None
        self._draw()

    def _open(self, number: int) -> None:
        ui.navigate.to(f"/benchmark/{self._readable[number].run_id}")

    # -------------------------------------------------------------------------------------- drawing

    def _draw(self) -> None:
        for control in (self._earlier, self._later, self._all):
            control.put(disabled=self._part is None)
        if not self._points:
            self._words.say("")
            self._chart.put(chart((), title="Score over time", nothing="No completed run yet."), ())
            return
        low, high = self._part or self._whole
        shown = [point for point in self._points if low <= point.at.timestamp() <= high]
        lines, bands = self._lines(shown)
        marks = [mark for mark in self._marks if low <= mark.at.timestamp() <= high]
        markup = chart(
            lines,
            title="TMDE score over time",
            bands=bands,
            marks=[Mark(mark.at.timestamp(), _mark_words(mark)) for mark in marks],
            x_label="TMDE score with the 95 % interval of its quality, times in UTC",
            x_span=(low, high),
            y_span=(0, TOP),
            x_ticks=time_ticks(low, high),
            nothing="No run in this period.",
        )
        self._chart.put(markup, self._read(low, high))
        since, until = (day(point.at) for point in (shown[0], shown[-1])) if shown else ("", "")
        told = f"{count(len(shown), 'run')}, {since} to {until}" if len(shown) > 1 else count(len(shown), "run")
        self._words.say(f"{told}; {count(len(marks), 'activation')} marked" if marks else told)

    def _lines(self, shown: Sequence[SeriesPoint]) -> tuple[list[Series], list[Band]]:
        """Return lines and bands for each kind of run, because only runs of one kind are asked in the same way.

        A kind has a line for adapters and a line for the base model, which adapters are compared with.
        """
        kinds: dict[tuple[str, str], dict[bool, list[SeriesPoint]]] = defaultdict(lambda: defaultdict(list))
        for point in shown:
            kinds[point.type, point.mode][point.adapter_id is None].append(point)
        lines, bands = [], []
        self._readable = []
        ranked = sorted(kinds.items(), key=lambda item: -sum(map(len, item[1].values())))
        parts = [
            (colour, run_type, mode, base, points)
            for colour, ((run_type, mode), whose) in zip(COLOURS, ranked, strict=False)
            for base, points in sorted(whose.items())
        ]
        for colour, run_type, mode, base, points in parts:
            by_place = {(point.at.timestamp(), point.tmde_score or 0.0): point for point in points}
            kept = thin_out(list(by_place))
            name = f"{kind(run_type, mode)}: {'the base model' if base else 'adapters'}"
            lines.append(Series(name, tuple(kept), colour, dots=len(kept) <= DOTTED, reference=base))
            ends = ((at, interval(by_place[at, total], self._weight)) for at, total in kept)
            bands.append(Band(tuple((at, *found) for at, found in ends if found is not None), colour))
            self._readable += [by_place[place] for place in kept]
        self._readable.sort(key=lambda point: point.at)
        return lines, bands

    def _read(self, low: float, high: float) -> list[Readable]:
        return [
            ((point.at.timestamp() - low) / (high - low), 1 - (point.tmde_score or 0.0) / TOP, _told(point))
            for point in self._readable
        ]


def _told(point: SeriesPoint) -> str:
    quality = format_number(point.quality)
    if point.low is not None and point.high is not None:
        quality += f" ({point.low:.1f} to {point.high:.1f})"
    return f"{day(point.at)}: {format_number(point.tmde_score)}, quality {quality}; {name_of(point.adapter_id)}, {kind(point.type, point.mode)}"


def _mark_words(mark: ActivationMark) -> str:
    if mark.adapter_id is None:
        return "base"
    name = mark.adapter_name or short_name(mark.adapter_id)
    return name if len(name) <= LONGEST_MARK else f"{name[: LONGEST_MARK - 1]}…"
