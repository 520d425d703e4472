"""A list of models does not wait for a server that accepts connections and never answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tmde_core import runtimes as module
from tmde_core.plugins import Plugins
from tmde_core.records.runtimes import Availability, ModelInfo
from tmde_core.runtimes import Runtimes
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.testing import ScriptedRuntime, scripted_plugins, scripted_settings


class Deaf(ScriptedRuntime):
    """Answers a question for its models when it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "deaf"
        self.asked = 0
        self.answer = asyncio.Event()

    async def models(self) -> Sequence[ModelInfo]:
        self.asked += 1
        await self.answer.wait()
        return [ModelInfo(name="late", runtime="deaf")]


@pytest.fixture
def deaf() -> Deaf:
    return Deaf()


@pytest.fixture
def runtimes(tmp_path: Path, deaf: Deaf, monkeypatch: pytest.MonkeyPatch) -> Runtimes:
    monkeypatch.setattr(module, "QUICK_SECONDS", 0.01)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    plugins = scripted_plugins(ScriptedRuntime(), Plugins())
    plugins.runtimes.add(
        RuntimeDescriptor(name="deaf", summary="", create=lambda _: deaf, availability=lambda _: Availability(ok=True)),
        "tests",
    )
    return Runtimes(plugins, scripted_settings(tmp_path))


async def names(runtimes: Runtimes, *, quick: bool = True) -> set[str]:
    return {model.runtime for model in await runtimes.models(quick=quick)}


async def test_it_is_left_out_and_asked_on_in_the_background(runtimes: Runtimes, deaf: Deaf):
    assert await names(runtimes) == {"scripted"}
    assert await names(runtimes) == {"scripted"}
    assert deaf.asked == 1, "the same question goes on"
    deaf.answer.set()
    await runtimes._asking["deaf"][0]
    assert await names(runtimes) == {"scripted", "deaf"}
    assert deaf.asked == 1, "the next list has what it answered meanwhile"
    assert await names(runtimes) == {"scripted", "deaf"}
    assert deaf.asked == 2
    await runtimes.stop()


async def test_a_question_that_nobody_waits_for_ends_with_the_runtimes(runtimes: Runtimes):
    await names(runtimes)
    ((asking, _),) = runtimes._asking.values()
    await runtimes.stop()
    assert asking.cancelled()


async def test_what_needs_the_models_waits_as_long_as_the_server_may_take(runtimes: Runtimes, deaf: Deaf):
    waiting = asyncio.create_task(names(runtimes, quick=False))
    while not deaf.asked:
        await asyncio.sleep(0)
    deaf.answer.set()
    assert await waiting == {"scripted", "deaf"}
