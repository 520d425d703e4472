"""Who wants to see a loop going on."""

from __future__ import annotations


class Watcher:
    """Is told how far the loop is. Every method may be overridden; none has to be."""

    def step(self, name: str, total: int, done: int) -> None:
        """A step begins: `total` pieces of work, of which `done` were done before."""

    def piece(self, right: bool | None) -> None:
        """One piece is done; None where right and wrong do not apply."""

    def training(self, step: int, total: int, loss: float | None, eta_seconds: float | None) -> None:
        """Training is at `step` of `total`."""
