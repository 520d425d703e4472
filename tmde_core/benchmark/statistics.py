"""Paired statistics: is the difference between two sets of answers to the same questions more than noise?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tmde_core.errors import InvalidInputError
from tmde_core.record import Record

CONFIDENCE = 0.95
RESAMPLES = 9_999
"""Monte Carlo error of the interval's ends is then about 2 % of its width."""
SEED = 20_240_229
"""Fixed, so that the same answers give the same interval."""

Outcome = Literal["better", "worse", "inconclusive"]


class PairedDifference(Record):
    """Mean of after − before over the same questions, with its 95 % interval."""

    questions: int
    before: float
    """Mean before."""
    after: float
    """Mean after."""
    difference: float
    low: float
    high: float
    p: float
    """Two-sided permutation p: how often chance alone gives a difference at least this large."""

    @property
    def outcome(self) -> Outcome:
        """`better` or `worse` only where the interval lies on one side of zero."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "inconclusive"


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare two scores of each question.

    The interval is the bias-corrected and accelerated bootstrap's (Efron 1987, "Better Bootstrap Confidence Intervals"),
    the p-value that of the paired permutation test, in which each question's two scores change places at random.

    Args:
        before, after: scores of the same questions in the same order, equal lengths ≥ 1.

    Raises:
        InvalidInputError: the lengths differ or are 0.
    """
    if len(before) != len(after) or not before:
        raise InvalidInputError("A paired comparison needs the same questions on both sides, and at least one.")
    # Imported here: numpy and scipy cost most of a second, and only who compares needs them.
    import numpy as np
    from scipy import stats

    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    change = second - first
    mean = float(change.mean())
    if np.ptp(change) == 0:
        # Every question changed alike: resampling can show no spread, and a test by exchange only this much.
        low = high = mean
        p = 1.0 if mean == 0 else min(1.0, 2.0 ** (1 - len(change)))
    else:
        interval = stats.bootstrap(
            (change,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="BCa", rng=SEED
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        p = float(
            stats.permutation_test(
                (second, first),
                lambda one, other, axis: np.mean(one - other, axis=axis),
                permutation_type="samples",
                vectorized=True,
                n_resamples=RESAMPLES,
                rng=SEED,
            ).pvalue
        )
    return PairedDifference(
        questions=len(change),
        before=float(first.mean()),
        after=float(second.mean()),
        difference=mean,
        low=low,
        high=high,
        p=p,
    )
