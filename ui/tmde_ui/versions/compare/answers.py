"""One question answered by several versions, put together from its events. Nothing here draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tmde_core.storage.events import Event

Phase = Literal["waiting", "writing", "done", "failed"]


@dataclass
class Answer:
    """What one version has said so far."""

    text: str = ""
    phase: Phase = "waiting"
    problem: str = ""
    """Why it failed."""
    ms: float | None = None
    tokens: int | None = None


class Answers:
    """Where a question stands. The same events always give the same state, however they arrive."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.seen = 0
        """Id of the last event that was applied."""
        self.question = ""
        self.of: dict[str | None, Answer] = {}
        """Adapter's id, or None for the base model → its answer, in the order asked."""
        self.ended = False
        self.problem = ""
        """Why nobody answered."""
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take in one event; those that were seen before change nothing."""
        if event.id <= self.seen:
            return
        self.seen = event.id
        data = event.data
        if event.type == "start":
            self.question = data["question"]
            self.of = {version: Answer() for version in data["versions"]}
        elif event.type in ("complete", "error", "cancelled"):
            self._end(event)
        else:
            answer = self.of.setdefault(data.get("version"), Answer())
            if event.type == "token":
                answer.phase = "writing"
                answer.text += data["text"]
            elif event.type == "answer":
                answer.phase, answer.text = "done", data["text"]
                answer.ms, answer.tokens = data["ms"], data["tokens"]
            elif event.type == "failed":
                answer.phase, answer.problem = "failed", data["detail"]

    def _end(self, event: Event) -> None:
        self.ended = True
        if event.type == "error":
            self.problem = event.data.get("detail", "")
        elif event.type == "cancelled":
            self.problem = "It was ended before everybody had answered."
        for answer in self.of.values():
            if answer.phase in ("waiting", "writing"):
                answer.phase, answer.problem = "failed", self.problem
