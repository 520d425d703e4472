"""The paired comparison."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.benchmark.results import statistics
from tmde_core.benchmark.results.statistics import (
    adjust_holm,
    bootstrap_interval,
    decide_outcome,
    mean_interval,
    paired_difference,
    questions_needed,
)
from tmde_core.errors import InvalidInputError
from tmde_core.records.benchmark import Interval


def test_a_clear_gain_is_better_and_the_other_way_round_worse():
    before, after = [0.0] * 40, [1.0] * 20 + [0.0] * 20
    gain, loss = paired_difference(before, after), paired_difference(after, before)
    assert gain.outcome == "better"
    assert loss.outcome == "worse"
    assert gain.difference == pytest.approx(0.5)
    assert gain.low == pytest.approx(-loss.high, abs=0.02)
    assert gain.p < 0.001


def test_as_many_gains_as_losses_are_inconclusive():
    compared = paired_difference([0.0, 1.0] * 20, [1.0, 0.0] * 20)
    assert compared.difference == 0
    assert compared.outcome == "inconclusive"
    assert compared.p > 0.5


def test_nothing_changed_is_inconclusive_with_p_one():
    compared = paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (compared.low, compared.high, compared.p, compared.outcome) == (0.0, 0.0, 1.0, "inconclusive")


def test_unequal_lengths_and_nothing_at_all_are_refused():
    with pytest.raises(InvalidInputError):
        paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(InvalidInputError):
        paired_difference([], [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_the_interval_holds_the_difference_and_the_same_answers_give_the_same_interval(pairs: list[tuple[bool, bool]]):
    before, after = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    compared = paired_difference(before, after)
    assert compared.low - 1e-9 <= compared.difference <= compared.high + 1e-9
    assert 0 <= compared.p <= 1
    assert compared == paired_difference(before, after)


@pytest.fixture
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute hundreds of intervals in seconds: with fewer resamples each is a little rougher, and not wider or narrower."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)


@pytest.mark.usefixtures("_few_resamples")
def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(150):
        before = (rng.random(60) < 0.4).astype(float)
        after = (rng.random(60) < 0.6).astype(float)
        compared = paired_difference(list(before), list(after))
        covered += compared.low <= 0.2 <= compared.high
    # 95 % of 150 is 142.5 with a standard deviation of 2.7; four of them below is a broken interval.
    assert covered >= 132


def test_holm_steps_down_and_never_falls():
    assert adjust_holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert adjust_holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_adjusted_p_values_keep_the_order_and_are_never_smaller(values: list[float]):
    adjusted = adjust_holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [adjusted[index] for index in order]
    assert ranked == sorted(ranked)


def test_a_smaller_difference_needs_more_questions():
    assert questions_needed([1.0, -1.0, 2.0, 0.0]) > questions_needed([3.0, 1.0, 4.0, 2.0])
    assert questions_needed([0.0, 0.0]) is None
    assert questions_needed([1.0]) is None


def test_fewer_questions_than_chance_needs_decide_nothing():
    assert paired_difference([0.0], [10.0]).outcome == "inconclusive"
    assert paired_difference([0.0] * 5, [10.0] * 5).outcome == "inconclusive"
    assert paired_difference([0.0] * 6, [10.0] * 6).outcome == "better"


@pytest.mark.parametrize(
    ("changes", "interval_alone"),
    [
        ([0.0] * 3 + [1.0] * 4 + [10.0] * 3, 10 / 64),
        ([0.0] * 4 + [10 / 3, 10 / 3, 20 / 3, 10.0, 10.0, 10.0], 3 / 32),
        ([0.0] * 3 + [2.5, 2.5, 5.0, 5.0, 7.5, 10.0, 10.0], 3 / 64),
    ],
)
def test_chance_alone_gives_a_verdict_in_at_most_5_of_100_cases(changes: list[float], interval_alone: float):
    """Where only chance decides which of two runs a question went better in, each pattern of signs is as likely as the others:
    all of them are tried (but for mirror images), so the share of verdicts is the exact rate of false alarms.
    """
    fixed, *free = [change for change in changes if change]
    found = [
        paired_difference(
            [0.0] * 10, [0.0] * (9 - len(free)) + [fixed] + [a * b for a, b in zip(signs, free, strict=True)]
        )
        for signs in product((1, -1), repeat=len(free))
    ]
    assert sum(one.outcome != "inconclusive" for one in found) / len(found) <= 0.05
    assert sum(one.low > 0 or one.high < 0 for one in found) / len(found) == pytest.approx(interval_alone)


def test_a_verdict_takes_both_the_interval_and_p():
    assert [decide_outcome(0.1, 2.0, 0.049), decide_outcome(-2.0, -0.1, 0.049)] == ["better", "worse"]
    assert (
        decide_outcome(0.1, 2.0, 0.05)
        == decide_outcome(-0.1, 2.0, 0.001)
        == decide_outcome(None, None, 0.001)
        == "inconclusive"
    )


def test_equal_values_have_a_mean_without_an_interval():
    assert mean_interval([4.0, 4.0, 4.0]) == Interval(mean=4.0, n=3)
    assert mean_interval([4.0, 5.0]).low is not None


def test_as_many_questions_as_are_called_needed_tell_what_the_power_formula_says():
    """Of many experiments of the size that is called needed, about 80 % find the difference."""
    random = np.random.default_rng(5)
    pilot = random.normal(1.0, 3.0, 400)
    needed = questions_needed(list(pilot))
    spread, effect = float(pilot.std(ddof=1)), float(pilot.mean())
    drawn = random.normal(effect, spread, (2000, needed))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / math.sqrt(needed))
    assert 0.76 <= float((abs(t) > 1.96).mean()) <= 0.84


def test_the_permutation_p_is_the_exact_one_where_all_exchanges_can_be_counted():
    before, after = [1.0, 2.0, 3.0, 4.0, 5.0], [3.0, 2.5, 6.0, 4.5, 4.0]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    sums = [sum(s * c for s, c in zip(signs, changes, strict=True)) for signs in product((1, -1), repeat=5)]
    exact = sum(abs(one) >= abs(sum(changes)) - 1e-9 for one in sums) / len(sums)
    assert paired_difference(before, after).p == pytest.approx(exact)


@pytest.mark.slow
@pytest.mark.usefixtures("_few_resamples")
@pytest.mark.parametrize("questions", [10, 50])
def test_the_intervals_hold_the_truth_95_times_in_100(questions: int):
    """2,000 synthetic runs: scores as the suites give them, in steps, pressed against 0 and 10."""

    random = np.random.default_rng(7)
    effect = 1.0
    held = 0
    for _ in range(2000):
        skill = random.beta(1.2, 1.2, questions) * 10
        before = np.clip(np.round(skill + random.normal(0, 2, questions), 1), -10, 20)
        after = np.clip(np.round(skill + effect + random.normal(0, 2, questions), 1), -10, 20)
        low, high = bootstrap_interval((after - before,), np.mean)
        held += low <= effect <= high
    assert 0.935 <= held / 2000 <= 0.965
