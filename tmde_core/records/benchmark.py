"""Describes benchmark runs, their measurements and the certainty of these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record
from tmde_core.records.chat import FinishReason
from tmde_core.records.judging import Criterion

Domain = Literal["mathematics", "coding", "science", "reasoning", "creative"]
DOMAINS: tuple[Domain, ...] = ("mathematics", "coding", "science", "reasoning", "creative")
Difficulty = Literal["easy", "medium", "hard"]
RunType = Literal["quick", "full", "custom"]
BenchmarkMode = Literal["debate", "proposer"]
BenchmarkRunStatus = Literal["pending", "running", "completed", "failed", "cancelled", "interrupted"]
"""`interrupted`: the process of the run died. When the run resumes, it asks only the unanswered questions."""
BENCHMARK_ENDED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})
ComparisonOutcome = Literal["better", "worse", "inconclusive"]
BenchmarkTrigger = Literal["manual", "post-finetune", "scheduled"]
"""`manual`: a person or a program asked for the run. `post-finetune`: the gate asked for it. `scheduled`: the schedule."""


class BenchmarkPlan(Record):
    """Which questions a run asks, and which model answers."""

    type: RunType = "quick"
    suite: str = ""
    """The suite's name; empty: the default suite."""
    question_ids: tuple[str, ...] = ()
    """For `custom`: the ids of the questions, built-in or the user's own."""
    mode: BenchmarkMode = "debate"
    adapter_id: UUID | None = None
    """The adapter that answers, active or not. None: the active adapter, or with `base` the base model."""
    base: bool = False
    """Whether the base model answers without any adapter, as a baseline."""
    repeats: Annotated[int, Meta(ge=1, le=10)] | None = None
    """How often each question is asked; None: once in a quick run, twice in others."""
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 42
    judge: str = ""
    """The judge's name; empty: the judge of the settings."""


class Interval(Record):
    """A mean with its 95 % interval.

    `mean` is None if nothing was scored. `low` and `high` are None if all values are equal or there is only one.
    """

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
    """The values that a run's efficiency is compared with. None: unknown, or not used in this mode."""

    response_time_ms: float | None = None
    rounds: float | None = None
    early_termination_rate: float | None = None


class MetricIntervals(Record):
    """The 95 % intervals of a run's means, in the units of `BenchmarkMetrics`."""

    quality: Interval
    response_time_ms: Interval
    tokens_per_second: Interval
    debate_rounds: Interval
    early_termination_rate: Interval


class BenchmarkMetrics(Record):
    """The measurements of one benchmark run. Means are over scored questions only; a mean of nothing is None."""

    tmde_score: float | None
    """Composite, 0–100: see `benchmark.metrics.tmde_score`. None: nothing was scored."""
    avg_quality_score: float | None
    """0–10."""
    avg_response_time_ms: float | None
    """Wall time from question to final answer, milliseconds."""
    avg_tokens_per_second: float | None
    avg_debate_rounds: float | None
    """None in proposer mode."""
    early_termination_rate: float | None
    """Share of debates that ended early, 0–1; None in proposer mode."""
    domain_scores: dict[str, float]
    """Domain → mean quality, 0–10. A domain without a scored answer is missing."""
    intervals: MetricIntervals
    vs_baseline: float | None = None
    """Change of the TMDE score against the baseline run, in percent. None: no baseline, or its score is 0."""
    vs_previous: float | None = None
    """Change of the TMDE score against the previous run, in percent. None: no previous run, or its score is 0."""
    domains: tuple[DomainMetrics, ...] = ()
    questions: int = 0
    """Number of requested answers: questions times repeats."""
    unscored: int = 0
    """Answers without a verdict. A missing verdict never counts as 0."""
    failed: int = 0
    """Questions without an answer after three tries."""
    conclusive: bool = True
    """False if more than 10 % of the answers are unscored. The run then has no outcome."""
    efficiency: float | None = None
    """0–1, the other part of the score."""
    quality_weight: float = 0.8
    """The weight in force when the run ended."""
    judge_drift: float | None = None
    """Mean absolute change of the scores of the graded answers since the first run of this judge, 0–10. None: no
    model judged."""
    reference: EfficiencyReference | None = None
    """The values that `efficiency` was compared with: those of the baseline, or the run's own if it has no baseline."""


class BenchmarkRun(Record):
    """One benchmark run."""

    id: UUID
    type: RunType
    mode: BenchmarkMode
    suite: str
    status: BenchmarkRunStatus
    started_at: datetime
    completed_at: datetime | None = None
    adapter_id: UUID | None = None
    """None: the base model."""
    base_model: str = ""
    base_model_sha256: str | None = None
    suite_sha256: str = ""
    """Hash of the asked questions. Runs with different hashes are never compared without a warning."""
    adapter_sha256: str | None = None
    repeats: int = 1
    seed: int = 42
    judge: str = ""
    question_count: int = 0
    completed_questions: int = 0
    """Number of questions that have all of their answers."""
    answer_count: int = 0
    """Number of requested answers: questions times repeats."""
    completed_answers: int = 0
    metrics: BenchmarkMetrics | None = None
    verdict_vs_previous: ComparisonOutcome | None = None
    verdict_vs_baseline: ComparisonOutcome | None = None
    previous_run_id: UUID | None = None
    """The run that `verdict_vs_previous` compares with: the previous completed run on the same questions in the same
    mode."""
    baseline_run_id: UUID | None = None
    error_message: str | None = None
    triggered_by: BenchmarkTrigger = "manual"
    warnings: tuple[str, ...] = ()
    """Warnings for people: the judge uses the Proposer's own model, the judge drifted, too many answers are
    unscored."""
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    """The settings of roles, debate and score at the time of the run."""


