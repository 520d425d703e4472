"""Describes traces: immutable records of finished debates, with people's later feedback."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record
from tmde_core.records.chat import FinishReason
from tmde_core.records.debate import Exchange, Round

Rating = Annotated[int, Meta(ge=1, le=10)]
Score = Annotated[float, Meta(ge=0, le=10)]


class RoleModel(Record):
    """The model that played a role."""

    runtime: str
    model: str


class Timings(Record):
    """Milliseconds spent in each part."""

    total_ms: float = 0.0
    retrieval_ms: float = 0.0
    synthesis_ms: float = 0.0
    scoring_ms: float = 0.0


class TokenCounts(Record):
    """Tokens over all model calls of the debate."""

    prompt: int = 0
    cached: int = 0
    """The part of `prompt` that came from the prompt cache."""
    completion: int = 0


class Trace(Record):
    """One finished debate."""

    id: UUID
    created_at: datetime
    query: str
    final_answer: str
    finish_reason: FinishReason | None = None
    """Why the final answer ended; None: unknown. `length` and `content_filter`: the answer was cut."""
    domain: str | None = None
    rounds: tuple[Round, ...] = ()
    early_stopped: bool = False
    stop_reason: str = ""
    auto_score: float | None = None
    """The judge's score, 0–10; None: no verdict, which is never 0."""
    judge: str | None = None
    score_reasons: tuple[str, ...] = ()
    user_rating: int | None = None
    """1–10."""
    corrected_answer: str | None = None
    """The right answer according to a person. Training uses it instead of `final_answer`, whatever the scores of
    `final_answer`."""
    withdrawn_at: datetime | None = None
    withdrawn_reason: str | None = None
    models: dict[str, RoleModel] = msgspec.field(default_factory=dict)
    """Role → model."""
    adapter_id: str | None = None
    templates_used: tuple[str, ...] = ()
    timings: Timings = Timings()
    tokens: TokenCounts = TokenCounts()
    follows: UUID | None = None
    """The trace that the question follows up."""
    earlier: tuple[Exchange, ...] = ()
    """The earlier questions and answers that the models saw with this question, the oldest first."""
    source: str = "api"
    """api, cli, ui, import, loop or benchmark."""
    synthesizer_thought: str = ""
    """What the Synthesizer thought before the final answer. The thoughts of the other roles are in the rounds."""

    @property
    def quality_score(self) -> float | None:
        """The score that counts for training: the person's rating if there is one, else the judge's score."""
        return float(self.user_rating) if self.user_rating is not None else self.auto_score


class Eligibility(Record, frozen=True):
    """Which traces may be used for training."""

    min_quality: float
    """The lowest quality score that is sufficient."""
    use_cut_answers: bool = False
    """Whether an answer that was cut off may be used although no person has rated or corrected it."""


class TraceFilter(Record):
    """The conditions that requested traces must meet."""

    q: str | None = None
    min_quality: float | None = None
    rated: bool | None = None
    eligible: bool | None = None
    """Whether the score is at least `min_quality_score` of the settings or a person has corrected the answer, the trace
    is not withdrawn and not from a benchmark, and the answer is whole, or a person has rated or corrected it, or
    `cut_answers` of the settings is `use`."""
    source: str | None = None


class TracePage(Record):
    """One page of traces, newest first."""

    items: tuple[Trace, ...]
    total: int
    next_cursor: str | None = None


class TraceStats(Record):
    """Statistics of all traces."""

    total: int
    eligible: int
    rated: int
    withdrawn: int
    by_domain: dict[str, int]
    since_last_run: int
    """Eligible traces that were created after the last completed training run began."""
    cut: int = 0
    """Traces that are good enough but not eligible, because their answer was cut off and no person has rated or
    corrected it."""


class SkippedLine(Record):
    """A line that an import skipped, and why."""

    line: int
    reason: str


class ImportReport(Record):
    """The result of an import."""

    imported: int
    skipped: tuple[SkippedLine, ...] = ()
    """The skipped lines in order, at most the first 10,000."""
    skipped_total: int = 0
    already_here: int = 0
    """The skipped lines whose traces are already here. An import can be told to store copies of them."""


class Withdrawal(Record):
    """The result of a withdrawal: the trace, and the runs and adapters that learned from it."""

    trace: Trace
    runs: tuple[UUID, ...] = ()
    adapters: tuple[UUID, ...] = ()


class Deletion(Record):
    """The result of deleting traces: the traces, and the runs and adapters that learned from them."""

    deleted: tuple[UUID, ...]
    runs: tuple[UUID, ...] = ()
    adapters: tuple[UUID, ...] = ()


TraceSource = Literal["api", "cli", "ui", "import", "loop", "benchmark"]
