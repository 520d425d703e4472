"""Compare an answer with a reference by rule. The score is 10 if they agree and 0 if they do not.

If the reference is missing, the check unknown or the pattern invalid, nothing was compared, and there is no verdict.

If an item has criteria, their checks decide the criteria that have one (see `checks`), and a judge decides the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tmde_bench_default.checks.comparing import COMPARISONS, inferred_check
from tmde_bench_default.checks.deciding import problems, run_check, search_pattern, shown_part
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.judges import Criterion, JudgeItem, JudgeModel, Verdict

RIGHT, WRONG = 10.0, 0.0

RULES = 3
"""The version of the rules by which answers are checked. Version 2 reads each number, choice, fact and program whole.
Version 3 also reads Han numerals, diffs and doctests, and refuses what an answer only offers, asks or leaves open."""


class VerifierJudge:
    """Checks by rule. This judge needs no model."""

    async def score(self, item: JudgeItem, model: JudgeModel | None = None) -> Verdict:  # noqa: ARG002 the port's
        """Compare the answer with the reference, or decide its criteria."""
        if item.criteria:
            return await check_criteria(item.answer, item.criteria)
        reference = (item.reference or "").strip()
        if not reference:
            return _none("There is no reference answer to compare with.")
        check = item.check or inferred_check(reference)
        if check is None:
            return _none("The reference is prose; say how to compare it (number, choice, exact, contains or regex).")
        answer = shown_part(item.answer)
        if check == "regex":
            return await asyncio.to_thread(check_regex, answer, reference)
        if check not in COMPARISONS:
            return _none(f"There is no check called {check!r}; there are {', '.join([*COMPARISONS, 'regex'])}.")
        right, reason = COMPARISONS[check](answer, reference)
        return _none(reason) if right is None else _verdict(right, reason)

    def problems(self, criterion: Criterion) -> Sequence[str]:
        """Return the problems of a criterion's check. See `tmde_core.sdk.judges.CheckingJudge`."""
        return problems(criterion)


async def check_criteria(answer: str, criteria: Sequence[Criterion]) -> Verdict:
    """Check each criterion that has a check and return their weighted mean.

    A criterion that could not be checked is left out, and the reasons say why.
    """
    scores: dict[str, float] = {}
    reasons: list[str] = []
    total = weight = 0.0
    for criterion in criteria:
        if criterion.check is None:
            continue
        try:
            outcome = await run_check(criterion.check, answer)
        except TmdeError as error:
            reasons.append(f"{criterion.name}: {error.detail}")
            continue
        reasons.append(f"{criterion.name}: {outcome.reason}")
        if outcome.score is not None:
            scores[criterion.name] = round(10 * outcome.score, 3)
            total += criterion.weight * outcome.score
            weight += criterion.weight
    if not scores:
        return Verdict(score=None, reasons=tuple(reasons) or ("No criterion has a check.",), judge="verifier")
    return Verdict(score=round(10 * total / weight, 3), reasons=tuple(reasons), criteria=scores, judge="verifier")


def check_regex(answer: str, pattern: str) -> Verdict:
    """Check whether the pattern occurs in the answer, ignoring case."""
    found, reason = search_pattern(pattern, answer)
    return _none(reason) if found is None else _verdict(found, reason)


def _verdict(right: bool, reason: str) -> Verdict:
    score = RIGHT if right else WRONG
    return Verdict(score=score, reasons=(reason,), criteria={"correct": score}, judge="verifier")


def _none(reason: str) -> Verdict:
    return Verdict(score=None, reasons=(reason,), judge="verifier")
