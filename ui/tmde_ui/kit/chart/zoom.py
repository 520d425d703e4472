"""A chart with zoom: drag to zoom in, point to read a run, click to open a run, by pointer or keyboard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nicegui import events
from nicegui.element import Element

Readable = tuple[float, float, str]
"""Position of a point in the plot, 0–1 from the left and from the top, and its text."""


class Zoom(Element, component="zoom.js"):
    """Shows the markup of `chart.chart` and reports what a person does with the chart.

    Args:
        label: what the chart shows, for screen readers.
        hint: what a pointer can do.
        keys: what the keyboard can do, shown while the chart has the focus.
        zoomed: called with the part of the chart that was dragged over.
        opened: called with the number of the chosen point.
    """

    def __init__(
        self,
        label: str,
        hint: str,
        keys: str,
        zoomed: Callable[[float, float], None],
        opened: Callable[[int], Awaitable[None] | None],
    ) -> None:
        super().__init__()
        self._props.update(markup="", label=label, hint=hint, keys=keys, points=[])

        def zoom(event: events.GenericEventArguments) -> None:
            if (part := _part(event.args)) is not None:
                zoomed(*part)

        async def open_(event: events.GenericEventArguments) -> None:
            number = event.args[0] if isinstance(event.args, list) and event.args else event.args
            if isinstance(number, int) and 0 <= number < len(self._props["points"]):
                told = opened(number)
                if told is not None:
                    await told

        self.on("zoom", zoom)
        self.on("open", open_)

    def put(self, markup: str, points: Sequence[Readable]) -> None:
        """Show another chart."""
        told = [[round(x, 4), round(y, 4), words] for x, y, words in points]
        if markup != self._props["markup"] or told != self._props["points"]:
            self._props.update(markup=markup, points=told)
            self.update()


def _part(args: Any) -> tuple[float, float] | None:
    """Return the dragged part of the chart, or None if the browser sent anything else."""
    while isinstance(args, list) and len(args) == 1:
        args = args[0]
    if isinstance(args, list) and len(args) == 2 and all(isinstance(one, int | float) for one in args):
        low, high = max(0.0, float(args[0])), min(1.0, float(args[1]))
        return (low, high) if low < high else None
    return None
