"""Charts as markup: pure functions from figures to inline SVG.

The lines are drawn in a box of 100 by 100 that the browser stretches to its place, with strokes that keep their width;
numbers and words stand beside it as HTML, so that they keep their size on a phone. Colours are names of `theme.py`, so a
chart follows the scheme without being drawn again.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from tmde_core.record import Record

Point = tuple[float, float]

MAX_POINTS = 600
"""Points of one line that are drawn. A wide screen has some two pixels for each."""


COLUMN_PIXELS = 76
"""Height of a histogram's highest bar."""

LABELLED_MARKS = 6
"""More marks than these stand without their words, which would lie upon each other."""

RADIUS = 100.0
"""Of a radar, in the units of its own box."""


class Series(Record):
    """One line."""

    name: str
    points: tuple[Point, ...]
    """By x. Points that are not finite are left out."""
    colour: str = "accent"
    dots: bool = False
    """Mark every point, and draw the line between them dashed: few measurements, not a course."""


class Band(Record):
    """A ground between two lines, such as an interval."""

    points: tuple[tuple[float, float, float], ...]
    """x, lower, upper."""
    colour: str = "accent"


class Mark(Record):
    """Something that happened at an x."""

    x: float
    label: str


class Bar(Record):
    """One line of a bar chart."""

    name: str
    value: float | None
    """None: nothing was measured."""
    low: float | None = None
    high: float | None = None
    """Ends of its interval."""
    mark: float | None = None
    """What it is held against."""


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
    """Lines over a common x.

    Args:
        title: what is shown; begins the description for those who cannot see it.
        x_span, y_span: at least this much of each axis is shown.
        x_ticks: where the x axis is labelled, and how; by default at round whole numbers.
        nothing: the words where there is no point at all.
    """
    lines = [(one, decimated(_finite(one.points))) for one in series]
    points = [point for _, line in lines for point in line]
    edges = [(x, y) for band in bands for x, low, high in band.points for y in (low, high)]
    shown = _finite((*points, *edges))
    if not shown:
        return _figure(title, [], f'<p class="chart-none">{html.escape(nothing)}</p>', "", "", "")
    left, right = _span([x for x, _ in shown], x_span)
    bottom, top, y_ticks = _rounded([y for _, y in shown], y_span)
    place = _Place(left, right, bottom, top)
    if x_ticks is None:
        x_ticks = [(x, figure(x, 1)) for x in ticks(left, right, whole=True)]
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
        _labels("top", ((place.y(y), figure(y, step)) for y in y_ticks)),
        x_label,
        _mark_labels(marks, place) if len(marks) <= LABELLED_MARKS else "",
    )


def radar(
    names: Sequence[str], shapes: Sequence[tuple[str, Sequence[float | None], str]], *, title: str, top: float
) -> str:
    """Several values around a centre, from 0 in the middle to `top` outside; needs at least three names.

    Args:
        shapes: name, a value for each of `names` (None: not measured, drawn in the middle), colour. The first is filled.
    """

    def at(index: int, reach: float) -> tuple[float, float]:
        angle = 2 * math.pi * index / len(names) - math.pi / 2
        return reach * RADIUS * math.cos(angle), reach * RADIUS * math.sin(angle)

    def polygon(reaches: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(index, reach) for index, reach in enumerate(reaches)))

    rings = "".join(
        f'<polygon class="grid" points="{polygon([share] * len(names))}"/>' for share in (0.25, 0.5, 0.75, 1)
    )
    drawn = "".join(
        f'<polygon class="shape{" filled" if number == 0 else ""}" style="color:var(--{colour})" '
        f'points="{polygon([min(1.0, max(0.0, (value or 0.0) / top)) for value in values])}"/>'
        for number, (_, values, colour) in reversed(list(enumerate(shapes)))
    )
    words = "".join(_around(name, *at(index, 1.12)) for index, name in enumerate(names))
    legend = "".join(
        f'<span><i class="swatch{" dotted" if number else ""}" style="border-color:var(--{colour})"></i>{html.escape(name)}</span>'
        for number, (name, _, colour) in enumerate(shapes)
    )
    spoken = "; ".join(
        f"{shape}: {', '.join(f'{name} {_said(value)}' for name, value in zip(names, values, strict=True))}"
        for shape, values, _ in shapes
    )
    return (
        f'<figure class="radar" role="img" aria-label="{html.escape(f"{title}: {spoken}.")}">'
        f'<figcaption class="legend">{legend}</figcaption>'
        f'<svg viewBox="-178 -124 356 222" aria-hidden="true">{rings}{drawn}{words}</svg></figure>'
    )


