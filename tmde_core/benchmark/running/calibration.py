"""Compares a judge's scores with people's ratings of the same answers.

Spearman's ρ shows whether the judge ranks answers as people do. The mean error shows whether the judge is harsher or
milder, and the mean absolute error shows how far its scores are from the ratings. A judge with a high ρ and a large
mean error still distinguishes better answers from worse ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tmde_core.records.base import Record


class Rated(Record):
    """An answer and a person's rating of the answer, 1–10."""

    question: str
    answer: str
    rating: float


class CalibrationReport(Record):
    """The result of comparing a judge with people."""

    judge: str
    n: int
    """The number of answers that both the judge and a person scored."""
    unscored: int
    """The number of answers without a verdict from the judge."""
    spearman: float | None = None
    """Spearman's ρ, −1 to 1; None for fewer than three answers, or if all scores on one side are equal."""
    p: float | None = None
    mean_error: float | None = None
    """The judge's score minus the person's rating, in points of 10."""
    mean_absolute_error: float | None = None
    advice: str = ""


TRUSTWORTHY = 0.6
"""From this ρ upward, the literature on LLM judges calls a ranking substantial agreement."""


def report(judge: str, rated: Sequence[float], judged: Sequence[float | None]) -> CalibrationReport:
    """Compare a judge's scores with people's ratings of the same answers; a score of None means no verdict."""
    pairs = [(person, score) for person, score in zip(rated, judged, strict=True) if score is not None]
    unscored = len(rated) - len(pairs)
    if not pairs:
        return CalibrationReport(
            judge=judge, n=0, unscored=unscored, advice="It gave no verdict at all. Choose another."
        )
    errors = [score - person for person, score in pairs]
    rho, p = _spearman(pairs)
    return CalibrationReport(
        judge=judge,
        n=len(pairs),
        unscored=unscored,
        spearman=rho,
        p=p,
        mean_error=math.fsum(errors) / len(errors),
        mean_absolute_error=math.fsum(map(abs, errors)) / len(errors),
        advice=_advice(rho, len(pairs)),
    )


def _spearman(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    people, judge = {one for one, _ in pairs}, {one for _, one in pairs}
    if len(pairs) < 3 or len(people) < 2 or len(judge) < 2:
        return None, None
    from scipy import stats

    found = stats.spearmanr([one for one, _ in pairs], [one for _, one in pairs])
    return float(found.statistic), float(found.pvalue)


def _advice(rho: float | None, n: int) -> str:
    if rho is None and n >= 10:
        return "Either your ratings or its scores are all equal, so there is no ranking to compare. Rate more debates."
    if rho is None or n < 10:
        return f"{n} answers are too few to tell. Rate more debates: ten at least, fifty for a firm answer."
    if rho >= TRUSTWORTHY:
        return "It ranks answers much as you do."
    return "It does not rank answers as you do. Choose another judge before you trust its verdicts."
