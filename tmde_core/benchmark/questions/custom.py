"""Validates the user's own questions and explains each error in one clear sentence."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import msgspec

from tmde_core.benchmark.questions.rubric import INNER_NAMES, OUTER_NAMES, describe_criteria
from tmde_core.debate.question import check_question
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import to_invalid_input, to_json
from tmde_core.records.benchmark import DOMAINS
from tmde_core.records.judging import (
    ChoiceCheck,
    CodeCheck,
    CountCheck,
    Criterion,
    FactsCheck,
    FormCheck,
    NumberCheck,
    RegexCheck,
)
from tmde_core.records.questions import Question
from tmde_core.settings import MAX_QUERY_BYTES
from tmde_core.storage.words import is_blank

DIFFICULTIES = ("easy", "medium", "hard")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_TEXT = 8_000
MAX_CRITERIA = 20
SIMPLE_CHECKS = ("number", "choice", "exact", "contains", "regex")
"""The checks that compare an answer with the reference, for questions without criteria."""
NO_REFERENCE = "is empty. Give a right answer, or a criterion with a check, which needs none"
NO_RUBRIC = (
    "is empty. Say what a good answer has, or name a check, which needs no rubric: "
    f"`check` is one of {', '.join(SIMPLE_CHECKS)}"
)


READ_ONLY = frozenset({"suite", "isBuiltIn", "createdAt", "quick"})
"""Fields of a listed question that are ignored, so that a listed question can be sent back."""


def decode_question(given: Mapping[str, Any]) -> Question:
    """Return a fully validated question built from its wire form; create an id if none is given.

    `question`, `referenceAnswer` and `scoringRubric` may also be called `query`, `reference` and `rubric`.

    Raises:
        InvalidInputError: A field is missing, unknown or wrong. The error's context has `field`.
    """
    values: dict[Any, Any] = {"id": f"own-{uuid4().hex[:8]}"}
    for name, value in given.items():
        inner = INNER_NAMES.get(name, name)
        if inner != name and inner in given:
            raise _wrong(name, f"it stands there twice, also as `{inner}`; give one of them")
        if name not in READ_ONLY and not (name == "id" and value is None):
            values[inner] = value
    if "query" not in values:
        raise _wrong("question", "this field is missing")
    if odd := next((name for name in values if not isinstance(name, str)), None):
        raise InvalidInputError(f"{str(odd)[:40]!r}: the names of fields must be text.", field=str(odd)[:40])
    difficulty = values.get("difficulty")
    if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
        raise _wrong("difficulty", f"{difficulty[:40]!r} is not one of {', '.join(DIFFICULTIES)}")
    try:
        question = msgspec.convert(values, Question)
        to_json(question)
    except msgspec.ValidationError as error:
        raise _with_outer_name(to_invalid_input(error, Question)) from None
    except UnicodeEncodeError:
        raise _wrong("question", "or another text holds half a character (a lone surrogate); write it anew") from None
    if "domain" not in values:
        raise _wrong("domain", f"this field is missing; it is one of {', '.join(DOMAINS)}")
    _check_words(question)
    if not question.criteria:
        _check_simple(question)
    elif question.rubric == describe_criteria(question.criteria):
        question = msgspec.structs.replace(question, rubric=None)  # a listed question that is sent back
    _check_criteria(question.criteria)
    if question.criteria and not any(criterion.check for criterion in question.criteria):
        _require(question.reference, "referenceAnswer", NO_REFERENCE)
    return question


def _check_words(question: Question) -> None:
    if not ID.fullmatch(question.id):
        raise _wrong("id", "must be 1 to 80 of letters, digits, `.`, `_` and `-`, beginning with a letter or digit")
    if is_blank(question.query):
        raise _wrong("question", "is empty; a question belongs there")
    if len(question.query.encode("utf-8", "replace")) > MAX_QUERY_BYTES:
        raise _wrong("question", f"is longer than {MAX_QUERY_BYTES // 1024} KiB")
    check_question(question.query, "question")  # a debate would refuse binary data in every run
    if question.domain not in DOMAINS:
        raise _wrong("domain", f"{question.domain[:40]!r} is not one of {', '.join(DOMAINS)}")


def _check_simple(question: Question) -> None:
    """Check that a question without criteria has what its check, or else a judge, needs to score an answer."""
    if question.check is not None and question.check not in SIMPLE_CHECKS:
        raise _wrong("check", f"{question.check[:40]!r} is not one of {', '.join(SIMPLE_CHECKS)}")
    _require(question.reference, "referenceAnswer", NO_REFERENCE)
    if question.check is None:
        _require(question.rubric, "scoringRubric", NO_RUBRIC)
    if question.check == "regex" and question.reference:
        problem = _pattern_problem(question.reference)
        if problem:
            raise _wrong("referenceAnswer", problem)


def _require(text: str | None, field: str, sentence: str) -> None:
    if is_blank(text or ""):
        raise _wrong(field, sentence)


def _with_outer_name(error: InvalidInputError) -> InvalidInputError:
    """Return an error about a field of `Question` with the name that the field has outside."""
    field = error.context.get("field")
    if field not in OUTER_NAMES:
        return error
    return InvalidInputError(error.detail.replace(f"{field}:", f"{OUTER_NAMES[field]}:", 1), field=OUTER_NAMES[field])


def _check_criteria(criteria: tuple[Criterion, ...]) -> None:
    if len(criteria) > MAX_CRITERIA:
        raise _wrong("criteria", f"has {len(criteria)} entries; {MAX_CRITERIA} are the most")
    names = [criterion.name for criterion in criteria]
    for number, criterion in enumerate(criteria):
        field = f"criteria[{number}]"
        if not criterion.name.strip() or len(criterion.name) > 80:
            raise _wrong(f"{field}.name", "must have 1 to 80 characters")
        if names.count(criterion.name) > 1:
            raise _wrong(f"{field}.name", f"{criterion.name!r} stands there twice; names must differ")
        if criterion.check is None and not criterion.description.strip():
            raise _wrong(f"{field}.description", "is empty: without a check a judge needs to know what to look for")
        problem = find_check_problem(criterion)
        if problem:
            raise _wrong(f"{field}.check", problem)


def find_check_problem(criterion: Criterion) -> str | None:
    """Return the reason why a criterion's check can never work, or None if the check can work."""
    check = criterion.check
    if isinstance(check, RegexCheck):
        return _pattern_problem(check.pattern)
    if isinstance(check, NumberCheck):
        return None if abs(check.value) < 1e300 else "the number is too large"
    if isinstance(check, ChoiceCheck):
        folded = [option.casefold() for option in check.options]
        if len(set(folded)) < 2:
            return "a choice needs at least two different options"
        return None if check.answer.casefold() in folded else f"the answer {check.answer!r} is none of the options"
    if isinstance(check, FactsCheck):
        if not check.facts or not all(any(word.strip() for word in fact) for fact in check.facts):
            return "every fact needs at least one wording"
        return None
    if isinstance(check, CountCheck):
        if check.maximum is not None and check.maximum < check.minimum:
            return f"the minimum ({check.minimum}) is above the maximum ({check.maximum})"
        return None if check.minimum or check.maximum is not None else "it counts, but names no limit"
    if isinstance(check, CodeCheck):
        return _code_problem(check)
    if isinstance(check, FormCheck):
        return _form_problem(check)
    return None


