"""Decide criteria without a model, with one function for each kind of `tmde_core.sdk.judges.Check`.

An empty answer passes no check, not even a check that only forbids something.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

from tmde_bench_default.checks.code import find_test_problems, run_tests
from tmde_bench_default.checks.committed import agrees, exact, find_number, show
from tmde_bench_default.checks.forms import LOOKS_LATIN, check_count, check_form, count_problems, form_problems, visible
from tmde_bench_default.checks.options import find_option
from tmde_bench_default.checks.reading.denial import gives_up, last_correction, offers_several
from tmde_bench_default.checks.reading.folding import fold_signs, plain
from tmde_bench_default.checks.reading.hedging import lists_others
from tmde_bench_default.checks.reading.marks import final_parts
from tmde_bench_default.checks.reading.thoughts import without_thoughts
from tmde_bench_default.checks.statements import find_asserted, find_stated
from tmde_core.sdk.judges import (
    Check,
    ChoiceCheck,
    CodeCheck,
    CountCheck,
    Criterion,
    FactsCheck,
    FormCheck,
    NumberCheck,
    RegexCheck,
)
from tmde_core.sdk.records import Record

MAX_ANSWER_CHARS = 50_000
"""The longest text that is checked. Of a longer answer only the end is checked, because the final answer is there."""

MAX_PATTERN_CHARS = 500
PATTERN_SECONDS = 0.5
"""The time limit for a pattern."""


class CheckResult(Record):
    """The result of a check."""

    score: float | None
    """The score from 0 to 1, or None if the answer could not be checked."""
    reason: str


async def run_check(check: Check, answer: str) -> CheckResult:
    """Check one answer. What a thinking model thinks before it is left out.

    Raises:
        InvalidInputError, WorkerFailedError: a code check could not be run.
    """
    answer = shown_part(answer)
    if not answer.strip():
        return CheckResult(score=0.0, reason="The answer is empty.")
    match check:
        case CodeCheck():
            return await _code(answer, check)
        case RegexCheck():
            return await asyncio.to_thread(_regex, answer, check)
        case NumberCheck():
            return _number(answer, check)
        case ChoiceCheck():
            return _choice(answer, check)
        case FactsCheck():
            return _facts(answer, check)
        case CountCheck():
            score, reason = check_count(answer, check)
            return CheckResult(score=score, reason=reason)
        case FormCheck():
            score, reason = check_form(answer, check)
            return CheckResult(score=score, reason=reason)


def shown_part(answer: str) -> str:
    """Return what is checked of an answer: the end of it, without thoughts."""
    return without_thoughts(answer)[-MAX_ANSWER_CHARS:]


def search_pattern(pattern: str, answer: str) -> tuple[bool | None, str]:
    """Return whether the pattern occurs, ignoring case, or None and the reason if the search failed.

    The `regex` package is used because its search has a time limit.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        return None, f"The pattern has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are allowed."
    try:
        found = regex.search(pattern, answer, flags=regex.IGNORECASE, timeout=PATTERN_SECONDS, concurrent=True)
    except TimeoutError:
        return None, f"The pattern took longer than {PATTERN_SECONDS} s; make it simpler."
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        return None, f"The pattern is not a valid regular expression: {error}."
    return found is not None, f"The pattern {'occurs' if found else 'does not occur'} in the answer."


def _number(answer: str, check: NumberCheck) -> CheckResult:
    found, reason = find_number(answer)
    if found is None:
        return CheckResult(score=0.0, reason=f"{reason} Expected {check.value:g}.")
    right = agrees(found, exact(check.value), exact(check.tolerance))
    return CheckResult(score=float(right), reason=f"Its number is {show(found)}; expected {check.value:g}.")


def _choice(answer: str, check: ChoiceCheck) -> CheckResult:
    found, reason = find_option(answer, check.options)
    right = found is not None and plain(found) == plain(check.answer)
    return CheckResult(
        score=float(right), reason=f"It chooses {found!r}; expected {check.answer!r}." if found else reason
    )


