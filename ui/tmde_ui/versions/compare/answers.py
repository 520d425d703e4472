"""Build the answers of several versions to one question from events. Nothing here draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tmde_core.records.chat import describe_cut
from tmde_core.storage.events import Event

AnswerPhase = Literal["waiting", "writing", "done", "failed"]


@dataclass
class VersionAnswer:
    """The answer of one version so far."""

    text: str = ""
    thought: str = ""
    """What a thinking model thought before the answer."""
    cut: str | None = None
    """How the answer was cut off, in a sentence; None: it was not."""
    phase: AnswerPhase = "waiting"
    problem: str = ""
    """Why the answer failed."""
    ms: float | None = None
    tokens: int | None = None


class VersionAnswers:
    """The answers to a question. The same events always produce the same state, however they are batched."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.seen = 0
        """Id of the last applied event."""
        self.question = ""
        self.of: dict[str | None, VersionAnswer] = {}
        """Adapter id, or None for the base model → its answer, in the order of the request."""
        self.ended = False
        self.problem = ""
        """Why no version answered."""
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Apply one event. Ignore events that were applied before."""
        if event.id <= self.seen:
            return
        self.seen = event.id
        data = event.data
        if event.type == "start":
            self.question = data["question"]
            self.of = {version: VersionAnswer() for version in data["versions"]}
        elif event.type in ("complete", "error", "cancelled"):
            self._end(event)
        else:
            answer = self.of.setdefault(data.get("version"), VersionAnswer())
            if event.type == "token":
                answer.phase = "writing"
                answer.text += data["text"]
            elif event.type == "revised":
                answer.phase, answer.text, answer.thought = "writing", data["text"], data["thought"]
            elif event.type == "thought":
                answer.phase = "writing"
                answer.thought += data["text"]
            elif event.type == "answer":
                answer.phase, answer.text = "done", data["text"]
                answer.ms, answer.tokens = data["ms"], data["tokens"]
                answer.thought = data.get("thought", answer.thought)
                answer.cut = describe_cut(data.get("finishReason"))
            elif event.type == "failed":
                answer.phase, answer.problem = "failed", data["detail"]

    def _end(self, event: Event) -> None:
        self.ended = True
        if event.type == "error":
            self.problem = event.data.get("detail", "")
        elif event.type == "cancelled":
            self.problem = "It ended before all versions had answered."
        for answer in self.of.values():
            if answer.phase in ("waiting", "writing"):
                answer.phase, answer.problem = "failed", self.problem
