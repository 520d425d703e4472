"""Draw charts without axes as markup: radar, bars, columns."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from tmde_core.records.base import Record
from tmde_ui.kit.chart.axes import format_tick

COLUMN_PIXELS = 76
"""Height of the highest bar of a histogram."""

RADIUS = 100.0
"""Radius of a radar, in the units of its own box."""


class Bar(Record):
    """One line of a bar chart."""

    name: str
    value: float | None
    """None if nothing was measured."""
    low: float | None = None
    high: float | None = None
    """With `low`, the ends of the interval."""
    mark: float | None = None
    """A value to compare the bar with."""


def radar(
    names: Sequence[str], shapes: Sequence[tuple[str, Sequence[float | None], str]], *, title: str, top: float
) -> str:
    """Return a radar chart of several values, from 0 in the middle to `top` at the edge; needs at least three names.

    Args:
        shapes: name, a value for each of `names` (None: not measured, drawn in the middle), colour. The first
            one is filled.
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
    """Return horizontal bars from 0 to `top`, each with a whisker for its interval and a stroke for its mark.

    Args:
        mark: the meaning of the strokes; shown below if there are any.
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
    return f'<ul class="bars" aria-label="{html.escape(f"{title}: {spoken}")}">{"".join(map(line, rows))}</ul>{below}'


def columns(values: Sequence[tuple[str, float]], *, title: str, colour: str = "accent", unit: str = "") -> str:
    """Return a histogram: vertical bars on a common base line, each with its name below."""
    most = max((value for _, value in values), default=0) or 1
    bars = "".join(
        f'<li><span class="amount">{format_tick(value, 1) if value else ""}</span>'
        f'<span class="column" style="height:{COLUMN_PIXELS * value / most:.0f}px;background:var(--{colour})"></span>'
        f'<span class="name">{html.escape(name)}</span></li>'
        for name, value in values
    )
    spoken = ", ".join(f"{name}: {format_tick(value, 1)}" for name, value in values if value)
    label = html.escape(f"{title}: {spoken}{f' ({unit})' if unit else ''}")
    return f'<ul class="columns" aria-label="{label}">{bars}</ul>'


def _share(value: float, top: float) -> str:
    return f"{100 * min(1.0, max(0.0, value / top)):.1f}%"


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _around(name: str, x: float, y: float) -> str:
    """Return a name next to the radar's corner at (x, y), on the outer side."""
    anchor = "middle" if abs(x) < 1 else "start" if x > 0 else "end"
    words = name.split(" ") if abs(x) >= 1 else [name]
    top = y + 4 - 8 * (len(words) - 1)
    lines = "".join(
        f'<tspan x="{x:.1f}" y="{top + 16 * number:.1f}">{html.escape(word)}</tspan>'
        for number, word in enumerate(words)
    )
    return f'<text text-anchor="{anchor}">{lines}</text>'
