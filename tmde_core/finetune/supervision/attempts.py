"""What follows when a process of a run has ended: another one, or the end of the run."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tmde_core.finetune.limits import Limits
from tmde_core.finetune.supervision.ending import Ending
from tmde_core.records.base import Record, utc_now
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun, RunAttempt
from tmde_core.sdk.worker.kit import OUT_OF_MEMORY

MAX_ACCUMULATION = 16
"""As in `FineTuneConfig`."""


class Try(Record):
    """How the next process is to work."""

    batch_size: int
    gradient_accumulation_steps: int
    automatic: bool
    anew: bool
    """From the first step, because a step's examples changed; else from the newest checkpoint."""


def first_try(config: FineTuneConfig) -> Try:
    """As the configuration says."""
    return Try(
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        automatic=False,
        anew=False,
    )


def resumed(run: FineTuneRun) -> Try:
    """What a person's `resume` begins: as the last attempt worked, whose checkpoints are there."""
    if not run.attempts:
        return first_try(run.config)
    last = run.attempts[-1]
    return Try(
        batch_size=last.batch_size,
        gradient_accumulation_steps=last.gradient_accumulation_steps,
        automatic=False,
        anew=False,
    )


def following(run: FineTuneRun, ending: Ending, limits: Limits) -> Try | None:
    """The attempt that follows by itself; None when the run has ended.

    Deaths without a last word go on from the newest checkpoint. Lack of memory is met with half the batch and twice the
    accumulation, so that a step learns from as many examples as before, up to the accumulation's bound. Both happen
    until `limits.tries` processes in all have ended so since a person began or resumed the run.
    """
    if ending.kind not in ("killed", OUT_OF_MEMORY):
        return None
    if failures(run, ending) >= limits.tries:
        return None
    batch, accumulation = _sizes(run)
    if ending.kind == "killed":
        return Try(batch_size=batch, gradient_accumulation_steps=accumulation, automatic=True, anew=False)
    if batch == 1:
        return None
    smaller, more = batch // 2, min(2 * accumulation, MAX_ACCUMULATION)
    # A checkpoint counts steps, so it is of use as long as a step learns from as many examples as before.
    return Try(
        batch_size=smaller,
        gradient_accumulation_steps=more,
        automatic=True,
        anew=smaller * more != batch * accumulation,
    )


def failures(run: FineTuneRun, ending: Ending) -> int:
    """How many attempts have ended like this one since a person last began one, this one included."""
    earlier = 0
    for attempt, before in zip(reversed(run.attempts), reversed(run.attempts[:-1]), strict=False):
        if not attempt.automatic:
            break
        earlier += before.outcome == ending.kind
    return earlier + 1


def told(run: FineTuneRun, ending: Ending) -> Ending:
    """The ending of a run that is not tried again, with a word on what was tried."""
    if ending.kind not in ("killed", OUT_OF_MEMORY):
        return ending
    count = failures(run, ending)
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


def closed(attempts: Sequence[RunAttempt], ending: Ending) -> tuple[RunAttempt, ...]:
    """The attempts with the last one ended."""
    if not attempts or attempts[-1].outcome != "running":
        return tuple(attempts)
    last = msgspec.structs.replace(attempts[-1], ended_at=utc_now(), outcome=ending.kind, reason=ending.reason)
    return (*attempts[:-1], last)


def opened(attempts: Sequence[RunAttempt], wanted: Try, resumed_from_step: int | None) -> tuple[RunAttempt, ...]:
    """The attempts with another one at the end."""
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
    """The batch and accumulation of the last attempt."""
    now = resumed(run)
    return now.batch_size, now.gradient_accumulation_steps
