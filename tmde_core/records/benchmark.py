"""What a benchmark run is, what it measured, and how sure that is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record
from tmde_core.records.questions import Question

Domain = Literal["mathematics", "coding", "science", "reasoning", "creative"]
DOMAINS: tuple[Domain, ...] = ("mathematics", "coding", "science", "reasoning", "creative")
Difficulty = Literal["easy", "medium", "hard"]
RunType = Literal["quick", "full", "custom"]
Mode = Literal["debate", "proposer"]
RunStatus = Literal["pending", "running", "completed", "failed", "cancelled", "interrupted"]
"""`interrupted`: its process died; it is resumed with the unanswered questions only."""
ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
Outcome = Literal["better", "worse", "inconclusive"]
Trigger = Literal["user", "api", "gate", "schedule"]


class BenchmarkPlan(Record):
    """What a run shall ask of whom."""

    type: RunType = "quick"
    suite: str = ""
    """A suite's name; empty: the default one."""
    question_ids: tuple[str, ...] = ()
    """For `custom`: which questions, built-in or one's own."""
    mode: Mode = "debate"
    adapter_id: UUID | None = None
    """Asked with this adapter, active or not; None with `base`: the base model; None without: what is active."""
    base: bool = False
    """Ask the base model, without any adapter: a baseline."""
    repeats: Annotated[int, Meta(ge=1, le=10)] | None = None
    """How often each question is asked; None: once in a quick run, twice in others."""
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 42
    judge: str = ""
    """Empty: as the settings have it."""


class Interval(Record):
    """A mean with its 95 % interval. `mean` None: nothing was scored. `low` and `high` None: all values are equal, or there is one."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


class DomainMetrics(Record):
    """The figures of one domain."""

    domain: str
    quality: Interval
    """0–10."""
    unscored: int = 0
    failed: int = 0


class EfficiencyReference(Record):
    """What a run's efficiency is held against. None: not known, or not in this mode."""

    response_time_ms: float | None = None
    rounds: float | None = None
    early_termination_rate: float | None = None


class BenchmarkMetrics(Record):
    """What one benchmark run measured. Means are over scored questions only."""

    tmde_score: float | None
    """Composite, 0–100: see `benchmark.metrics.tmde_score`. None: nothing was scored."""
    avg_quality: Interval
    """0–10."""
    avg_response_time_ms: Interval
    """Wall time from question to final answer, milliseconds."""
    tokens_per_second: Interval
    avg_rounds: Interval
    early_termination_rate: Interval
    """Share of debates that ended early, 0–1; without mean in proposer mode."""
    domains: tuple[DomainMetrics, ...] = ()
    questions: int = 0
    """Answers that were asked for: questions times repeats."""
    unscored: int = 0
    """Answers without verdict. No verdict is never 0."""
    failed: int = 0
    """Questions that could not be answered after three tries."""
    conclusive: bool = True
    """False when more than 10 % are unscored: then no verdict is given."""
    efficiency: float | None = None
    """0–1, the score's other part."""
    quality_weight: float = 0.8
    """As it was when the run ended."""
    judge_drift: float | None = None
    """Mean absolute change of the frozen, graded answers' scores since the judge was first seen, 0–10; None: no model judged."""
    reference: EfficiencyReference | None = None
    """What `efficiency` was measured against: the baseline's figures, or the run's own where it has no baseline."""


class BenchmarkRun(Record):
    """One benchmark run."""

    id: UUID
    type: RunType
    mode: Mode
    suite: str
    status: RunStatus
    started_at: datetime
    completed_at: datetime | None = None
    adapter_id: UUID | None = None
    """None: the base model."""
    base_model: str = ""
    base_model_sha256: str | None = None
    suite_sha256: str = ""
    """Of the questions that were asked; runs of different hashes are never compared silently."""
    adapter_sha256: str | None = None
    repeats: int = 1
    seed: int = 42
    judge: str = ""
    questions_total: int = 0
    """Answers to be had: questions times repeats."""
    questions_done: int = 0
    metrics: BenchmarkMetrics | None = None
    verdict_vs_previous: Outcome | None = None
    verdict_vs_baseline: Outcome | None = None
    previous_run_id: UUID | None = None
    """What `verdict_vs_previous` compares with: the completed run before it on the same questions, in the same mode."""
    baseline_run_id: UUID | None = None
    error_message: str | None = None
    triggered_by: Trigger = "user"
    warnings: tuple[str, ...] = ()
    """For a person: the judge is the Proposer's own model, the judge moved, too many unscored."""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    """Roles, debate and score settings as they were."""


