"""Does the judge agree with people? Its scores of answers that people rated, against those ratings.

Spearman's ρ says whether it ranks as people do; the mean error whether it is harsher or milder, the mean absolute error
how far off it is. A judge with a high ρ and a large mean error still tells better from worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tmde_core.records.base import Record


class Rated(Record):
    """An answer and what a person gave it, 1–10."""

    question: str
    answer: str
    rating: float


class CalibrationReport(Record):
    """How a judge compares with people."""

    judge: str
    n: int
    """Answers that both have scored."""
    unscored: int
    """Answers that the judge gave no verdict on."""
    spearman: float | None = None
    """−1 to 1; None: fewer than three answers, or no spread on one side."""
    p: float | None = None
    mean_error: float | None = None
    """Judge minus person, points of 10."""
    mean_absolute_error: float | None = None
    advice: str = ""


TRUSTWORTHY = 0.6
"""From here on a ranking is called substantial agreement in the literature on LLM judges."""


def report(judge: str, rated: Sequence[float], judged: Sequence[float | None]) -> CalibrationReport:
    """Compare a judge's scores (None: no verdict) with people's ratings of the same answers."""
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
