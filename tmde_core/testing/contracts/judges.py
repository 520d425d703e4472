"""Define the rules for every judge. Subclass the contract in a test module and say how the judge is made.

class TestMyJudge(JudgeContract):
    needs_model = True

    def judge(self):
        return MyJudge(make_context(MySettings))
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import pytest

from tmde_core.errors import TmdeError, WorkerFailedError
from tmde_core.records.judging import Criterion, JudgeItem, NumberCheck, RegexCheck, Verdict
from tmde_core.sdk.judges import CheckingJudge, Judge, JudgeModel
from tmde_core.testing.contracts.rules import broken, calling, described, provide, require, run
from tmde_core.testing.scripted_judge import ScriptedJudgeModel

__all__ = ["ITEMS", "JudgeContract", "ScriptedJudgeModel"]

ITEMS: Mapping[str, JudgeItem] = {
    "a right answer with a reference": JudgeItem(
        question="What is 6 times 7?", answer="42", reference="42", check="number"
    ),
    "an answer without a reference": JudgeItem(question="What is 6 times 7?", answer="42"),
    "an item with criteria": JudgeItem(
        question="What is 6 times 7?",
        answer="It is 42.",
        criteria=(
            Criterion(name="right", check=NumberCheck(value=42)),
            Criterion(name="clear", description="The answer is easy to understand."),
        ),
    ),
    "an empty answer": JudgeItem(question="q", answer=""),
    "an answer of 100,000 characters": JudgeItem(question="q", answer="a" * 100_000, reference="a"),
    "control characters and halves of pairs": JudgeItem(
        question="q", answer="\x00\u2028\ud7ff\U0010ffff}{", reference="(", check="regex"
    ),
    "a check that nobody knows": JudgeItem(question="q", answer="a", reference="b", check="no such check", rubric="r"),
}
"""Maps a description to the item to judge."""

NONSENSE = {
    "nothing": "",
    "a blank": " ",
    "no grade": "I would rather not say.",
    "a grade beyond the scale": "99",
    "broken JSON": '{"score": ',
    "very much": "grade " * 20_000,
}
"""Unusable answers that a model may give when it is asked for a grade."""

ADVICE = (
    "TMDE then has no verdict, and the person sees only this error. Return Verdict(score=None, reasons=(why,)) for an answer "
    "that cannot be scored."
)


class JudgeContract:
    """The rules for judges. pytest runs them in subclasses called `Test…`."""

    needs_model = False
    """The value of `needs_model` in the descriptor."""
    checks = False
    """The value of `checks` in the descriptor."""

    def judge(self) -> Judge:
        """Return the judge under test, made in the same way as `create` makes it."""
        raise NotImplementedError

    def test_it_is_a_judge(self, request: pytest.FixtureRequest) -> None:
        """Require that the judge has the coroutine `score`."""
        judge = made(self, request)
        require(
            isinstance(judge, Judge),
            f"create returned a {type(judge).__name__} without a function `score`. TMDE awaits judge.score(item, model). "
            "Write `async def score(self, item, model)`.",
        )

    @pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
    def test_every_item_gets_a_sound_verdict(self, item: JudgeItem, request: pytest.FixtureRequest) -> None:
        """Require a score from 0 to 10 or None, and a reason in both cases."""
        ask(made(self, request), item, ScriptedJudgeModel())

    def test_it_tells_the_same_item_the_same_way_twice(self, request: pytest.FixtureRequest) -> None:
        """Require that judging has no side effects, so that two scores of one answer can be compared."""
        item = next(iter(ITEMS.values()))
        judge = made(self, request)
        first, second = ask(judge, item, ScriptedJudgeModel()), ask(judge, item, ScriptedJudgeModel())
        fresh = ask(made(self, request), item, ScriptedJudgeModel())
        require(
            first == second == fresh,
            f"The same answer got {first.score}, then {second.score}, and {fresh.score} from a new judge, or other reasons. "
            "Benchmarks compare scores of different days, so a verdict may depend on the item and the model only. "
            "Remove what is random or remembered.",
        )

    def test_without_a_model_there_is_no_verdict_where_one_is_needed(self, request: pytest.FixtureRequest) -> None:
        """Require that a judge that needs a model returns no verdict without one, instead of a score of 0."""
        for item in ITEMS.values():
            verdict = ask(made(self, request), item, None)
            if self.needs_model:
                require(
                    verdict.score is None,
                    f"Without a model score() gave {verdict.score}. needs_model=True says that the model decides, and a "
                    "score that it has not given is invented. Return Verdict(score=None, reasons=(why,)) when model is None.",
                )

    def test_a_model_that_fails_is_never_a_score(self, request: pytest.FixtureRequest) -> None:
        """Require that a model's failure gives no score. The judge may raise the model's error or return no verdict."""
        if not self.needs_model:
            return
        model = ScriptedJudgeModel(error=WorkerFailedError("The model died."))
        for item in ITEMS.values():
            verdict = ask_or_fail(made(self, request), item, model)
            require(
                verdict is None or verdict.score is None or not model.prompts,
                f"The model failed, and score() gave {verdict and verdict.score} all the same. A failure is no opinion. Let "
                "the model's error pass, or return Verdict(score=None, reasons=(why,)).",
            )
            model.prompts.clear()

    @pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
    def test_what_a_model_says_beside_the_point_does_no_harm(self, text: str, request: pytest.FixtureRequest) -> None:
        """Require a valid verdict even if the model answers with nothing, too much, or something unrelated."""
        if self.needs_model:
            ask(made(self, request), ITEMS["an answer without a reference"], ScriptedJudgeModel(text=text))

    def test_a_judge_that_checks_tells_right_from_wrong_without_a_model(self, request: pytest.FixtureRequest) -> None:
        """Require that a judge with `checks=True` decides by reference and check."""
        if not self.checks:
            return
        right, wrong = (
            ask(
                made(self, request),
                JudgeItem(question="6 times 7?", answer=answer, reference="42", check="number"),
                None,
            )
            for answer in ("42", "41")
        )
        require(
            right.score is not None and wrong.score is not None and right.score > wrong.score,
            f'The answer "42" to a question with the reference 42 got {right.score}, the answer "41" got {wrong.score}. '
            "checks=True says that the judge decides answers by their reference, without a model. Compare the answer with "
            "item.reference as item.check says, or leave checks out.",
        )
        item = ITEMS["an item with criteria"]
        told = ask(made(self, request), item, None).criteria
        require(
            "right" in told and "clear" not in told,
            f"Of the criteria `right`, which has a check, and `clear`, which has none, the judge scored {sorted(told) or 'none'}. "
            "checks=True says that it decides criteria by their check and leaves the others to another judge. Put the score of "
            "each criterion with a check into Verdict.criteria under its name.",
        )

    def test_problems_of_checks_are_told_in_sentences(self, request: pytest.FixtureRequest) -> None:
        """Require that `problems()` accepts a good check and describes what is wrong with a bad one."""
        judge = made(self, request)
        if not isinstance(judge, CheckingJudge):
            return
        with calling("problems()", "Whoever writes questions asks it. Return the sentences, or nothing."):
            fine = list(judge.problems(Criterion(name="n", check=NumberCheck(value=42))))
            wrong = list(judge.problems(Criterion(name="n", check=RegexCheck(pattern="("))))
        require(
            not fine,
            f"problems() complains about a sound check (a number): {' '.join(map(str, fine))} "
            "TMDE would refuse good questions. Return nothing for a check that works.",
        )
        require(
            _has_reason(wrong),
            'problems() finds nothing wrong with the pattern "(", which is no regular expression. A question with it could '
            "never be passed. Return one sentence for each thing that is wrong.",
        )


def made(contract: JudgeContract, request: pytest.FixtureRequest) -> Judge:
    """Make the judge of a contract."""
    with calling("create", "It must work with the default settings. Leave what can fail to score()."):
        return provide(request, contract.judge)


def ask(judge: Judge, item: JudgeItem, model: JudgeModel | None) -> Verdict:
    """Return a valid verdict. An error or an invalid verdict breaks a rule."""
    with calling("score()", ADVICE):
        verdict = run(_score(judge, item, model), "score()")
    return sound(verdict)


def ask_or_fail(judge: Judge, item: JudgeItem, model: JudgeModel) -> Verdict | None:
    """Return a valid verdict, or None if one of TMDE's errors was raised."""
    try:
        verdict = run(_score(judge, item, model), "score()")
    except TmdeError:
        return None
    except Exception as error:
        broken(
            f"The model failed with an error of TMDE's, and score() raised {described(error)}. TMDE cannot tell this from a "
            "mistake in the judge. Let the model's error pass, or return Verdict(score=None, reasons=(why,)).",
            error,
        )
    return sound(verdict)


