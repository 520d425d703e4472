"""Check a converted model with twenty-four fixed simple questions whose answers a program can verify.

A conversion can be fast and destroy a model: Q4_0 made from Q4_1 left 1 right answer of 24, while every valid
conversion of the embedded model gave about 20. This is a check of weights, not a benchmark of reasoning.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable

import msgspec

from tmde_core.sdk.records import Record
from tmde_core.sdk.runtimes import ChatEnd, ChatRequest, Message, ModelRuntime
from tmde_core.sdk.thoughts import read_answer

EXTRACT = 'Extract the name and {what} from this text as JSON with the keys "name" and "{what}".\n\nText: {text}'

PEOPLE = (
    ("Tom is 42 years old and works as a baker.", "Tom", 42),
    ("My neighbour Clara turned 29 last week.", "Clara", 29),
    ("At the age of 63, Henry learned to swim.", "Henry", 63),
    ("Lucy, 17, plays the violin in the school orchestra.", "Lucy", 17),
    ("The winner was Oscar, who is 35 years old.", "Oscar", 35),
    ("Julia celebrated her 50th birthday; she is now 50.", "Julia", 50),
    ("Peter, aged 24, drives a red bus.", "Peter", 24),
    ("A girl named Sophie, 8 years old, found the key.", "Sophie", 8),
    ("David is 71 and still runs every morning.", "David", 71),
    ("Emma is a 33-year-old teacher from Leeds.", "Emma", 33),
    ("The doctor, Frank, is 58 years old.", "Frank", 58),
    ("Nina is 19 and studies physics.", "Nina", 19),
)
TRAVELLERS = (
    ("Maria lives in Madrid with her two cats.", "Maria", "Madrid"),
    ("Paul moved to Berlin for a new job.", "Paul", "Berlin"),
    ("In Tokyo, Kenji opened a small restaurant.", "Kenji", "Tokyo"),
    ("Alice was born in London.", "Alice", "London"),
    ("The painter Rosa works in Lisbon.", "Rosa", "Lisbon"),
    ("Every summer Erik flies to Oslo.", "Erik", "Oslo"),
    ("Hannah bought a house in Vienna last year.", "Hannah", "Vienna"),
    ("A student called Omar lives in Cairo.", "Omar", "Cairo"),
    ("Ivan drives a taxi in Moscow.", "Ivan", "Moscow"),
    ("Grace is a nurse in Chicago.", "Grace", "Chicago"),
    ("My cousin Luca studies law in Rome.", "Luca", "Rome"),
    ("Anna sings in the opera of Paris.", "Anna", "Paris"),
)

MAX_TOKENS = 40
"""The token limit of an answer. A right answer takes about 15; a broken model would continue for long."""


class QualityReport(Record):
    """The number of questions, the right answers, and the speed."""

    model: str
    right: int
    asked: int
    prompt_tokens_per_second: float
    """Prompt tokens per second that were read and not taken from the cache."""
    tokens_per_second: float
    """Generated tokens per second."""
    wrong: tuple[str, ...] = ()
    """The questions with a wrong answer, each with the answer."""

    @property
    def share(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.right / self.asked


class Question(msgspec.Struct, frozen=True):
    """A question, and whether a program finds an answer right."""

    text: str
    right: Callable[[str], bool]


def simple_questions() -> list[Question]:
    """Return the twenty-four questions, always the same."""
    return [
        Question(EXTRACT.format(what=what, text=text), _says({"name": name, what: str(value)}))
        for what, texts in (("age", PEOPLE), ("city", TRAVELLERS))
        for text, name, value in texts
    ]


def _says(expected: dict[str, str]) -> Callable[[str], bool]:
    def right(answer: str) -> bool:
        found = re.search(r"\{.*?\}", answer, re.DOTALL)
        with contextlib.suppress(ValueError):
            said = json.loads(found[0]) if found else {}
            return all(str(said.get(key)) == value for key, value in expected.items())
        return False

    return right


async def measure_quality(runtime: ModelRuntime, model: str = "") -> QualityReport:
    """Ask every question once, greedily, one after the other.

    Raises:
        TmdeError: any error of the runtime.
    """
    questions = simple_questions()
    ends: list[ChatEnd] = []
    wrong = []
    for question in questions:
        request = ChatRequest(
            model=model,
            messages=(Message(role="user", content=question.text),),
            temperature=0.0,
            max_tokens=MAX_TOKENS,
            thinking=False,
        )
        heard = await read_answer(runtime.chat(request))
        if heard.end is not None:
            ends.append(heard.end)
        if not question.right(heard.text):
            wrong.append(f"{question.text.splitlines()[-1]} → {' '.join(heard.text.split())}")
    read = sum(end.prompt_tokens - end.cached_tokens for end in ends)
    return QualityReport(
        model=ends[0].model,
        right=len(questions) - len(wrong),
        asked=len(questions),
        prompt_tokens_per_second=_rate(read, sum(end.prompt_ms or 0.0 for end in ends)),
        tokens_per_second=_rate(
            sum(end.completion_tokens for end in ends), sum(end.completion_ms or 0.0 for end in ends)
        ),
        wrong=tuple(wrong),
    )


def _rate(tokens: int, ms: float) -> float:
    return 1000 * tokens / ms if ms else 0.0
