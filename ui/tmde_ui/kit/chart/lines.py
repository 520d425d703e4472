"""Draw line charts as markup: pure functions from figures to inline SVG.

The lines are drawn in a box of 100 by 100. The browser stretches the box to its place; strokes keep their width.
Numbers and words are HTML next to the box, so they keep their size on a phone. Colours are names from `theme.py`, so a
chart changes with the colour scheme without being redrawn.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from tmde_core.records.base import Record
from tmde_ui.kit.chart.axes import Place, Point, format_tick, round_axis, span, ticks

MAX_POINTS = 600
"""Maximum number of points drawn for one line. A wide screen has about two pixels for each."""

LABEL_PERCENT = 16.0
"""The width that a mark's label may need, percent of the chart's width: an id of eight characters on a narrow page."""

LABEL_ROWS = 3
"""Labels that would overlap are put into the next row. A label that fits in no row is left out."""


class Series(Record):
    """One line."""

    name: str
    points: tuple[Point, ...]
    """Sorted by x. Points that are not finite are left out."""
    colour: str = "accent"
    dots: bool = False
    """Mark every point and dash the line between them, for a few measurements instead of a continuous curve."""
    reference: bool = False
    """Draw rings and a dotted line, for what other lines are compared with."""


class Band(Record):
    """The area between two lines, such as an interval."""

    points: tuple[tuple[float, float, float], ...]
    """x, lower, upper."""
    colour: str = "accent"


class Mark(Record):
    """An event at an x."""

    x: float
    label: str


def chart(
    series: Sequence[Series],
    *,
    title: str,
    bands: Sequence[Band] = (),
    marks: Sequence[Mark] = (),
    x_label: str = "",
    x_span: tuple[float, float] | None = None,
    y_span: tuple[float, float] | None = None,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    nothing: str = "Nothing has been measured yet.",
) -> str:
    """Return a chart of lines over a common x axis.

    Args:
        title: what the chart shows; the description for screen readers begins with it.
        x_span, y_span: the minimum range of each axis.
        x_ticks: positions and labels of the x axis; round whole numbers by default.
        nothing: the text of a chart without any point.
    """
    lines = [(one, thin_out(_finite(one.points))) for one in series]
    points = [point for _, line in lines for point in line]
    edges = [(x, y) for band in bands for x, low, high in band.points for y in (low, high)]
    shown = _finite((*points, *edges))
    if not shown:
        return _figure(title, [], f'<p class="chart-none">{html.escape(nothing)}</p>', "", "", "")
    left, right = span([x for x, _ in shown], x_span)
    bottom, top, y_ticks = round_axis([y for _, y in shown], y_span)
    place = Place(left, right, bottom, top)
    if x_ticks is None:
        x_ticks = [(x, format_tick(x, 1)) for x in ticks(left, right, whole=True)]
    step = y_ticks[1] - y_ticks[0]
    drawn = [f'<path class="grid" d="{"".join(f"M0 {place.y(y)}H100" for y in y_ticks)}"/>']
    drawn += [_band(band, place) for band in bands]
    drawn += [f'<path class="mark" d="M{place.x(mark.x)} 0V100"/>' for mark in marks]
    drawn += [part for one, line in lines for part in _line(one, line, place)]
    return _figure(
        title,
        [one for one, line in lines if line],
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>',
        _labels("left", ((place.x(x), words) for x, words in x_ticks if left <= x <= right)),
        _labels("top", ((place.y(y), format_tick(y, step)) for y in y_ticks)),
        x_label,
        _mark_labels(marks, place),
    )


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most `limit` of the points, in order, without losing a peak.

    The lowest and the highest point of each stretch are kept, and always the first and the last point.
    """
    if len(points) <= limit:
        return list(points)
    stretches = max(1, (limit - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(stretches):
        stretch = inner[len(inner) * number // stretches : len(inner) * (number + 1) // stretches]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return [*kept, points[-1]]


def _mark_labels(marks: Sequence[Mark], place: Place) -> str:
    """Return the labels next to their marks, the newest first; on the left side near the right edge."""
    taken: list[list[tuple[float, float]]] = [[] for _ in range(LABEL_ROWS)]
    drawn = []
    for mark in sorted(marks, key=lambda mark: -mark.x):
        at = float(place.x(mark.x))
        before = at > 75
        low, high = (at - LABEL_PERCENT, at) if before else (at, at + LABEL_PERCENT)
        for number, row in enumerate(taken):
            if all(high <= start or low >= end for start, end in row):
                row.append((low, high))
                drawn.append(
                    f'<span class="row-{number}{" before" if before else ""}" style="left:{place.x(mark.x)}%">'
                    f"{html.escape(mark.label)}</span>"
                )
                break
    return "".join(drawn)


def _finite(points: Iterable[Point]) -> list[Point]:
    return [point for point in points if _is_finite(point)]


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _path(points: Sequence[Point], place: Place) -> str:
    return "M" + "L".join(f"{place.x(x)} {place.y(y)}" for x, y in points)


def _line(series: Series, points: Sequence[Point], place: Place) -> list[str]:
    if not points:
        return []
    style = f'style="stroke:var(--{series.colour})"'
    look = " reference" if series.reference else " dashed" if series.dots else ""
    drawn = [f'<path class="line{look}" {style} d="{_path(points, place)}"/>']
    if series.dots or len(points) == 1:
        # A line of length zero with round ends is a circle that stays round when the box is stretched.
        at = "".join(f"M{place.x(x)} {place.y(y)}h0.001" for x, y in points)
        drawn.append(f'<path class="dots" {style} d="{at}"/>')
        if series.reference:
            drawn.append(f'<path class="holes" d="{at}"/>')
    return drawn


def _band(band: Band, place: Place) -> str:
    sound = [point for point in band.points if all(map(math.isfinite, point))]
    if not sound:
        return ""
    around = [(x, high) for x, _, high in sound] + [(x, low) for x, low, _ in reversed(sound)]
    return f'<path class="band" style="fill:var(--{band.colour})" d="{_path(around, place)}Z"/>'


def _labels(side: str, places: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<span style="{side}:{at}%">{html.escape(words)}</span>' for at, words in places)


def _figure(
    title: str, series: Sequence[Series], plot: str, x_axis: str, y_axis: str, x_label: str, marks: str = ""
) -> str:
    legend = "".join(
        f'<span><i class="swatch{" reference" if one.reference else " dotted" if one.dots else ""}" style="border-color:var(--{one.colour})"></i>'
        f"{html.escape(one.name)}</span>"
        for one in series
    )
    return (
        f'<figure class="chart" role="img" aria-label="{html.escape(_spoken(title, series))}">'
        f'<figcaption class="legend">{legend}<span class="of-x">{html.escape(x_label)}</span></figcaption>'
        f'<div class="chart-y">{y_axis}</div><div class="plot">{plot}<div class="chart-marks">{marks}</div></div>'
        f'<div class="chart-x">{x_axis}</div></figure>'
    )


def _spoken(title: str, series: Sequence[Series]) -> str:
    """Return a sentence about the chart: the first and the last value of each line."""

    def course(one: Series) -> str:
        first, last = (next(filter(_is_finite, points)) for points in (one.points, reversed(one.points)))
        return f"{one.name} from {first[1]:.3g} to {last[1]:.3g}"

    return f"{title}: {'; '.join(map(course, series)) or 'nothing measured yet'}."