async def _score(judge: Judge, item: JudgeItem, model: JudgeModel | None) -> Verdict:
    verdict = judge.score(item, model)
    if not inspect.isawaitable(verdict):
        broken("score() is a plain function, and TMDE awaits it. Write `async def score(self, item, model)`.")
    return await verdict


def sound(verdict: object) -> Verdict:
    """Return the verdict, or break a rule if TMDE could not use it or a person could not read it."""
    if not isinstance(verdict, Verdict):
        broken(
            f"score() returned a {type(verdict).__name__}. TMDE takes it for no verdict. "
            "Return a Verdict of tmde_core.sdk.judges."
        )
    require(
        verdict.score is None or _is_grade(verdict.score),
        f"The score {verdict.score!r} is not between 0 and 10. TMDE takes it for no verdict. "
        "Bring it onto the scale, or return None where there is no score.",
    )
    for name, score in verdict.criteria.items():
        require(
            _is_grade(score),
            f"The criterion {name!r} got {score!r}, which is not between 0 and 10. The benchmark averages these scores. "
            "Bring it onto the scale, or leave the criterion out of Verdict.criteria.",
        )
    require(
        _has_reason(verdict.reasons),
        f"The verdict ({'no score' if verdict.score is None else f'score {verdict.score:g}'}) has no reason. People see the "
        "reasons beside the score. Put at least one sentence into Verdict.reasons, a tuple of texts.",
    )
    return verdict


def _has_reason(reasons: object) -> bool:
    return (
        isinstance(reasons, tuple | list)
        and all(isinstance(reason, str) for reason in reasons)
        and any(reason.strip() for reason in reasons)
    )


def _is_grade(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score) and 0 <= score <= 10
