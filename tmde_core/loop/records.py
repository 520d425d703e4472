"""What a loop is asked to do, what it writes down on the way, and what it reports."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from tmde_core.benchmark.results.statistics import PairedDifference
from tmde_core.records.base import Record

PRACTICE, HELD_OUT = "practice", "held-out"

Phase = Literal["before", "after"]


class LoopPlan(Record):
    """The choices of one loop. Two loops with the same plan and questions are the same loop, and one resumes the other."""

    tries: Annotated[int, Meta(ge=1, le=20)] = 3
    """Debates for each practice question at the most; the first that scores ends them."""
    rounds: Annotated[int, Meta(ge=1, le=10)] = 1
    temperature: Annotated[float, Meta(gt=0, le=2)] = 0.8
    """Of the Proposer while it practises: without variety nothing new is found."""
    max_tokens: Annotated[int, Meta(ge=1, le=4096)] = 48
    """Of one answer."""
    parallel: Annotated[int, Meta(ge=1, le=32)] = 4
    """Questions under way at once."""
    epochs: Annotated[int, Meta(ge=1, le=10)] = 3
    learning_rate: Annotated[float, Meta(ge=1e-5, le=1e-3)] = 5e-4
    min_traces: Annotated[int, Meta(ge=1)] = 40
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 7


class Started(Record, tag="started", tag_field="kind"):
    """The adapter that answered when the loop began; None: the base model."""

    adapter_id: str | None


class Asked(Record, tag="asked", tag_field="kind"):
    """One held-out answer and its score, 0–10; None: no verdict."""

    phase: Phase
    question_id: str
    answer: str
    score: float | None


class Practised(Record, tag="practised", tag_field="kind"):
    """One practice debate that ended; `trace_id` None: it failed."""

    question_id: str
    attempt: int
    trace_id: str | None
    score: float | None


class Trained(Record, tag="trained", tag_field="kind"):
    """The training run of this loop, from its start on."""

    run_id: str


class Activated(Record, tag="activated", tag_field="kind"):
    """The adapter that answers from here on."""

    adapter_id: str


class Finished(Record, tag="finished", tag_field="kind"):
    """The loop is over: a last debate, answered by the adapted model."""

    query: str
    answer: str
    trace_id: str
    adapter_id: str | None


Entry = Started | Asked | Practised | Trained | Activated | Finished


class DomainRow(Record):
    """Share of right answers in one domain, before and after, 0–1."""

    domain: str
    questions: int
    before: float
    after: float


class LoopReport(Record):
    """What came of it."""

    held_out: int
    practice_questions: int
    practice_debates: int
    practice_solved: int
    """Practice questions with at least one debate that scored."""
    unscored: int
    """Held-out questions that had no verdict before or after; they are left out of the comparison."""
    before_adapter: str | None
    adapter_id: str
    run_id: str
    domains: tuple[DomainRow, ...]
    overall: PairedDifference
    outcome: Literal["better", "worse", "inconclusive"]
    last: Finished
