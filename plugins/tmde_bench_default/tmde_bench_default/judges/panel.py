"""Let several judges grade the same answer. Their mean is the score, and the verdict reports how far they differ.

If the Judge role has several models (`tmde_core.sdk.judges.ModelPanel`), each of them is a judge. If it has one model,
the model is asked in three ways that differ in order and wording. The mean then depends less on how the model was
asked.

A criterion, or an answer without criteria, needs a grade from at least half of the judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from statistics import fmean

from tmde_bench_default.judges.rubric import PLAIN, Framing, Grade, ask_grade, by_criterion, no_verdict, open_criteria
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.judges import Criterion, JudgeItem, JudgeModel, ModelPanel, Verdict

FRAMINGS = (
    PLAIN,
    Framing(task="First look for what is wrong with this answer, then grade it with a number"),
    Framing(task="Say with a number how good this answer is", answer_first=True),
)

ENOUGH = 0.5
"""The share of the judges that must have given a grade."""


class PanelJudge:
    """Asks several judges."""

    async def score(self, item: JudgeItem, model: JudgeModel | None) -> Verdict:
        """Return the verdict of the panel. See the module's docstring."""
        if model is None:
            return no_verdict("The panel needs a model and was given none.", "panel")
        judges = _judges(model)
        if not item.criteria:
            told = combine_grades(await _asked(judges, item, None))
            criteria = {} if told.score is None else {"overall": told.score}
            return Verdict(score=told.score, reasons=(told.reason,), criteria=criteria, judge="panel")
        grades = {one.name: combine_grades(await _asked(judges, item, one)) for one in open_criteria(item)}
        return by_criterion(item.criteria, grades, "panel")


def combine_grades(grades: Sequence[Grade]) -> Grade:
    """Return the mean of the available grades, and how far they differ."""
    scores = [grade.score for grade in grades if grade.score is not None]
    if len(scores) < ENOUGH * len(grades) or not scores:
        why = next((grade.reason for grade in grades if grade.score is None), "")
        return Grade(score=None, reason=f"Only {len(scores)} of {len(grades)} judges gave a grade. {why}".strip())
    listed = ", ".join("none" if grade.score is None else f"{grade.score:.1f}" for grade in grades)
    apart = max(scores) - min(scores)
    return Grade(
        score=round(fmean(scores), 3),
        reason=f"Mean of {len(scores)} judges {fmean(scores):.1f} ({listed}); they differ by {apart:.1f}.",
    )


def _judges(model: JudgeModel) -> list[tuple[JudgeModel, Framing]]:
    members = list(model.members) if isinstance(model, ModelPanel) else []
    if len(members) > 1:
        return [(member, PLAIN) for member in members]
    return [(model, framing) for framing in FRAMINGS]


async def _asked(
    judges: Sequence[tuple[JudgeModel, Framing]], item: JudgeItem, criterion: Criterion | None
) -> list[Grade]:
    asked = (_or_none(ask_grade(model, item, criterion, framing)) for model, framing in judges)
    return list(await asyncio.gather(*asked))


async def _or_none(grade: Awaitable[Grade]) -> Grade:
    """Return no grade if a judge fails, so that the other judges' grades still count."""
    try:
        return await grade
    except TmdeError as error:
        return Grade(score=None, reason=error.detail)
