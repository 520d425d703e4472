"""Describes debates: the configuration, the rounds, and the Skeptic's critique."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from tmde_core.records.base import Record
from tmde_core.records.chat import FinishReason

Severity = Literal["minor", "major", "critical"]
Role = Literal["proposer", "skeptic", "synthesizer", "judge"]
DebateStatus = Literal["running", "completed", "failed", "cancelled", "interrupted"]


class Issue(Record, frozen=True):
    """One mistake that the Skeptic found."""

    severity: Severity
    text: str


class Critique(Record, frozen=True):
    """The Skeptic's answer as data."""

    issues: tuple[Issue, ...] = ()
    score: float | None = None
    """The quality of the proposal, 0–10; None: the model gave no score."""
    verdict: Literal["accept", "revise"] | None = None
    malformed: bool = False
    """Whether the model violated the schema. The readable part is kept, and the debate continues without an early
    stop."""


class Round(Record, frozen=True):
    """One round of a debate. Times are in milliseconds."""

    number: int
    proposal: str
    critique: Critique | None = None
    critique_text: str = ""
    """The Skeptic's unchanged text."""
    proposer_ms: float = 0.0
    skeptic_ms: float = 0.0
    proposer_thought: str = ""
    """What the Proposer thought before the proposal. It is never part of the proposal."""
    skeptic_thought: str = ""
    """What the Skeptic thought before the critique."""
    proposer_finish_reason: FinishReason | None = None
    """Why the proposal ended; None: unknown."""
    skeptic_finish_reason: FinishReason | None = None
    """Why the critique ended; None: unknown."""


class Exchange(Record, frozen=True):
    """An earlier question and its answer, which a question follows up."""

    question: str
    answer: str


class ChosenModel(Record, frozen=True):
    """A model and the runtime that serves it."""

    runtime: Annotated[str, Meta(max_length=80)] = ""
    """The runtime's name; empty: the runtime that the role has in the settings."""
    model: Annotated[str, Meta(max_length=300)] = ""
    """The runtime's own name of the model; empty: its default model."""


class ChosenModels(Record, frozen=True):
    """The models of single roles. Each role without a model here keeps the model of the settings."""

    proposer: ChosenModel | None = None
    """Who proposes. If this is another model than that of the settings, the active adapter does not take part."""
    skeptic: ChosenModel | None = None
    """Who looks for mistakes."""
    synthesizer: ChosenModel | None = None
    """Who writes the final answer."""
    judge: ChosenModel | None = None
    """Who gives the score, if the judge asks a model."""


class DebateConfig(Record, frozen=True):
    """The options of `POST /api/debates` for one debate. Missing values come from the settings."""

    min_rounds: Annotated[int, Meta(ge=1, le=10)] | None = None
    max_rounds: Annotated[int, Meta(ge=1, le=10)] | None = None
    accept_score: Annotated[float, Meta(ge=0, le=10)] | None = None
    templates: Annotated[int, Meta(ge=0, le=5)] | None = None
    synthesis: Literal["always", "when-disputed", "never"] | None = None
    judge: str | None = None
    follows: UUID | None = None
    """The trace that this question follows up. The models see its question and answer, and those before it."""
    model: ChosenModel | None = None
    """Who proposes and writes the final answer. If this is another model than that of the settings, the active adapter
    does not take part."""
    models: ChosenModels | None = None
    """The models of single roles. They go before `model`."""
    domain: Annotated[str, Meta(max_length=60)] | None = None
    reference: Annotated[str, Meta(max_length=4_000)] | None = None
    """The right answer if it is known. The verifier then scores the debate."""
    check: Literal["number", "choice", "exact", "contains", "regex"] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    """Token limit for the Proposer and the Synthesizer."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """The Proposer's temperature."""


class Debate(Record, frozen=True):
    """The state of a debate, as `GET /api/debates/{id}` returns it."""

    id: UUID
    query: str
    status: DebateStatus
    created_at: datetime
    ended_at: datetime | None = None
    config: DebateConfig = DebateConfig()
    rounds: tuple[Round, ...] = ()
    templates_used: tuple[str, ...] = ()
    final_answer: str | None = None
    finish_reason: FinishReason | None = None
    """Why the final answer ended; None: unknown, or there is none yet."""
    trace_id: UUID | None = None
    adapter_id: str | None = None
    error_message: str | None = None
    source: str = "api"
