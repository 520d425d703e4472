"""Build the state of a benchmark run from its events. Nothing here draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from tmde_core.records.base import Record
from tmde_core.storage.events import TERMINAL, Event

ANSWERS_KEPT = 100


class Answered(Record):
    """One finished answer."""

    question_id: str
    domain: str
    score: float | None
    """0–10; None if there is no verdict."""
    status: str


class BenchmarkState:
    """The state of a run. The same events always produce the same state."""

    def __init__(self, total: int = 0, done: int = 0, events: Iterable[Event] = ()) -> None:
        self.seen = 0
        """Id of the last applied event."""
        self.total = total
        """Total number of answers."""
        self.done = done
        self.mean: float | None = None
        """Mean quality so far, 0–10."""
        self.eta_seconds: float | None = None
        self.unscored = 0
        self.failed = 0
        self.answers: deque[Answered] = deque(maxlen=ANSWERS_KEPT)
        """The newest answers, in the order of their arrival."""
        self.ended: str | None = None
        for event in events:
            self.apply(event)

    @property
    def share(self) -> float | None:
        """The share of answers that are done, 0–1; None if unknown."""
        return min(1.0, self.done / self.total) if self.total else None

    def apply(self, event: Event) -> None:
        """Apply one event. Ignore events that were applied before."""
        if event.id <= self.seen:
            return
        self.seen = event.id
        data = event.data
        if event.type == "start":
            self.total, self.done = int(data.get("total", self.total)), int(data.get("done", self.done))
        elif event.type == "progress":
            self._progress(data)
        elif event.type in TERMINAL:
            self.ended = event.type

    def counted(self, done: int, total: int) -> None:
        """Apply the counts of the run's row, for a run whose events are in another process."""
        self.done, self.total = max(self.done, done), total

    def _progress(self, data: dict[str, Any]) -> None:
        self.done, self.total = int(data["done"]), int(data["total"])
        self.mean, self.eta_seconds = data.get("meanScore"), data.get("etaSeconds")
        status = str(data.get("status", ""))
        self.unscored += status == "unscored"
        self.failed += status == "failed"
        self.answers.append(
            Answered(
                question_id=str(data.get("questionId", "")),
                domain=str(data.get("domain", "")),
                score=data.get("score"),
                status=status,
            )
        )
