"""What a judge is given and what it returns: answers, criteria with their checks, and verdicts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record


class NumberCheck(Record, tag_field="kind", tag="number"):
    """The number that the answer commits to is `value`, within `tolerance`, in the same unit."""

    value: float
    """The right number."""
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    """The largest difference that passes."""


class ChoiceCheck(Record, tag_field="kind", tag="choice"):
    """The answer commits to the option `answer` and to no other."""

    answer: str
    """The right option."""
    options: tuple[str, ...]
    """All options, the right one among them."""


class FactsCheck(Record, tag_field="kind", tag="facts"):
    """The answer states the facts. Any wording of a fact will do. The score is the share of facts stated."""

    facts: tuple[tuple[str, ...], ...]
    """The facts, each as a tuple of wordings."""
    forbidden: tuple[str, ...] = ()
    """Wordings that make the answer wrong."""


class RegexCheck(Record, tag_field="kind", tag="regex"):
    """The pattern occurs in the answer, or does not with `absent`. Case is ignored, except in `(?-i:…)`."""

    pattern: str
    """A pattern of Python's `re`."""
    absent: bool = False
    """Whether the pattern must not occur."""


class CountCheck(Record, tag_field="kind", tag="count"):
    """The answer has the right length."""

    of: Literal["words", "lines", "sentences", "characters"]
    """What is counted."""
    minimum: Annotated[int, Meta(ge=0)] = 0
    """The fewest that pass."""
    maximum: Annotated[int, Meta(ge=0)] | None = None
    """The most that pass; None: no limit."""


class FormCheck(Record, tag_field="kind", tag="form"):
    """The answer has a form: first letters of its lines, words it must use, how it begins or ends, JSON of a shape."""

    form: Literal["acrostic", "must-use", "starts-with", "ends-with", "json", "list", "no-letter", "unique-words"]
    """What the text must be like."""
    value: str = ""
    """`acrostic`: the word; `must-use`: words between commas; `json`: a JSON Schema; `list`: number of items; `no-letter`: the letter."""


class CodeCheck(Record, tag_field="kind", tag="code"):
    """The Python code in the answer passes the tests. Each test is run by itself. The score is the share of tests passed."""

    tests: tuple[str, ...]
    """The tests; each is a few statements with `assert`s."""
    seconds: Annotated[float, Meta(gt=0, le=30)] = 5.0
    """The time for all tests together."""


Check = NumberCheck | ChoiceCheck | FactsCheck | RegexCheck | CountCheck | FormCheck | CodeCheck
"""Every kind of check."""


class Criterion(Record):
    """One thing that counts in an answer. With a `check` the machine decides, without one a judge, by the description."""

    name: str
    """Unique within the question."""
    weight: Annotated[float, Meta(gt=0, le=100)] = 1.0
    """Its share of the score, relative to the other criteria."""
    description: str = ""
    """What the judge looks at."""
    check: Check | None = None
    """How a machine decides; None: the judge decides."""


class JudgeItem(Record):
    """One answer to be judged."""

    question: str
    """The question."""
    answer: str
    """The answer. It is foreign text: quote it before a model reads it."""
    reference: str | None = None
    """The right answer, where there is one."""
    check: str | None = None
    """How `reference` is compared: number, choice, exact, contains or regex. None: the judge decides."""
    rubric: str | None = None
    """What a good answer has, in words."""
    criteria: tuple[Criterion, ...] = ()
    """What counts, by name and weight. Empty: `check` and `rubric` decide."""


class Verdict(Record):
    """What a judge returns. `score` None means no verdict, which is never the same as 0."""

    score: float | None
    """0–10; None: no verdict."""
    reasons: tuple[str, ...] = ()
    """Why, one sentence each. Also without a score."""
    criteria: dict[str, float] = msgspec.field(default_factory=dict)
    """The score of each criterion by its name, 0–10."""
    judge: str = ""
    """The judge's name; TMDE fills it in."""
