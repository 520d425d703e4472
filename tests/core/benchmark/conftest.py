"""A suite of twelve checkable questions, a machine judge, and a model that answers from a script."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.core.lora.conftest import publish_adapter
from tmde_core.plugins import Plugins
from tmde_core.records.chat import ChatRequest
from tmde_core.records.judging import Criterion, JudgeItem, RegexCheck, Verdict
from tmde_core.records.questions import Question
from tmde_core.sdk.judges import JudgeDescriptor
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

DOMAINS = ("mathematics", "coding", "science", "reasoning", "creative", "mathematics")


def question(number: int, domain: str = "mathematics", *, open_weight: float = 0.0) -> Question:
    """The answer must hold `right`; with `open_weight`, a judge must tell about its style too."""
    criteria = [Criterion(name="right", weight=1.0, check=RegexCheck(pattern="right"))]
    if open_weight:
        criteria.append(Criterion(name="style", weight=open_weight, description="Is it well written?"))
    return Question(id=f"q{number:02}", query=f"Question number {number}?", domain=domain, criteria=tuple(criteria))


QUESTIONS = tuple(question(number, DOMAINS[number % 6]) for number in range(12))


class PatternJudge:
    """Scores the criteria that have a pattern: 10 where it occurs, 0 where not."""

    async def score(self, item: JudgeItem, model: object) -> Verdict:
        scores = {
            one.name: 10.0 * bool(re.search(one.check.pattern, item.answer))
            for one in item.criteria
            if isinstance(one.check, RegexCheck)
        }
        return Verdict(score=None, criteria=scores, judge="verifier")


def benchmark_plugins(runtime: ScriptedRuntime) -> Plugins:
    plugins = scripted_plugins(runtime)
    plugins.judges.add(
        JudgeDescriptor(name="verifier", summary="patterns", checks=True, create=lambda _context: PatternJudge()),
        "tests",
    )
    plugins.suites.add(
        SuiteDescriptor(
            name="dozen",
            summary="twelve",
            questions=lambda: QUESTIONS,
            quick=tuple(one.id for one in QUESTIONS[:10]),
            default=True,
        ),
        "tests",
    )
    return plugins


class Model:
    """Answers right with chance by adapter: `model.right[adapter id or None]` says which questions it knows."""

    def __init__(self) -> None:
        self.right: dict[str | None, Callable[[int], bool]] = {None: lambda number: number % 3 == 0}

    def __call__(self, request: ChatRequest) -> str:
        found = re.search(r"number (\d+)", request.messages[-1].content)
        if found is None:
            return f"A sane sentence, as it is probed for{' by an adapter' if request.adapter else ''}."
        knows = self.right.get(request.adapter.id if request.adapter else None, self.right[None])
        return "That is right." if knows(int(found.group(1))) else "That is wrong."


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def runtime(model: Model) -> ScriptedRuntime:
    return ScriptedRuntime(model)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def opened(runtime: ScriptedRuntime, data_dir: Path):
    """Opens services: `async with opened() as services`."""

    def opening(serving: bool = False):
        return open_services(scripted_settings(data_dir), benchmark_plugins(runtime), serving=serving)

    return opening


@pytest.fixture
async def services(opened) -> AsyncIterator[Services]:
    async with opened() as services:
        yield services


@pytest.fixture
def adapter(data_dir: Path, model: Model) -> Callable[..., UUID]:
    """Publishes an adapter that knows the questions for which `knows(number)` is true."""

    def publish(knows: Callable[[int], bool], **fields: object) -> UUID:
        identity = publish_adapter(data_dir, **fields)
        model.right[str(identity)] = knows
        return identity

    return publish
