"""The paired comparison."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.benchmark.statistics import paired_difference
from tmde_core.errors import InvalidInputError


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
