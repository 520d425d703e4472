"""One answer's score: the machine tells what it can, the judge the rest, and what nobody can tell stays open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from tmde_core.benchmark.results.metrics import weighted
from tmde_core.debate.judging import AUTO, NONE, Judges
from tmde_core.errors import TmdeError
from tmde_core.records.base import Record
from tmde_core.records.judging import Criterion, JudgeItem, Verdict
from tmde_core.records.questions import Question
from tmde_core.sdk.judges import JudgeModel

JudgeModelSource = Callable[[], Awaitable[JudgeModel | None]]
"""Starts the judge's model only when a criterion needs it."""


class Score(Record):
    """What was made of one answer."""

    score: float | None
    """0–10; None: no verdict."""
    criteria: dict[str, float | None] = msgspec.field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    judge_error: str | None = None
    """Why the judge's model could not be asked, where it was needed."""


class Scorer:
    """Scores answers with the machine's checks and one judge."""

    def __init__(self, judges: Judges, judge: str, model: JudgeModelSource) -> None:
        self._judges = judges
        self._judge = judges.default if judge == AUTO else judge
        self._model = model

    async def score(self, question: Question, answer: str) -> Score:
        """Judge one answer. Never raises for a judge's sake: what it cannot score is open, never 0."""
        item = item_of(question, answer)
        if not question.criteria:
            return await self._simple(item)
        verdicts = []
        if _checked(question.criteria):
            verdicts.append(await self._judges.judge(self._judges.checking, item, None))
        problem = None
        if not self._judges.checks(self._judge) and not all(criterion.check for criterion in question.criteria):
            verdict, problem = await self.ask(self._judge, item)
            verdicts.append(verdict)
        return combined(question.criteria, verdicts, problem)

    async def _simple(self, item: JudgeItem) -> Score:
        checkable = item.reference and (item.check or not item.rubric)
        name = self._judges.checking if checkable else self._judge
        verdict, problem = await self.ask(name, item)
        return Score(
            score=verdict.score, criteria=dict(verdict.criteria), reasons=verdict.reasons, judge_error=_detail(problem)
        )

    @property
    def model_judge(self) -> str | None:
        """The judge that asks a model; None when only the machine's checks score."""
        return self._judge if self._judges.needs_model(self._judge) else None

    async def ask(self, name: str, item: JudgeItem) -> tuple[Verdict, TmdeError | None]:
        """One judge's verdict, and why its model could not be asked; then there is no verdict."""
        if name == NONE or not self._judges.offers(name):
            return await self._judges.judge(name, item, None), None
        try:
            model = await self._model() if self._judges.needs_model(name) else None
            return await self._judges.ask(name, item, model), None
        except TmdeError as error:
            reason = f"The judge could not be asked: {error.detail}"
            return Verdict(score=None, reasons=(reason,), judge=name), error


def item_of(question: Question, answer: str) -> JudgeItem:
    """What judges are given."""
    return JudgeItem(
        question=question.query,
        answer=answer,
        reference=question.reference,
        check=question.check,
        rubric=question.rubric,
        criteria=question.criteria,
    )


def combined(criteria: Sequence[Criterion], verdicts: Sequence[Verdict], problem: TmdeError | None = None) -> Score:
    """The weighted mean over the criteria that somebody scored, when they hold at least half of the weight."""
    told: Mapping[str, float] = {name: score for verdict in verdicts for name, score in verdict.criteria.items()}
    scores = {criterion.name: told.get(criterion.name) for criterion in criteria}
    reasons = tuple(reason for verdict in verdicts for reason in verdict.reasons)
    return Score(score=weighted(criteria, scores), criteria=scores, reasons=reasons, judge_error=_detail(problem))


def _checked(criteria: Sequence[Criterion]) -> bool:
    return any(criterion.check is not None for criterion in criteria)


def _detail(problem: TmdeError | None) -> str | None:
    return problem.detail if problem else None
