"""Paired statistics: is the difference between two sets of answers to the same questions more than noise?

Intervals are bias-corrected and accelerated bootstrap intervals (BCa: Efron 1987, "Better Bootstrap Confidence Intervals").
With few questions those are too narrow, because the bootstrap divides by n where n − 1 is right and uses the normal
distribution's quantiles where Student's are: their nominal level is therefore expanded as Hesterberg 2015, "What Teachers
Should Know about the Bootstrap", section 3.3.1, does for the percentile interval. With 10 questions that matters, with 100
hardly.

The interval alone is not the verdict's whole rule: with few questions that changed, it excludes zero by chance in up to 12 % of
cases. The permutation test is exact where nothing but chance moved the scores, whatever their distribution, but takes a
lopsided change for a difference more often than the interval does. So a verdict needs both (`outcome_of`); `bench/verdict_rule.py`
simulates what that gives and costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record
from tmde_core.records.benchmark import Interval, Outcome

CONFIDENCE = 0.95
POWER = 0.8
SIGNIFICANT = 0.05
LEAST_QUESTIONS = 6
"""With five, chance alone moves all of them to one side in 2 of 2⁵ = 6 % of cases: `SIGNIFICANT` is out of their reach."""
RESAMPLES = 9_999
"""Monte Carlo error of the interval's ends is then about 2 % of its width."""
SEED = 20_240_229
"""Fixed, so that the same answers give the same interval."""


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
        """What is to be made of it: see `outcome_of`."""
        return outcome_of(self.low, self.high, self.p)


def outcome_of(low: float | None, high: float | None, p: float | None) -> Outcome:
    """The one rule of every verdict: `better` or `worse` only where the interval lies on one side of zero and p is below 0.05.

    Args:
        low, high: the 95 % interval; None: there is none.
        p: of the permutation test, adjusted where it is one of several.
    """
    if low is None or high is None or p is None or p >= SIGNIFICANT:
        return "inconclusive"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "inconclusive"


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare two scores of each question.

    The interval is the expanded BCa interval of the module's docstring, the p-value that of the paired permutation
    test, in which each question's two scores change places at random.

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
        low, high = bootstrap_interval((change,), np.mean)
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


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean with its 95 % interval; without one where there is no spread to go by: ten answers of 0 do not prove the next one's."""
    if not values:
        return Interval(mean=None)
    mean = math.fsum(values) / len(values)
    if max(values) == min(values):
        return Interval(mean=mean, n=len(values))
    import numpy as np

    low, high = bootstrap_interval((np.asarray(values, dtype=float),), np.mean)
    return Interval(mean=mean, low=low, high=high, n=len(values))


def bootstrap_interval(samples: tuple[Any, ...], statistic: Callable[..., Any]) -> tuple[float, float]:
    """The expanded BCa interval of a statistic of paired samples.

    Args:
        samples: arrays of equal length n ≥ 2, resampled together.
        statistic: vectorised, takes the samples and `axis`.
    """
    import warnings

    from scipy import stats

    level = expanded_confidence(len(samples[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate samples are answered below
        for method in ("BCa", "percentile"):
            found = stats.bootstrap(
                samples,
                statistic,
                paired=True,
                confidence_level=level,
                n_resamples=RESAMPLES,
                method=method,
                rng=SEED,
            ).confidence_interval
            if math.isfinite(found.low) and math.isfinite(found.high):
                break
    return float(found.low), float(found.high)


def expanded_confidence(n: int, confidence: float = CONFIDENCE) -> float:
    """The nominal level at which a bootstrap interval of n values has the coverage `confidence` (Hesterberg 2015)."""
    from scipy import stats

    if n < 2:
        return confidence
    t = stats.t.ppf(0.5 + confidence / 2, n - 1)
    return float(2 * stats.norm.cdf(math.sqrt(n / (n - 1)) * t) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values by Holm's step-down method (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def questions_needed(differences: Sequence[float]) -> int | None:
    """How many questions would tell a mean difference of this size with 80 % power at the 5 % level, two-sided.

    n = ((z₀.₉₇₅ + z₀.₈) · s / d)², with s the differences' standard deviation and d their mean; None where d is 0 or there is
    no spread to go by.
    """
    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (n - 1))
    if mean == 0 or spread == 0:
        return None
    return max(2, math.ceil(((1.959964 + 0.841621) * spread / mean) ** 2))
