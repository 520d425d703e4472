"""Build the state of a training run from its events. Nothing here draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from tmde_core.records.base import Record
from tmde_core.records.finetune import TrainingProgress
from tmde_core.storage.events import TERMINAL, Event

MESSAGES_KEPT = 100
MAX_MESSAGE_CHARS = 2_000
"""Limit for one message, because a backend may log anything."""

Points = list[tuple[float, float]]


class Said(Record):
    """A message of the run."""

    step: int | None
    text: str


class TrainingState:
    """The state of a run. The same events always produce the same state, however they are batched."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.seen = 0
        """Id of the last applied event."""
        self.last: TrainingProgress | None = None
        self.train: Points = []
        """Pairs of (step, loss)."""
        self.eval: Points = []
        self.checkpoint: int | None = None
        """The step of the newest complete checkpoint."""
        self.ended: str | None = None
        """complete, error or cancelled; None again if the run continues."""
        self.said: deque[Said] = deque(maxlen=MESSAGES_KEPT)
        for event in events:
            self.apply(event)

    @property
    def share(self) -> float | None:
        """The share of steps that are done, 0–1."""
        return min(1.0, self.last.step / self.last.total_steps) if self.last and self.last.total_steps else None

    @property
    def best(self) -> tuple[float, float] | None:
        """Step and value of the lowest validation loss."""
        return min(self.eval, key=lambda point: point[1], default=None)

    def apply(self, event: Event) -> None:
        """Apply one event. Ignore events that were applied before and events that cannot be read."""
        if event.id <= self.seen:
            return
        self.seen = event.id
        self.ended = event.type if event.type in TERMINAL else None
        if event.type == "progress":
            self._progress(event)
        elif event.type == "eval":
            self._eval(event)
        elif event.type == "checkpoint":
            step = event.data.get("step")
            self.checkpoint = step if isinstance(step, int) else self.checkpoint
        elif event.type == "log":
            self._say(event.data.get("text"))
        elif event.type == "error":
            self._say(event.data.get("detail"))

    def _progress(self, event: Event) -> None:
        try:
            progress = msgspec.convert(event.data, TrainingProgress)
        except msgspec.ValidationError:
            return
        if self.last is not None and progress.step < self.last.step:
            self._back_to(progress.step)
        self.last = progress
        if progress.loss is not None:
            if self.train and self.train[-1][0] == progress.step:
                self.train.pop()
            self.train.append((progress.step, progress.loss))
        # A step tells the last validation loss again, which is no new measurement.
        if progress.eval_loss is not None and (not self.eval or self.eval[-1][1] != progress.eval_loss):
            self._add_eval(progress.step, progress.eval_loss)

    def _back_to(self, step: int) -> None:
        """Drop the points from this step on. The run repeats them after resuming from a checkpoint or starting anew."""
        self.train = [point for point in self.train if point[0] < step]
        self.eval = [point for point in self.eval if point[0] < step]

    def _eval(self, event: Event) -> None:
        step, loss = event.data.get("step"), event.data.get("evalLoss")
        if isinstance(step, int) and isinstance(loss, int | float):
            self._add_eval(step, float(loss))

    def _add_eval(self, step: int, loss: float) -> None:
        """Add a validation loss once. It arrives twice: in the event `eval` and in the step's progress."""
        self.eval = [point for point in self.eval if point[0] != step]
        self.eval.append((step, loss))

    def _say(self, text: object) -> None:
        if isinstance(text, str) and text.strip():
            step = self.last.step if self.last else None
            self.said.append(Said(step=step, text=text.strip()[:MAX_MESSAGE_CHARS]))