def bars(rows: Sequence[Bar], *, title: str, top: float, mark: str = "", colour: str = "accent") -> str:
    """Lying bars from 0 to `top`, each with its interval as a whisker and a stroke at what it is held against.

    Args:
        mark: what the strokes stand for; said below when there are any.
    """

    def line(row: Bar) -> str:
        value = 0.0 if row.value is None else row.value
        drawn = f'<i class="fill" style="width:{_share(value, top)};background:var(--{colour})"></i>'
        if row.low is not None and row.high is not None:
            drawn += (
                f'<i class="whisker" style="left:{_share(row.low, top)};width:{_share(row.high - row.low, top)}"></i>'
            )
        if row.mark is not None:
            drawn += f'<i class="held" style="left:{_share(row.mark, top)}"></i>'
        return (
            f'<li><span class="name">{html.escape(row.name)}</span><span class="track">{drawn}</span>'
            f'<span class="amount">{_said(row.value)}</span></li>'
        )

    spoken = ", ".join(f"{row.name} {_said(row.value)}" for row in rows)
    below = f'<p class="bars-mark"><i class="held"></i>{html.escape(mark)}</p>' if mark else ""
    return f'<ul class="bars" role="img" aria-label="{html.escape(f"{title}: {spoken}")}">{"".join(map(line, rows))}</ul>{below}'