def _facts(answer: str, check: FactsCheck) -> CheckResult:
    text = plain(answer)
    if wrong := next((wording for wording in check.forbidden if find_stated(text, plain(wording))), None):
        return CheckResult(score=0.0, reason=f"It says {wrong!r}, which is wrong.")
    if gives_up(text):
        return CheckResult(score=0.0, reason="It says that it cannot tell.")
    facts = [tuple(filter(None, map(plain, fact))) for fact in check.facts]
    wordings = [wording for fact in facts for wording in fact]
    if offers_several(text) or lists_others(text, wordings) or lists_others(_itemised(answer), wordings):
        return CheckResult(score=0.0, reason="It lists candidates and settles on none.")
    if len(facts) == 1 and _answers_differ(answer, facts[0]):
        return CheckResult(score=0.0, reason="It names more than one final answer.")
    missing = [
        names[0]
        for names, fact in zip(check.facts, facts, strict=True)
        if not any(find_asserted(text, wording, wordings) for wording in fact)
    ]
    share = 1 - len(missing) / len(check.facts) if check.facts else 1.0
    return CheckResult(
        score=share,
        reason=f"It does not say {', '.join(missing)}." if missing else "It states every fact that it must.",
    )


_LIST_LINE = re.compile(r"\s*(?:[-*•+]|\(?\d{1,3}[.):])\s+(\S.*)")


def _itemised(answer: str) -> str:
    """Return the items of an answer that is nothing but a list of several lines, with `|` between them."""
    lines = [line for line in answer.splitlines() if line.strip()][:50]
    items = [match[1] for line in lines if (match := _LIST_LINE.fullmatch(line))]
    return " | ".join(map(plain, items)) if len(items) > 1 and len(items) == len(lines) else ""


def _answers_differ(answer: str, wordings: Sequence[str]) -> bool:
    """Return whether the answer marks several final answers without a correction, and only some state the fact."""
    text = fold_signs(answer)
    marks = final_parts(text)
    if len(marks) < 2 or last_correction(text[marks[0].begin : marks[-1].begin]) is not None:
        return False
    ends = [*(mark.start for mark in marks[1:]), len(text)]
    parts = [
        plain(text[mark.begin : min(end, mark.begin + len(mark.text))]) for mark, end in zip(marks, ends, strict=True)
    ]
    return len({any(find_stated(part, wording) for wording in wordings) for part in parts}) > 1


def _regex(answer: str, check: RegexCheck) -> CheckResult:
    found, reason = search_pattern(check.pattern, answer)
    if found is False and not answer.isascii():
        seen = visible(answer)  # a pattern is not hidden from it by invisible characters
        variants = {seen, seen.translate(LOOKS_LATIN)} if check.absent else {seen}
        for variant in variants - {answer}:
            if not found:
                found, reason = search_pattern(check.pattern, variant)
    return CheckResult(score=None if found is None else float(found != check.absent), reason=reason)


async def _code(answer: str, check: CodeCheck) -> CheckResult:
    result = await run_tests(answer, check)
    failure = f" First failure: {result.failure}." if result.failure else ""
    return CheckResult(
        score=result.passed / result.tests, reason=f"Its code passes {result.passed} of {result.tests} tests.{failure}"
    )


# ---------------------------------------------------------------------------------- what is wrong with a check itself


def problems(criterion: Criterion) -> list[str]:
    """Return why a criterion's check cannot work, one sentence for each problem.

    The list is empty if the check works, or if a judge decides the criterion.
    """
    match criterion.check:
        case None:
            return []
        case RegexCheck(pattern=pattern):
            return _pattern_problems(pattern)
        case CodeCheck(tests=tests):
            return find_test_problems(tests)
        case CountCheck() as check:
            return count_problems(check)
        case FormCheck() as check:
            return form_problems(check)
        case NumberCheck(value=value, tolerance=tolerance):
            finite = math.isfinite(value) and math.isfinite(tolerance)
            return [] if finite else ["The number check's value and tolerance must be finite numbers."]
        case ChoiceCheck(answer=answer, options=options):
            return _choice_problems(answer, options)
        case FactsCheck(facts=facts, forbidden=forbidden):
            if not facts and not forbidden:
                return ["The facts check has neither facts nor forbidden wordings: every answer would pass."]
            empty = any(not fact or not all(wording.strip() for wording in fact) for fact in facts)
            blank = not all(wording.strip() for wording in forbidden)
            return ["A fact needs at least one wording, and no wording may be empty."] if empty or blank else []


def _pattern_problems(pattern: str) -> list[str]:
    if not pattern:
        return ["The pattern is empty: every answer would match."]
    found, reason = search_pattern(pattern, "a" * 200 + "!")
    return [reason] if found is None else []


def _choice_problems(answer: str, options: Sequence[str]) -> list[str]:
    folded = [plain(option) for option in options]
    if len(folded) < 2 or not all(folded):
        return ["The choice check needs at least two options, none of them empty."]
    if len(set(folded)) < len(folded):
        return ["The choice check names an option twice."]
    return [] if plain(answer) in folded else [f"The answer {answer[:40]!r} is none of the options."]
