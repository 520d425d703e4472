"""What a debate is made of: its configuration, its rounds, and the Skeptic's critique."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from tmde_core.records.base import Record

Severity = Literal["minor", "major", "critical"]
Role = Literal["proposer", "skeptic", "synthesizer", "judge"]
DebateStatus = Literal["running", "completed", "failed", "cancelled", "interrupted"]


class Issue(Record, frozen=True):
    """One thing that the Skeptic finds wrong."""

    severity: Severity
    text: str


class Critique(Record, frozen=True):
    """The Skeptic's answer, as data."""

    issues: tuple[Issue, ...] = ()
    score: float | None = None
    """How good the proposal is, 0–10; None when the model gave none."""
    verdict: Literal["accept", "revise"] | None = None
    malformed: bool = False
    """The model broke the schema; what could be read is kept, and the debate goes on without early stop."""


class Round(Record, frozen=True):
    """One exchange. Times in milliseconds."""

    number: int
    proposal: str
    critique: Critique | None = None
    critique_text: str = ""
    """The Skeptic's words as they came."""
    proposer_ms: float = 0.0
    skeptic_ms: float = 0.0


class DebateConfig(Record, frozen=True):
    """What `POST /api/debates` may set for one debate; what is left out comes from the settings."""

    min_rounds: Annotated[int, Meta(ge=1, le=10)] | None = None
    max_rounds: Annotated[int, Meta(ge=1, le=10)] | None = None
    accept_score: Annotated[float, Meta(ge=0, le=10)] | None = None
    templates: Annotated[int, Meta(ge=0, le=5)] | None = None
    synthesis: Literal["always", "when-disputed", "never"] | None = None
    judge: str | None = None
    domain: Annotated[str, Meta(max_length=60)] | None = None
    reference: Annotated[str, Meta(max_length=4_000)] | None = None
    """The right answer, where it is known: the verifier then scores the debate."""
    check: Literal["number", "choice", "exact", "contains", "regex"] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    """Token budget of Proposer and Synthesizer."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Temperature of the Proposer."""


class Debate(Record, frozen=True):
    """A debate's state, as `GET /api/debates/{id}` shows it."""

    id: UUID
    query: str
    status: DebateStatus
    created_at: datetime
    ended_at: datetime | None = None
    config: DebateConfig = DebateConfig()
    rounds: tuple[Round, ...] = ()
    templates_used: tuple[str, ...] = ()
    final_answer: str | None = None
    trace_id: UUID | None = None
    adapter_id: str | None = None
    error_message: str | None = None
    source: str = "api"