def _pattern_problem(pattern: str) -> str | None:
    if not pattern:
        return "the pattern is empty"
    if len(pattern) > MAX_TEXT:
        return f"the pattern is longer than {MAX_TEXT:,} characters"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"the pattern is no regular expression: {error}"
    return None


def _code_problem(check: CodeCheck) -> str | None:
    if not check.tests:
        return "a code check needs at least one test"
    for number, test in enumerate(check.tests, 1):
        try:
            ast.parse(test)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"test {number} is no Python: {error.__class__.__name__}: {error}"
    return None


def _form_problem(check: FormCheck) -> str | None:
    if check.form == "unique-words":
        return None
    if not check.value.strip():
        return f"the form {check.form!r} needs a value"
    if check.form == "list" and not (check.value.isascii() and check.value.isdigit() and 0 < int(check.value) < 1000):
        return "the value of `list` is the number of items"
    if check.form == "no-letter" and len(check.value.strip()) != 1:
        return "the value of `no-letter` is one letter"
    if check.form == "json":
        try:
            schema = json.loads(check.value)
        except (ValueError, RecursionError) as error:
            return f"the value of `json` is no JSON Schema: {error}"
        return None if isinstance(schema, dict) else "the value of `json` is no JSON Schema: it must be an object"
    return None


def _wrong(field: str, sentence: str) -> InvalidInputError:
    return InvalidInputError(f"{field}: {sentence}.", field=field)
