"""Describes what a judge receives and returns: answers, criteria with their checks, and verdicts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record


class NumberCheck(Record, tag_field="kind", tag="number"):
    """Passes if the answer commits to the number `value`, within `tolerance`, in the same unit."""

    value: float
    """The right number."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    """The largest difference that passes."""


class ChoiceCheck(Record, tag_field="kind", tag="choice"):
    """Passes if the answer commits to the option `answer` and to no other."""

    answer: str
    """The right option."""
    options: tuple[str, ...]
    """All options, including the right one."""


class FactsCheck(Record, tag_field="kind", tag="facts"):
    """Scores the share of facts that the answer states. Any wording of a fact counts."""

    facts: tuple[tuple[str, ...], ...]
    """The facts. Each fact is a tuple of wordings."""
    forbidden: tuple[str, ...] = ()
    """Wordings that make the answer wrong."""


class RegexCheck(Record, tag_field="kind", tag="regex"):
    """Passes if the pattern occurs in the answer, or does not occur with `absent`.

    Ignores case, except in `(?-i:…)`.
    """

    pattern: str
    """A pattern of Python's `re`."""
    absent: bool = False
    """Whether the pattern must not occur."""


class CountCheck(Record, tag_field="kind", tag="count"):
    """Passes if the answer has the right length."""

    of: Literal["words", "lines", "sentences", "characters"]
    """The unit that is counted."""
    minimum: Annotated[int, Meta(ge=0)] = 0
    """The smallest count that passes."""
    maximum: Annotated[int, Meta(ge=0)] | None = None
    """The largest count that passes; None: no limit."""


class FormCheck(Record, tag_field="kind", tag="form"):
    """Passes if the answer has a given format, such as an acrostic, required words, a fixed beginning, or JSON."""

    form: Literal["acrostic", "must-use", "starts-with", "ends-with", "json", "list", "no-letter", "unique-words"]
    """The required format."""
    value: str = ""
    """`acrostic`: the word; `must-use`: words separated by commas; `json`: a JSON Schema; `list`: number of items;
    `no-letter`: the letter."""


class CodeCheck(Record, tag_field="kind", tag="code"):
    """Scores the share of tests that the Python code in the answer passes. Each test runs separately."""

    tests: tuple[str, ...]
    """The tests. Each is a few statements with `assert`s."""
    seconds: Annotated[float, Meta(gt=0, le=30)] = 5.0
    """The time limit for all tests together, seconds."""


Check = NumberCheck | ChoiceCheck | FactsCheck | RegexCheck | CountCheck | FormCheck | CodeCheck
"""Every kind of check."""


class Criterion(Record):
    """One criterion for an answer.

    Its `check` decides automatically; without a check, a judge decides by the description.
    """

    name: str
    """Unique within the question."""
    weight: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """The weight of the criterion in the score, relative to the other criteria."""
    description: str = ""
    """What the judge evaluates."""
    check: Check | None = None
    """The automatic check; None: the judge decides."""


class JudgeItem(Record):
    """One answer for a judge to score."""

    question: str
    """The question."""
    answer: str
    """The answer. It is untrusted text: quote it before a model reads it."""
    reference: str | None = None
    """The right answer; None: there is none."""
    check: str | None = None
    """How the answer is compared with `reference`: number, choice, exact, contains or regex. None: the judge
    decides."""
    rubric: str | None = None
    """The properties of a good answer, in words."""
    criteria: tuple[Criterion, ...] = ()
    """The criteria with their weights. Empty: `check` and `rubric` decide."""


class Verdict(Record):
    """The result of a judge. A `score` of None means that there is no verdict, which is never the same as 0."""

    score: float | None
    """0–10; None: no verdict."""
    reasons: tuple[str, ...] = ()
    """The reasons, one sentence each. They may be given without a score."""
    criteria: dict[str, float] = msgspec.field(default_factory=dict)
    """The score of each criterion by its name, 0–10."""
    judge: str = ""
    """The judge's name; TMDE fills it in."""