def time_ticks(low: float, high: float, at_most: int = 6) -> list[tuple[float, str]]:
    """Where a time axis is labelled, and how: at round hours, days, months or years, UTC.

    Args:
        low, high: seconds since 1970.
    """
    width = high - low
    step = next((step for step in _TIME_STEPS if width / step <= at_most), None)
    if step is not None:
        first = math.ceil(low / step)
        places = (number * step for number in range(first, int(high // step) + 1))
        return [(at, _moment(at).strftime("%H:%M" if at % _DAY else "%-d %b")) for at in places]
    months = next((n for n in (1, 3, 6) if width / (n * 30 * _DAY) <= at_most), None) or 12 * math.ceil(
        width / (365 * _DAY) / at_most
    )
    found, moment = [], _moment(low)
    year, month = moment.year, 1
    while (at := datetime(year, month, 1, tzinfo=UTC).timestamp()) <= high:
        if at >= low:
            found.append((at, f"{_moment(at):%b %Y}" if months < 12 else str(year)))
        year, month = year + (month - 1 + months) // 12, (month - 1 + months) % 12 + 1
    return found


def columns(values: Sequence[tuple[str, float]], *, title: str, colour: str = "accent", unit: str = "") -> str:
    """A histogram: upright bars over a common ground, each with its name below."""
    most = max((value for _, value in values), default=0) or 1
    bars = "".join(
        f'<li><span class="amount">{figure(value, 1) if value else ""}</span>'
        f'<span class="column" style="height:{COLUMN_PIXELS * value / most:.0f}px;background:var(--{colour})"></span>'
        f'<span class="name">{html.escape(name)}</span></li>'
        for name, value in values
    )
    spoken = ", ".join(f"{name}: {figure(value, 1)}" for name, value in values if value)
    label = html.escape(f"{title}: {spoken}{f' ({unit})' if unit else ''}")
    return f'<ul class="columns" role="img" aria-label="{label}">{bars}</ul>'


def decimated(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` of the points, in their order, such that no peak is lost: the lowest and the highest of each stretch.

    The first and the last are always among them.
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


def ticks(low: float, high: float, at_most: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`, evenly apart: by 1, 2 or 5 times a power of ten.

    Args:
        whole: none between the whole numbers.
    """
    step = _step(high - low, at_most, whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def figure(value: float, step: float) -> str:
    """A number with as many decimals as ticks `step` apart need."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{min(decimals, 9)}f}"


_DAY = 86_400.0
_TIME_STEPS = (
    *(60.0 * minutes for minutes in (1, 5, 15, 30, 60, 180, 360, 720)),
    *(_DAY * days for days in (1, 2, 3, 4, 7, 14)),
)


def _moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def _share(value: float, top: float) -> str:
    return f"{100 * min(1.0, max(0.0, value / top)):.1f}%"


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _around(name: str, x: float, y: float) -> str:
    """A name beside the radar's corner at (x, y), on its outer side."""
    anchor = "middle" if abs(x) < 1 else "start" if x > 0 else "end"
    words = name.split(" ") if abs(x) >= 1 else [name]
    top = y + 4 - 8 * (len(words) - 1)
    lines = "".join(
        f'<tspan x="{x:.1f}" y="{top + 16 * number:.1f}">{html.escape(word)}</tspan>'
        for number, word in enumerate(words)
    )
    return f'<text text-anchor="{anchor}">{lines}</text>'


def _mark_labels(marks: Sequence[Mark], place: _Place) -> str:
    """Each beside its mark; to the left of it where the right edge is near."""
    return "".join(
        f'<span{" class=before" if float(place.x(mark.x)) > 75 else ""} style="left:{place.x(mark.x)}%">'
        f"{html.escape(mark.label)}</span>"
        for mark in marks
    )


class _Place:
    """Where a value lies in the box of 100 by 100; y goes down, as in SVG."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        self._left, self._width = left, right - left
        self._top, self._height = top, top - bottom

    def x(self, value: float) -> str:
        return f"{100 * (value - self._left) / self._width:.2f}"

    def y(self, value: float) -> str:
        return f"{100 * (self._top - value) / self._height:.2f}"


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _span(values: Sequence[float], least: tuple[float, float] | None) -> tuple[float, float]:
    low, high = min(values), max(values)
    if least is not None:
        low, high = min(low, least[0]), max(high, least[1])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _rounded(values: Sequence[float], least: tuple[float, float] | None) -> tuple[float, float, list[float]]:
    """An axis from one tick to another."""
    low, high = _span(values, least)
    step = _step(high - low, 4, False)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high, ticks(low, high, at_most=6)


def _step(width: float, at_most: int, whole: bool) -> float:
    rough = width / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return max(1.0, step) if whole else step


def _path(points: Sequence[Point], place: _Place) -> str:
    return "M" + "L".join(f"{place.x(x)} {place.y(y)}" for x, y in points)


def _line(series: Series, points: Sequence[Point], place: _Place) -> list[str]:
    if not points:
        return []
    style = f'style="stroke:var(--{series.colour})"'
    drawn = [f'<path class="line{" dashed" if series.dots else ""}" {style} d="{_path(points, place)}"/>']
    if series.dots or len(points) == 1:
        # A line of no length with round ends: a circle that the stretching of the box leaves round.
        at = "".join(f"M{place.x(x)} {place.y(y)}h0.001" for x, y in points)
        drawn.append(f'<path class="dots" {style} d="{at}"/>')
    return drawn


def _band(band: Band, place: _Place) -> str:
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
        f'<span><i class="{"swatch dotted" if one.dots else "swatch"}" style="border-color:var(--{one.colour})"></i>'
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
    """The chart in a sentence: where each line begins and ends."""

    def course(one: Series) -> str:
        points = _finite(one.points)
        return f"{one.name} from {points[0][1]:.3g} to {points[-1][1]:.3g}"

    return f"{title}: {'; '.join(map(course, series)) or 'nothing measured yet'}."
