"""Defines the interface by which a loop reports its progress."""

from __future__ import annotations


class LoopProgress:
    """Receives the progress of a loop. Every method does nothing unless a subclass overrides it."""

    def step(self, name: str, total: int, done: int) -> None:
        """Report the start of a step with `total` pieces of work, of which `done` are already finished."""

    def piece(self, right: bool | None) -> None:
        """Report a finished piece of work. `right` is None if the piece has no right or wrong result."""

    def training(self, step: int, total: int, loss: float | None, eta_seconds: float | None) -> None:
        """Report that training has finished `step` of `total` steps."""
