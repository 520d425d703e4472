"""The panel takes the mean of several judges and tells how far they differ."""

import pytest

from tmde_bench_default.judges.panel import FRAMINGS, PanelJudge
from tmde_core.errors import WorkerFailedError
from tmde_core.sdk.judges import CountCheck, Criterion, JudgeItem
from tmde_core.testing import ScriptedJudgeModel, digit_logprobs
from tmde_core.testing.contracts import JudgeContract

ITEM = JudgeItem(question="What is 6 times 7?", answer="42")


class TestPanelContract(JudgeContract):
    needs_model = True

    def judge(self):
        return PanelJudge()


class Several(ScriptedJudgeModel):
    members = ()


def grading(grade):
    return ScriptedJudgeModel(logprobs=digit_logprobs({str(grade): 1.0}))


def panel(*members):
    several = Several()
    several.members = members
    return several


async def test_the_score_is_the_mean_of_the_models_and_their_disagreement_is_told():
    told = await PanelJudge().score(ITEM, panel(grading(3), grading(5)))
    assert told.score == 7.5
    assert "5.0, 10.0" in told.reasons[0]
    assert "differ by 5.0" in told.reasons[0]


async def test_one_model_is_asked_in_three_ways():
    model = grading(4)
    told = await PanelJudge().score(ITEM, model)
    assert told.score == 7.5
    assert len({prompt[-1].content for prompt in model.prompts}) == len(FRAMINGS) == 3


async def test_criteria_without_a_check_are_graded_one_by_one():
    criteria = (
        Criterion(name="style", weight=3, description="Reads well."),
        Criterion(name="length", check=CountCheck(of="words", minimum=1)),
        Criterion(name="idea", description="Has one."),
    )
    told = await PanelJudge().score(
        JudgeItem(question="q", answer="a", criteria=criteria), panel(grading(1), grading(3))
    )
    assert told.criteria == {"style": 2.5, "idea": 2.5}


@pytest.mark.parametrize(("away", "score"), [(1, 10.0), (2, None)])
async def test_a_judge_that_is_away_is_one_opinion_less_and_most_must_be_there(away, score):
    dead = [ScriptedJudgeModel(error=WorkerFailedError("It is away.")) for _ in range(away)]
    told = await PanelJudge().score(ITEM, panel(grading(5), *dead))
    assert told.score == score
    assert told.reasons


async def test_members_without_others_are_the_one_model():
    model = Several(logprobs=digit_logprobs({"5": 1.0}))
    assert (await PanelJudge().score(ITEM, model)).score == 10
    assert len(model.prompts) == 3