class BenchmarkResult(Record):
    """One answer to one question."""

    run_id: UUID
    question_id: str
    repeat: int
    """From 0."""
    status: Literal["scored", "unscored", "failed"]
    domain: str
    difficulty: str
    query: str
    answer: str = ""
    quality_score: float | None = None
    """0–10; None: no verdict."""
    criteria: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Criterion → score 0–10, None where nobody could tell."""
    reasons: tuple[str, ...] = ()
    response_time_ms: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    rounds: int = 0
    early_stopped: bool = False
    tries: int = 1
    error: str | None = None
    """Why it failed; of an answer that did not: why the judge's model could not be asked about it."""


class BenchmarkQuestion(Record):
    """A question as it is listed."""

    id: str
    suite: str
    builtin: bool
    domain: str
    difficulty: str
    query: str
    reference: str | None
    question: Question
    """The whole of it, with its criteria, in the form in which it can be sent back."""
    quick: bool = False


class PairedComparison(Record):
    """Mean of B − A over the same questions."""

    n: int
    """Questions that both runs have scored (repeats are averaged first)."""
    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    """95 % BCa interval of the difference."""
    p: float | None = None
    p_adjusted: float | None = None
    """By Holm's method among the domains."""
    outcome: Outcome = "inconclusive"
    questions_needed: int | None = None
    """How many questions would tell a difference of this size (80 % power); None: no difference, or not known."""

    @property
    def deciding_p(self) -> float | None:
        """The p that the verdict goes by: the adjusted one, where it is one of several."""
        return self.p if self.p_adjusted is None else self.p_adjusted


class DomainComparison(Record):
    """One domain's paired difference."""

    domain: str
    quality: PairedComparison


class QuestionComparison(Record):
    """One question in both runs."""

    question_id: str
    query: str
    domain: str
    a: float | None
    b: float | None
    a_answer: str = ""
    b_answer: str = ""


class RunComparison(Record):
    """Two runs side by side."""

    a: BenchmarkRun
    b: BenchmarkRun
    comparable: bool
    differs: tuple[str, ...] = ()
    """Why they are not comparable: other questions, mode, judge."""
    quality: PairedComparison = PairedComparison(n=0, a=None, b=None, difference=None)
    score_difference: float | None = None
    """TMDE score of B minus A."""
    score_low: float | None = None
    score_high: float | None = None
    domains: tuple[DomainComparison, ...] = ()
    questions: tuple[QuestionComparison, ...] = ()


class SeriesPoint(Record):
    """One run in the series over time."""

    run_id: UUID
    at: datetime
    type: RunType
    mode: Mode
    adapter_id: UUID | None
    tmde_score: float | None
    quality: float | None
    low: float | None = None
    high: float | None = None


class ActivationMark(Record):
    """When another adapter began to answer."""

    at: datetime
    adapter_id: UUID | None


class Summary(Record):
    """The dashboard's data."""

    total: int
    series: tuple[SeriesPoint, ...] = ()
    """Oldest first."""
    activations: tuple[ActivationMark, ...] = ()
    answering: UUID | None = None
    """The adapter that answers now; None: the base model."""
    current: BenchmarkRun | None = None
    """The newest run of what answers now; where none of its runs is among those wanted, the newest of them all, whose `adapter_id` then
    is not `answering`. Where one adapter's runs are wanted, its newest."""
    previous: BenchmarkRun | None = None
    baseline: BenchmarkRun | None = None
    vs_previous: RunComparison | None = None
    vs_baseline: RunComparison | None = None


class GateDecision(Record):
    """What the gate made of an adapter."""

    adapter_id: UUID
    at: datetime
    gate: Literal["candidate", "proven", "held-back"]
    reason: str
    run_id: UUID | None = None
    base_run_id: UUID | None = None
    active_run_id: UUID | None = None
    activated: bool = False
