"""Defines the records of a loop: its plan, the entries of its journal, and its report."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from tmde_core.benchmark.results.statistics import PairedDifference
from tmde_core.records.base import Record

PRACTICE, HELD_OUT = "practice", "held-out"

LoopPhase = Literal["before", "after"]


class LoopPlan(Record):
    """Stores the choices of one loop. A loop with the same plan and questions resumes the earlier one."""

    tries: Annotated[int, Meta(ge=1, le=20)] = 3
    """Maximum number of debates per practice question. The first debate with a right answer is the last one."""
    rounds: Annotated[int, Meta(ge=1, le=10)] = 1
    temperature: Annotated[float, Meta(gt=0, le=2)] = 0.8
    """The Proposer's temperature in practice debates. Without variety the Proposer finds no new answers."""
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] = 48
    """Maximum length of one answer in tokens."""
    parallel: Annotated[int, Meta(ge=1, le=32)] = 4
    """Number of questions at the same time."""
    epochs: Annotated[int, Meta(ge=1, le=10)] = 3
    learning_rate: Annotated[float, Meta(ge=1e-5, le=1e-3)] = 5e-4
    min_traces: Annotated[int, Meta(ge=1)] = 40
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 7


class Started(Record, tag="started", tag_field="kind"):
    """Records the adapter that was active when the loop began; None is the base model."""

    adapter_id: str | None


class Asked(Record, tag="asked", tag_field="kind"):
    """Records one answer to a held-out question and its score, 0–10; the score None means no verdict."""

    phase: LoopPhase
    question_id: str
    answer: str
    score: float | None


class Practised(Record, tag="practised", tag_field="kind"):
    """Records one finished practice debate; the `trace_id` None means that the debate failed."""

    question_id: str
    attempt: int
    trace_id: str | None
    score: float | None


class Trained(Record, tag="trained", tag_field="kind"):
    """Records the training run of this loop. The entry is written when the training run starts."""

    run_id: str


class Activated(Record, tag="activated", tag_field="kind"):
    """Records the activation of the new adapter."""

    adapter_id: str


class Finished(Record, tag="finished", tag_field="kind"):
    """Records the end of the loop: the last debate, in which the adapted model answered."""

    query: str
    answer: str
    trace_id: str
    adapter_id: str | None


Entry = Started | Asked | Practised | Trained | Activated | Finished


class DomainRow(Record):
    """Stores the share of right answers in one domain before and after training, 0–1."""

    domain: str
    questions: int
    before: float
    after: float


class LoopReport(Record):
    """Stores the result of a loop."""

    held_out: int
    practice_questions: int
    practice_debates: int
    practice_solved: int
    """Number of practice questions with at least one right answer."""
    unscored: int
    """Number of held-out questions without a verdict before or after training. The comparison leaves them out."""
    before_adapter: str | None
    adapter_id: str
    run_id: str
    domains: tuple[DomainRow, ...]
    overall: PairedDifference
    outcome: Literal["better", "worse", "inconclusive"]
    last: Finished
