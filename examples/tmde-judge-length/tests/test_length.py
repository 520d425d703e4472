"""The judge of this package. `pytest` runs it, where `tmde[testing]` is installed."""

import asyncio

from tmde_core.sdk.judges import JudgeItem
from tmde_core.testing import make_context
from tmde_judge_length import LengthJudge, LengthSettings


def test_one_point_less_for_every_so_many_characters() -> None:
    judge = LengthJudge(make_context(LengthSettings, per_point=50))
    verdict = asyncio.run(judge.score(JudgeItem(question="?", answer="x" * 100), None))
    assert verdict.score == 8.0
