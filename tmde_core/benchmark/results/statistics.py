"""Computes paired statistics: whether two sets of answers to the same questions differ by more than noise.

Intervals are bias-corrected and accelerated bootstrap intervals (BCa: Efron 1987, "Better Bootstrap Confidence
Intervals"). With few questions these intervals are too narrow: the bootstrap divides by n instead of n − 1, and uses
the quantiles of the normal distribution instead of Student's t. Their nominal level is therefore expanded, as
Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 3.3.1, does for the percentile interval. The
expansion matters with 10 questions and hardly with 100.

The interval alone does not decide the outcome: if few questions changed, the interval excludes zero by chance in up to
12 % of cases. The permutation test is exact if only chance changed the scores, whatever their distribution. But the
test mistakes a lopsided change for a difference more often than the interval does. Therefore an outcome needs both
(`decide_outcome`). `bench/verdict_rule.py` simulates the benefit and the cost of this rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record
from tmde_core.records.benchmark import ComparisonOutcome, Interval

CONFIDENCE = 0.95
POWER = 0.8
SIGNIFICANT = 0.05
LEAST_QUESTIONS = 6
"""The smallest number of questions that can decide an outcome.

With five questions, chance alone moves all of them to the same side in 2 of 2⁵ cases (6 %), which is above
`SIGNIFICANT`.
"""
RESAMPLES = 9_999
"""With this number, the Monte Carlo error of the interval's ends is about 2 % of the interval's width."""
SEED = 20_240_229
"""A fixed seed, so that the same answers give the same interval."""


class PairedDifference(Record):
    """The mean of after − before over the same questions, with its 95 % interval."""

    questions: int
    before: float
    """The mean score before."""
    after: float
    """The mean score after."""
    difference: float
    low: float
    high: float
    p: float
    """The two-sided permutation p-value: how often chance alone gives a difference at least this large."""

    @property
    def outcome(self) -> ComparisonOutcome:
        """The outcome of the comparison; see `decide_outcome`."""
        return decide_outcome(self.low, self.high, self.p)


def decide_outcome(low: float | None, high: float | None, p: float | None) -> ComparisonOutcome:
    """Return the outcome of a comparison; this one rule decides all of them.

    The outcome is `better` or `worse` only if the interval lies on one side of zero and p is below 0.05.

    Args:
        low, high: The 95 % interval; None if there is no interval.
        p: The p-value of the permutation test, adjusted if the test is one of several.
    """
    if low is None or high is None or p is None or p >= SIGNIFICANT:
        return "inconclusive"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "inconclusive"


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare two scores of each question.

    The interval is the expanded BCa interval of the module's docstring. The p-value comes from the paired permutation
    test, which exchanges the two scores of each question at random.

    Args:
        before, after: Scores of the same questions in the same order, with equal lengths ≥ 1.

    Raises:
        InvalidInputError: The lengths differ or are 0.
    """
    if len(before) != len(after) or not before:
        raise InvalidInputError("A paired comparison needs the same questions on both sides, and at least one.")
    # Imported here: numpy and scipy take most of a second to import, and only comparisons need them.
    import numpy as np
    from scipy import stats

    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    change = second - first
    mean = float(change.mean())
    if np.ptp(change) == 0:
        # All changes are equal: resampling shows no spread, and this is the p-value of the permutation test.
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
    """Return the mean with its 95 % interval; without an interval if all values are equal.

    Equal values show no spread: ten answers with a score of 0 do not prove that the next answer scores 0.
    """
    if not values:
        return Interval(mean=None)
    mean = math.fsum(values) / len(values)
    if max(values) == min(values):
        return Interval(mean=mean, n=len(values))
    import numpy as np

    low, high = bootstrap_interval((np.asarray(values, dtype=float),), np.mean)
    return Interval(mean=mean, low=low, high=high, n=len(values))


def bootstrap_interval(samples: tuple[Any, ...], statistic: Callable[..., Any]) -> tuple[float, float]:
    """Return the expanded BCa interval of a statistic of paired samples.

    Args:
        samples: Arrays of equal length n ≥ 2, resampled together.
        statistic: A vectorised function of the samples and `axis`.
    """
    import warnings

    from scipy import stats

    level = expanded_confidence(len(samples[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate samples are handled below
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
    """Return the nominal level that gives a bootstrap interval of n values the coverage `confidence`.

    The formula is that of Hesterberg 2015; see the module's docstring.
    """
    from scipy import stats

    if n < 2:
        return confidence
    t = stats.t.ppf(0.5 + confidence / 2, n - 1)
    return float(2 * stats.norm.cdf(math.sqrt(n / (n - 1)) * t) - 1)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down method (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def questions_needed(differences: Sequence[float]) -> int | None:
    """Return how many questions would show a mean difference of this size.

    The number holds for 80 % power at the 5 % level, two-sided: n = ((z₀.₉₇₅ + z₀.₈) · s / d)², where s is the standard
    deviation of the differences and d is their mean.

    Returns:
        The number of questions, or None if d is 0 or all differences are equal.
    """
    n = len(differences)
    if n < 2:
        return None
    mean = math.fsum(differences) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (n - 1))
    if mean == 0 or spread == 0:
        return None
    return max(2, math.ceil(((1.959964 + 0.841621) * spread / mean) ** 2))
