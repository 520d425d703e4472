"""Two runs side by side, and the figures of one."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.benchmark.conftest import QUESTIONS, question
from tmde_core.benchmark.results.comparison import compare, explain_differences
from tmde_core.benchmark.results.metrics import efficiency, measure, tmde_score
from tmde_core.benchmark.running.planning import comparable_hash
from tmde_core.benchmark.running.scoring import combine_verdicts
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import BenchmarkResult, BenchmarkRun, EfficiencyReference
from tmde_core.records.judging import Verdict

RUN = BenchmarkRun(
    id=uuid4(),
    type="full",
    mode="proposer",
    suite="dozen",
    status="completed",
    started_at=utc_now(),
    suite_sha256="same",
    judge="auto",
)


def run(**fields) -> BenchmarkRun:
    return msgspec.structs.replace(RUN, id=uuid4(), **fields)


def answers(scores, *, ms: float = 1000.0, criteria=None) -> list[BenchmarkResult]:
    return [
        BenchmarkResult(
            id=uuid4(),
            run_id=RUN.id,
            question_id=one.id,
            repeat=0,
            status="unscored" if score is None else "scored",
            domain=one.domain,
            difficulty="easy",
            query=one.query,
            final_answer="A.",
            quality_score=score,
            criteria=criteria or {"right": score},
            response_time_ms=ms,
            debate_rounds=1,
        )
        for one, score in zip(QUESTIONS, scores, strict=True)
    ]


def sided(before, after, a=None, b=None):
    first, second = answers(before), answers(after)
    a = a or run(metrics=measure(first, "proposer"))
    b = b or run(metrics=measure(second, "proposer"))
    return compare(a, b, first, second, QUESTIONS)


def test_an_adapter_that_knows_everything_is_better_and_says_by_how_much():
    found = sided([0.0, 5.0] * 6, [10.0] * 12)
    assert found.comparable
    assert (found.quality.n, found.quality.difference, found.quality.outcome) == (12, 7.5, "better")
    assert 5.5 < found.quality.low < 7.5 < found.quality.high < 9.5
    assert found.score_low > 0


def test_a_difference_inside_the_noise_is_inconclusive_and_says_how_many_questions_would_tell():
    found = sided([0.0, 10.0] * 6, [10.0, 0.0] * 5 + [10.0, 10.0])
    assert found.quality.outcome == "inconclusive"
    assert found.quality.low < 0 < found.quality.high
    assert found.quality.questions_needed > 12


def test_runs_of_other_questions_are_never_compared_silently():
    found = sided([0.0] * 12, [10.0] * 12, a=run(suite_sha256="other"))
    assert not found.comparable
    assert found.differs == ("They asked different questions.",)
    assert found.quality.outcome == "inconclusive"
    assert found.quality.difference == 10


def test_runs_that_other_models_judged_are_never_compared_silently():
    def judged(model: str, *panel: str, by: str = "rubric"):
        needs = {} if by == "rubric" else {"judgeNeedsModel": False}
        seats = {"roles": {"judge": {"runtime": "local", "model": model}}, "benchmark": {"panel": list(panel)}} | needs
        return run(judge=by, settings=seats)

    assert explain_differences(judged("small"), judged("small")) == ()
    assert explain_differences(judged("small"), judged("large")) == (
        "Different models judged them: local:small and local:large.",
    )
    assert len(explain_differences(judged("small", "other:third"), judged("small"))) == 1
    assert explain_differences(judged("small", by="verifier"), judged("large", by="verifier")) == ()
    assert comparable_hash(judged("small", "other:third")) != comparable_hash(judged("small"))


def test_runs_that_other_rules_scored_are_never_compared_silently():
    old, new = run(judge="verifier"), run(judge="verifier", settings={"judgeRules": {"verifier": 2}})
    assert explain_differences(new, new) == ()
    assert explain_differences(old, new) == ("Different versions of the judge's rules scored them.",)
    assert comparable_hash(old) != comparable_hash(new)
    assert comparable_hash(old) == comparable_hash(run(judge="verifier", settings={"judgeRules": {}}))


def test_a_run_with_too_many_open_answers_decides_nothing():
    after = answers([10.0] * 10 + [None] * 2)
    found = sided([0.0] * 12, [10.0] * 10 + [None] * 2, b=run(metrics=measure(after, "proposer")))
    assert found.quality.n == 10
    assert found.quality.outcome == "inconclusive"


def test_a_domain_decides_nothing_either_where_the_runs_do_not(monkeypatch):
    asked = tuple(question(number) for number in range(12))
    monkeypatch.setattr("tests.core.benchmark.test_comparison.QUESTIONS", asked)
    fallen, open_ = [0.0] * 10 + [10.0, 0.0], [0.0] * 10 + [None] * 2
    assert [one.quality.outcome for one in sided([10.0] * 12, fallen).domains] == ["worse"]
    after = run(metrics=measure(answers(open_), "proposer"))
    assert [one.quality.outcome for one in sided([10.0] * 11 + [9.0], open_, b=after).domains] == ["inconclusive"]


def test_only_criteria_that_both_runs_know_are_compared():
    asked = [question(number, open_weight=1.0) for number in range(12)]
    judged = [msgspec.structs.replace(one, criteria={"right": 10.0, "style": 0.0}) for one in answers([5.0] * 12)]
    unjudged = [msgspec.structs.replace(one, criteria={"right": 10.0, "style": None}) for one in answers([10.0] * 12)]
    found = compare(run(), run(), judged, unjudged, asked)
    assert (found.quality.a, found.quality.b, found.quality.difference) == (10, 10, 0)


def test_domains_are_corrected_for_looking_five_times():
    before = [10.0] * 12
    after = [0.0 if one.domain == "mathematics" else 10.0 for one in QUESTIONS]
    domains = {one.domain: one.quality for one in sided(before, after).domains}
    assert domains["mathematics"].difference == -10
    assert domains["mathematics"].p_adjusted >= domains["mathematics"].p
    assert domains["science"].outcome == "inconclusive"


@pytest.mark.parametrize(
    ("quality", "e", "score"), [(0, 1, 0), (10, 1, 100), (0, 0, 0), (10, 0, 0), (5, 1, 100 * 0.5**0.8)]
)
def test_the_score_is_zero_without_quality_and_a_hundred_at_perfection(quality, e, score):
    assert tmde_score(quality, e) == pytest.approx(score)


@given(st.floats(0, 10), st.floats(1, 1e6), st.floats(1, 1e6))
def test_being_faster_than_the_reference_buys_nothing(quality, reference, time):
    e = efficiency(time, None, None, EfficiencyReference(response_time_ms=reference), "proposer")
    assert 0 <= e <= 1
    if time <= reference:
        assert e == 1
    assert tmde_score(quality, e) <= tmde_score(quality, 1)


def test_rounds_and_early_ends_count_in_debates_only():
    reference = EfficiencyReference(response_time_ms=1000, rounds=1, early_termination_rate=1.0)
    assert efficiency(1000, 2, 0.5, reference, "debate") == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert efficiency(1000, 2, 0.5, reference, "proposer") == 1


def test_a_slower_run_of_equal_quality_scores_less_against_the_same_reference():
    slow = measure(answers([10.0] * 12, ms=2000), "proposer", reference=EfficiencyReference(response_time_ms=1000))
    assert slow.efficiency == 0.5
    assert slow.tmde_score == pytest.approx(100 * 0.5**0.2, abs=0.01)


def test_a_score_needs_half_of_the_weight():
    heavy = question(0, open_weight=1.5)
    told = Verdict(score=None, criteria={"right": 10.0})
    assert combine_verdicts(heavy.criteria, [told]).score is None
    assert combine_verdicts(heavy.criteria, [told, Verdict(score=None, criteria={"style": 5.0})]).score == 7.0
