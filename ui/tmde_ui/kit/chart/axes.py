"""Axes of charts: their ends, their labels, and the position of a value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

Point = tuple[float, float]

_DAY = 86_400.0
_TIME_STEPS = (
    *(60.0 * minutes for minutes in (1, 5, 15, 30, 60, 180, 360, 720)),
    *(_DAY * days for days in (1, 2, 3, 4, 7, 14)),
)


def ticks(low: float, high: float, at_most: int = 5, *, whole: bool = False) -> list[float]:
    """Return round numbers from `low` to `high` at equal distances: 1, 2 or 5 times a power of ten.

    Args:
        whole: return whole numbers only.
    """
    step = _step(high - low, at_most, whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def time_ticks(low: float, high: float, at_most: int = 6) -> list[tuple[float, str]]:
    """Return the labels of a time axis and their positions: at round hours, days, months or years, in UTC.

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


def format_tick(value: float, step: float) -> str:
    """Return a number with as many decimals as ticks `step` apart need."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{min(decimals, 9)}f}"


def _moment(seconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


class Place:
    """Computes the position of a value in a box of 100 by 100. As in SVG, y increases downwards."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        self._left, self._width = left, right - left
        self._top, self._height = top, top - bottom

    def x(self, value: float) -> str:
        """Return the distance from the left."""
        return f"{100 * (value - self._left) / self._width:.2f}"

    def y(self, value: float) -> str:
        """Return the distance from the top."""
        return f"{100 * (self._top - value) / self._height:.2f}"


def span(values: Sequence[float], least: tuple[float, float] | None) -> tuple[float, float]:
    """Return the lowest and the highest value, widened to include `least` and never equal to each other."""
    low, high = min(values), max(values)
    if least is not None:
        low, high = min(low, least[0]), max(high, least[1])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def round_axis(values: Sequence[float], least: tuple[float, float] | None) -> tuple[float, float, list[float]]:
    """Return the ends of an axis that begins and ends at a tick, and its ticks."""
    low, high = span(values, least)
    step = _step(high - low, 4, False)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return low, high, ticks(low, high, at_most=6)


def _step(width: float, at_most: int, whole: bool) -> float:
    rough = width / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return max(1.0, step) if whole else step
