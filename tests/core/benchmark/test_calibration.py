"""Judges against people."""

from __future__ import annotations

import pytest

from tmde_core.benchmark.running.calibration import Rated, report
from tmde_core.records.judging import Verdict
from tmde_core.sdk.judges import JudgeDescriptor


def test_a_judge_that_ranks_as_people_do_is_told_apart_from_one_that_does_not():
    people = [float(n % 10 + 1) for n in range(20)]
    milder = report("mild", people, [min(10.0, rating + 2) for rating in people])
    assert milder.spearman == pytest.approx(1, abs=0.05)
    assert milder.mean_error == pytest.approx(1.7, abs=0.1)
    assert "much as you do" in milder.advice
    contrary = report("contrary", people, [11 - rating for rating in people])
    assert contrary.spearman == pytest.approx(-1)
    assert "Choose another" in contrary.advice


def test_no_verdict_is_counted_and_never_an_error():
    found = report("shy", [5.0] * 12, [None] * 2 + [5.0] * 10)
    assert (found.n, found.unscored, found.mean_absolute_error, found.spearman) == (10, 2, 0, None)
    assert found.advice.startswith("Either your ratings or its scores are all equal")
    assert report("silent", [5.0], [None]).advice.startswith("It gave no verdict")


async def test_the_service_asks_the_judge_for_each_rated_answer(services):
    class Length:
        async def score(self, item, model):
            return Verdict(score=min(10.0, float(len(item.answer))), judge="length")

    services.plugins.judges.add(
        JudgeDescriptor(name="length", summary="likes long answers", create=lambda _context: Length()), "tests"
    )
    rated = [Rated(question="Why?", answer="x" * n, rating=float(n)) for n in range(1, 11)]
    seen = []
    found = await services.benchmark.calibrate(rated, "length", seen.append)
    assert found.spearman == pytest.approx(1)
    assert seen == list(range(1, 11))
