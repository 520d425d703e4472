"""Decides what follows when a process of a run has ended: another attempt, or the end of the run."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tmde_core.finetune.limits import Limits
from tmde_core.finetune.supervision.ending import Ending
from tmde_core.records.base import Record, utc_now
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun, RunAttempt
from tmde_core.sdk.worker.kit import OUT_OF_MEMORY

MAX_ACCUMULATION = 16
"""The same limit as in `FineTuneConfig`."""


class AttemptPlan(Record):
    """The parameters of the next process."""

    batch_size: int
    gradient_accumulation_steps: int
    automatic: bool
    anew: bool
    """Whether to start from the first step, because a step now uses a different number of examples. Otherwise the
    process continues from the newest checkpoint."""


def plan_first_attempt(config: FineTuneConfig) -> AttemptPlan:
    """Return the parameters of the configuration."""
    return AttemptPlan(
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        automatic=False,
        anew=False,
    )


def plan_resumed_attempt(run: FineTuneRun) -> AttemptPlan:
    """Return the parameters for a run that a person resumes: those of the last attempt, whose checkpoints exist."""
    if not run.attempts:
        return plan_first_attempt(run.config)
    last = run.attempts[-1]
    return AttemptPlan(
        batch_size=last.batch_size,
        gradient_accumulation_steps=last.gradient_accumulation_steps,
        automatic=False,
        anew=False,
    )


def plan_next_attempt(run: FineTuneRun, ending: Ending, limits: Limits) -> AttemptPlan | None:
    """Return the next automatic attempt; None if the run has ended.

    A process that died without a terminal event continues from the newest checkpoint. After lack of memory, the batch
    is halved and the accumulation doubled, up to its limit, so that a step uses as many examples as before. Both happen
    until `limits.tries` processes have ended in the same way since a person started or resumed the run.
    """
    if ending.kind not in ("killed", OUT_OF_MEMORY):
        return None
    if count_failures(run, ending) >= limits.tries:
        return None
    batch, accumulation = _sizes(run)
    if ending.kind == "killed":
        return AttemptPlan(batch_size=batch, gradient_accumulation_steps=accumulation, automatic=True, anew=False)
    if batch == 1:
        return None
    smaller, more = batch // 2, min(2 * accumulation, MAX_ACCUMULATION)
    # A checkpoint counts steps, so it stays usable only if each step uses as many examples as before.
    return AttemptPlan(
        batch_size=smaller,
        gradient_accumulation_steps=more,
        automatic=True,
        anew=smaller * more != batch * accumulation,
    )


def count_failures(run: FineTuneRun, ending: Ending) -> int:
    """Return how many attempts have ended like this one since a person last started one, including this one."""
    earlier = 0
    for attempt, before in zip(reversed(run.attempts), reversed(run.attempts[:-1]), strict=False):
        if not attempt.automatic:
            break
        earlier += before.outcome == ending.kind
    return earlier + 1


def describe_ending(run: FineTuneRun, ending: Ending) -> Ending:
    """Return the ending of a run that is not tried again, with an explanation of what was tried."""
    if ending.kind not in ("killed", OUT_OF_MEMORY):
        return ending
    count = count_failures(run, ending)
    batch, accumulation = _sizes(run)
    if ending.kind == "killed":
        more = f" That happened {count} times, so it is not started again by itself." if count > 1 else ""
    elif batch == 1:
        more = " A batch of one example is the smallest: lower maxSeqLength or the LoRA rank, or close other programs."
    else:
        more = (
            f" It was tried {count} times, at last with batches of {batch} and {accumulation} accumulation steps: lower "
            "batchSize, maxSeqLength or the LoRA rank, or close other programs."
        )
    return msgspec.structs.replace(
        ending, outcome=msgspec.structs.replace(ending.outcome, error=f"{ending.reason}{more}")
    )


def close_last_attempt(attempts: Sequence[RunAttempt], ending: Ending) -> tuple[RunAttempt, ...]:
    """Return the attempts with the last one marked as ended."""
    if not attempts or attempts[-1].outcome != "running":
        return tuple(attempts)
    last = msgspec.structs.replace(attempts[-1], ended_at=utc_now(), outcome=ending.kind, reason=ending.reason)
    return (*attempts[:-1], last)


def append_attempt(
    attempts: Sequence[RunAttempt], wanted: AttemptPlan, resumed_from_step: int | None
) -> tuple[RunAttempt, ...]:
    """Return the attempts with a new one added at the end."""
    return (
        *attempts,
        RunAttempt(
            number=len(attempts) + 1,
            started_at=utc_now(),
            batch_size=wanted.batch_size,
            gradient_accumulation_steps=wanted.gradient_accumulation_steps,
            resumed_from_step=resumed_from_step,
            automatic=wanted.automatic,
        ),
    )


def _sizes(run: FineTuneRun) -> tuple[int, int]:
    """Return the batch size and accumulation of the last attempt."""
    now = plan_resumed_attempt(run)
    return now.batch_size, now.gradient_accumulation_steps
