"""Compare an answer with a reference by rule. The score is 10 if they agree and 0 if they do not.

If the reference is missing, the check unknown or the pattern invalid, nothing was compared, and there is no verdict.

If an item has criteria, their checks decide the criteria that have one (see `checks`), and a judge decides the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tmde_bench_default.checks.answers import (
    choice_in,
    final_part,
    normalise_answer,
    number_in,
    parse_number,
    tolerance,
)
from tmde_bench_default.checks.deciding import MAX_ANSWER_CHARS, problems, run_check, search_pattern
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.judges import Criterion, JudgeItem, JudgeModel, Verdict

RIGHT, WRONG = 10.0, 0.0

LONGEST_CONTAINED = 80
"""The longest reference that is compared without a check, in characters. A longer one is prose, which no rule can
compare."""


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
        answer = item.answer[-MAX_ANSWER_CHARS:]
        if check == "regex":
            return await asyncio.to_thread(check_regex, answer, reference)
        if check not in CHECKS:
            return _none(f"There is no check called {check!r}; there are {', '.join([*CHECKS, 'regex'])}.")
        return CHECKS[check](answer, reference)

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


def inferred_check(reference: str) -> str | None:
    """Return the check for a reference without one: number or choice if it is one, else contains, or None for prose."""
    if parse_number(reference) is not None:
        return "number"
    if len(reference) == 1 and reference.isalpha() and reference.isascii():
        return "choice"
    return "contains" if len(reference) <= LONGEST_CONTAINED else None


def check_number(answer: str, reference: str) -> Verdict:
    """Compare the answer's final number with the reference's number."""
    wanted = parse_number(reference)
    if wanted is None:
        return _none(f"The reference {reference[:40]!r} is not a number.")
    found = number_in(answer)
    if found is None:
        return _verdict(False, f"The answer has no number; expected {reference}.")
    return _verdict(
        abs(found - wanted) <= tolerance(reference, wanted), f"The answer's number is {found:g}; expected {reference}."
    )


def check_choice(answer: str, reference: str) -> Verdict:
    """Compare the letter, or the word of a known set such as yes and no, that the answer chooses."""
    wanted = reference.strip(" ().:").casefold()
    found = choice_in(answer, wanted)
    return _verdict(
        found == wanted,
        f"The answer chooses {found!r}; expected {reference!r}." if found else "The answer chooses nothing.",
    )


def check_exact(answer: str, reference: str) -> Verdict:
    """Check whether the answer or its final part equals the reference, ignoring case, punctuation and spaces."""
    wanted = normalise_answer(reference)
    marked = final_part(answer)
    right = normalise_answer(answer) == wanted or (marked is not None and normalise_answer(marked) == wanted)
    return _verdict(right, "The answer equals the reference." if right else "The answer differs from the reference.")


def check_contains(answer: str, reference: str) -> Verdict:
    """Check whether the answer contains the reference's words, together and in order."""
    wanted = normalise_answer(reference)
    right = bool(wanted) and f" {wanted} " in f" {normalise_answer(answer)} "
    return _verdict(right, f"The answer {'contains' if right else 'does not contain'} {reference[:80]!r}.")


def check_regex(answer: str, pattern: str) -> Verdict:
    """Check whether the pattern occurs in the answer, ignoring case."""
    found, reason = search_pattern(pattern, answer)
    return _none(reason) if found is None else _verdict(found, reason)


CHECKS: dict[str, Callable[[str, str], Verdict]] = {
    "number": check_number,
    "choice": check_choice,
    "exact": check_exact,
    "contains": check_contains,
}


def _verdict(right: bool, reason: str) -> Verdict:
    score = RIGHT if right else WRONG
    return Verdict(score=score, reasons=(reason,), criteria={"correct": score}, judge="verifier")


def _none(reason: str) -> Verdict:
    return Verdict(score=None, reasons=(reason,), judge="verifier")