class BenchmarkResult(Record):
    """One answer to one question."""

    id: UUID
    run_id: UUID
    question_id: str
    repeat: int
    """Counts from 0."""
    status: Literal["scored", "unscored", "failed"]
    domain: str
    difficulty: str
    query: str
    """The question's text."""
    final_answer: str = ""
    quality_score: float | None = None
    """0–10; None: no verdict."""
    criteria: dict[str, float | None] = msgspec.field(default_factory=dict)
    """Criterion → score 0–10; None if the criterion could not be judged."""
    reasons: tuple[str, ...] = ()
    response_time_ms: float | None = None
    tokens: int = 0
    tokens_per_second: float | None = None
    debate_rounds: int = 0
    early_stopped: bool = False
    finish_reason: FinishReason | None = None
    """Why the answer ended; None: unknown. `length` and `content_filter`: the answer was cut."""
    trace_id: UUID | None = None
    """The trace of the debate. It is kept with the run, apart from what is trained on. None in proposer mode."""
    tries: int = 1
    error: str | None = None
    """Why the question failed. For an answered question: why the judge's model could not be asked."""


class BenchmarkQuestion(Record):
    """A question of a benchmark."""

    id: str
    domain: str
    difficulty: Difficulty
    question: str
    """The text that the model is asked."""
    reference_answer: str
    """A right answer; empty if a check makes it needless."""
    scoring_rubric: str
    """The properties of a good answer, in words. If the question has criteria and no rubric, the criteria in words."""
    is_built_in: bool
    created_at: datetime | None
    """None: the plugin of a built-in question does not say."""
    suite: str
    check: str | None = None
    """How the answer is compared with `referenceAnswer`: number, choice, exact, contains or regex."""
    criteria: tuple[Criterion, ...] = ()
    """The criteria for an answer, with their weights."""
    quick: bool = False
    """Whether a quick run asks the question."""


class QuestionBody(Record):
    """A question of the user's own, as it is created.

    A reference answer and a rubric are required, unless a check makes them needless.
    """

    question: str
    """The text that the model is asked."""
    domain: Domain
    difficulty: Difficulty = "medium"
    reference_answer: str | None = None
    """A right answer."""
    scoring_rubric: str | None = None
    """The properties of a good answer, in words."""
    check: str | None = None
    """How the answer is compared with `referenceAnswer`: number, choice, exact, contains or regex."""
    criteria: tuple[Criterion, ...] = ()
    """The criteria for an answer, with their weights."""
    id: str | None = None
    """None: a new id is made."""


class PairedComparison(Record):
    """The mean of B − A over the same questions."""

    n: int
    """Number of questions that both runs have scored. Repeats of a question are averaged first."""
    a: float | None
    b: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    """95 % BCa interval of the difference."""
    p: float | None = None
    p_adjusted: float | None = None
    """The p value adjusted by Holm's method over the domains."""
    outcome: ComparisonOutcome = "inconclusive"
    questions_needed: int | None = None
    """How many questions would detect a difference of this size (80 % power); None: no difference, or unknown."""

    @property
    def deciding_p(self) -> float | None:
        """The p value that decides the outcome: the adjusted value if there is one."""
        return self.p if self.p_adjusted is None else self.p_adjusted


class DomainComparison(Record):
    """The paired difference in one domain."""

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
    """Why the runs are not comparable: different questions, mode or judge."""
    quality: PairedComparison = PairedComparison(n=0, a=None, b=None, difference=None)
    score_difference: float | None = None
    """The TMDE score of B minus that of A."""
    score_low: float | None = None
    score_high: float | None = None
    domains: tuple[DomainComparison, ...] = ()
    questions: tuple[QuestionComparison, ...] = ()


class SeriesPoint(Record):
    """One run in a series over time."""

    run_id: UUID
    at: datetime
    type: RunType
    mode: BenchmarkMode
    adapter_id: UUID | None
    tmde_score: float | None
    quality: float | None
    low: float | None = None
    high: float | None = None


class ActivationMark(Record):
    """The time at which another adapter was activated."""

    at: datetime
    adapter_id: UUID | None
    adapter_name: str = ""
    """Empty: the base model, or an adapter that was deleted."""


class BenchmarkSummary(Record):
    """The dashboard's data."""

    total: int
    series: tuple[SeriesPoint, ...] = ()
    """Oldest first."""
    activations: tuple[ActivationMark, ...] = ()
    answering: UUID | None = None
    """The active adapter; None: the base model."""
    current: BenchmarkRun | None = None
    """The newest run of the active adapter. If the requested runs include none of the active adapter, this is the
    newest run of all, and its `adapter_id` differs from `answering`. If the runs of one adapter are requested,
    this is its newest run."""
    previous: BenchmarkRun | None = None
    baseline: BenchmarkRun | None = None
    vs_previous: RunComparison | None = None
    vs_baseline: RunComparison | None = None


class GateDecision(Record):
    """The gate's decision about an adapter."""

    adapter_id: UUID
    at: datetime
    gate: Literal["candidate", "proven", "held-back"]
    reason: str
    run_id: UUID | None = None
    base_run_id: UUID | None = None
    active_run_id: UUID | None = None
    activated: bool = False
