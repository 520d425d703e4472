"""A merged model is good if it answers like base model and adapter, and not like the base model alone."""

from __future__ import annotations

import math

from tmde_cpu.serving.merge_check import judge

SURE = {1: math.log(0.9), 2: math.log(0.09), 3: math.log(0.01)}
OTHER = {2: math.log(0.9), 1: math.log(0.09), 3: math.log(0.01)}
NEAR = {1: math.log(0.88), 2: math.log(0.1), 3: math.log(0.02)}


def test_a_model_that_says_nearly_the_same_is_good_enough() -> None:
    quality = judge(22, 21, 24, [SURE] * 10, [NEAR] * 10, [OTHER] * 10)
    assert quality.flaws == ()
    assert (quality.positions, quality.same_token) == (10, 1.0)
    assert 0 < quality.difference < 0.3 < quality.effect


def test_a_model_that_says_what_the_base_model_says_has_lost_the_adapter() -> None:
    quality = judge(22, 22, 24, [SURE] * 10, [OTHER] * 10, [OTHER] * 10)
    assert any("lost much of the adapter" in flaw for flaw in quality.flaws)
    assert any("likeliest" in flaw for flaw in quality.flaws)


def test_a_model_that_answers_fewer_questions_is_not_good_enough_however_near_it_is() -> None:
    (flaw,) = judge(22, 18, 24, [SURE] * 10, [SURE] * 10, [OTHER] * 10).flaws
    assert "18 of 24 simple questions right" in flaw


def test_an_adapter_that_changes_nothing_is_not_lost() -> None:
    rounded = {token: logprob + 0.05 for token, logprob in SURE.items()}
    assert judge(22, 22, 24, [SURE] * 10, [rounded] * 10, [SURE] * 10).flaws == ()


def test_places_that_a_server_does_not_tell_are_left_out_and_without_any_nothing_is_proven() -> None:
    assert judge(22, 22, 24, [SURE, {}, SURE], [NEAR, NEAR, {}], [OTHER] * 3).positions == 1
    assert judge(0, 0, 24, [{}], [{}], [{}]).flaws != ()


def test_a_token_that_the_other_model_does_not_list_counts_as_its_least_likely_one() -> None:
    quality = judge(22, 22, 24, [SURE], [{1: math.log(0.9), 7: math.log(0.05)}], [OTHER])
    assert math.isclose(quality.difference, (math.log(0.09 / 0.05) + math.log(0.05 / 0.01)) / 3, abs_tol=0.2)
