"""What a judge is given and what it says: answers, criteria with their checks, and verdicts."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tmde_core.records.base import Record


class NumberCheck(Record, tag_field="kind", tag="number"):
    """The answer's number (the last one it commits to) is `value` within `tolerance`, in the same unit."""

    value: float
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    """Absolute."""


class ChoiceCheck(Record, tag_field="kind", tag="choice"):
    """The answer commits to one of `options`, and that is `answer`."""

    answer: str
    options: tuple[str, ...]


class FactsCheck(Record, tag_field="kind", tag="facts"):
    """The answer states the facts: each is a tuple of wordings, any of which will do. The score is the share stated."""

    facts: tuple[tuple[str, ...], ...]
    forbidden: tuple[str, ...] = ()
    """Wordings that make the answer wrong."""


class RegexCheck(Record, tag_field="kind", tag="regex"):
    """The pattern occurs in the answer, or with `absent` does not. Case is ignored but in `(?-i:…)`."""

    pattern: str
    absent: bool = False


class CountCheck(Record, tag_field="kind", tag="count"):
    """How long the answer is."""

    of: Literal["words", "lines", "sentences", "characters"]
    minimum: Annotated[int, Meta(ge=0)] = 0
    maximum: Annotated[int, Meta(ge=0)] | None = None


class FormCheck(Record, tag_field="kind", tag="form"):
    """The form of a text: first letters of its lines, words it must use, how it begins or ends, JSON of a shape."""

    form: Literal["acrostic", "must-use", "starts-with", "ends-with", "json", "list", "no-letter", "unique-words"]
    value: str = ""
    """`acrostic`: the word; `must-use`: words between commas; `json`: a JSON Schema; `list`: number of items; `no-letter`: the letter."""


class CodeCheck(Record, tag_field="kind", tag="code"):
    """The Python code in the answer passes tests, each a line of assertions that is run by itself; the score is the share passed."""

    tests: tuple[str, ...]
    seconds: Annotated[float, Meta(gt=0, le=30)] = 5.0
    """For all tests together."""


Check = NumberCheck | ChoiceCheck | FactsCheck | RegexCheck | CountCheck | FormCheck | CodeCheck


class Criterion(Record):
    """One thing that counts in an answer. With a `check` a machine tells; without one a judge does, by the description."""

    name: str
    weight: Annotated[float, Meta(gt=0, le=100)] = 1.0
    description: str = ""
    check: Check | None = None


class JudgeItem(Record):
    """One answer to be judged."""

    question: str
    answer: str
    reference: str | None = None
    check: str | None = None
    """How `reference` is compared: number, choice, exact, contains or regex. None: the judge decides."""
    rubric: str | None = None
    criteria: tuple[Criterion, ...] = ()
    """What counts, by name and weight; empty: `check` and `rubric` say it all."""


class Verdict(Record):
    """What a judge says. `score` None is "no verdict", which is never the same as 0."""

    score: float | None
    """0–10."""
    reasons: tuple[str, ...] = ()
    criteria: dict[str, float] = msgspec.field(default_factory=dict)
    """Score of each criterion, 0–10."""
    judge: str = ""
