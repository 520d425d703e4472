"""Scores one answer: checks score their criteria, the judge scores the others, and the rest stays unscored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from tmde_core.benchmark.results.metrics import weighted_mean
from tmde_core.debate.judging import NONE, Judges
from tmde_core.errors import RuntimePausedError, TmdeError
from tmde_core.records.base import Record
from tmde_core.records.judging import Criterion, JudgeItem, Verdict
from tmde_core.records.questions import Question
from tmde_core.sdk.hooks import AUTO
from tmde_core.sdk.judges import JudgeModel

JudgeModelSource = Callable[[], Awaitable[JudgeModel | None]]
"""Starts the judge's model only when a criterion needs the model."""


class AnswerScore(Record):
    """The score of one answer."""

    score: float | None
    """0–10; None means no verdict."""
    criteria: dict[str, float | None] = msgspec.field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    judge_error: str | None = None
    """The reason why the judge's model could not be asked, if the model was needed."""


class Scorer:
    """Scores answers with automatic checks and one judge."""

    def __init__(self, judges: Judges, judge: str, model: JudgeModelSource) -> None:
        self._judges = judges
        self._judge = judges.default if judge == AUTO else judge
        self._model = model

    async def score(self, question: Question, answer: str) -> AnswerScore:
        """Score one answer; a failing judge never raises an error here.

        A criterion that the judge cannot score stays unscored and never counts as 0.
        """
        item = make_judge_item(question, answer)
        if not question.criteria:
            return await self._simple(item)
        verdicts = []
        if _checked(question.criteria):
            verdicts.append(await self._judges.judge(self._judges.checking, item, None))
        problem = None
        if not self._judges.checks(self._judge) and not all(criterion.check for criterion in question.criteria):
            verdict, problem = await self.ask(self._judge, item)
            verdicts.append(verdict)
        return combine_verdicts(question.criteria, verdicts, problem)

    async def _simple(self, item: JudgeItem) -> AnswerScore:
        checkable = item.reference and (item.check or not item.rubric)
        name = self._judges.checking if checkable else self._judge
        verdict, problem = await self.ask(name, item)
        return AnswerScore(
            score=verdict.score, criteria=dict(verdict.criteria), reasons=verdict.reasons, judge_error=_detail(problem)
        )

    @property
    def model_judge(self) -> str | None:
        """The judge that asks a model; None if only checks score."""
        return self._judge if self._judges.needs_model(self._judge) else None

    async def ask(self, name: str, item: JudgeItem) -> tuple[Verdict, TmdeError | None]:
        """Return a judge's verdict, and the error if the judge's model could not be asked.

        If there is an error, the verdict has no score.
        """
        if name == NONE or not self._judges.offers(name):
            return await self._judges.judge(name, item, None), None
        try:
            model = await self._model() if self._judges.needs_model(name) else None
            return await self._judges.ask(name, item, model), None
        except RuntimePausedError:
            raise
        except TmdeError as error:
            reason = f"The judge could not be asked: {error.detail}"
            return Verdict(score=None, reasons=(reason,), judge=name), error


def make_judge_item(question: Question, answer: str) -> JudgeItem:
    """Return the question and the answer in the form that judges receive."""
    return JudgeItem(
        question=question.query,
        answer=answer,
        reference=question.reference,
        check=question.check,
        rubric=question.rubric,
        criteria=question.criteria,
    )


def combine_verdicts(
    criteria: Sequence[Criterion], verdicts: Sequence[Verdict], problem: TmdeError | None = None
) -> AnswerScore:
    """Return the weighted mean over the scored criteria, if they hold at least half of the weight.

    Otherwise the score is None.
    """
    told: Mapping[str, float] = {name: score for verdict in verdicts for name, score in verdict.criteria.items()}
    scores = {criterion.name: told.get(criterion.name) for criterion in criteria}
    reasons = tuple(reason for verdict in verdicts for reason in verdict.reasons)
    return AnswerScore(
        score=weighted_mean(criteria, scores), criteria=scores, reasons=reasons, judge_error=_detail(problem)
    )


def _checked(criteria: Sequence[Criterion]) -> bool:
    return any(criterion.check is not None for criterion in criteria)


def _detail(problem: TmdeError | None) -> str | None:
    return problem.detail if problem else None
