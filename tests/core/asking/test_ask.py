"""One question, several versions, side by side."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.core.lora.conftest import publish_adapter
from tmde_core.errors import AdapterInvalidError, ConflictError, InvalidInputError, NotFoundError, WorkerFailedError
from tmde_core.testing.scripted import Reply


async def heard(services, identity) -> list[tuple[str, dict]]:
    return [(event.type, event.data) async for event in services.ask.events(identity).follow()]


async def test_base_and_adapters_answer_the_same_question_each_under_its_name(services, runtime, data_dir):
    a, b = publish_adapter(data_dir), publish_adapter(data_dir)
    runtime.script = lambda request: f"I am {request.adapter.id if request.adapter else 'the base'}."
    events = await heard(services, await services.ask.ask(" Who are you? ", [None, a, b], max_tokens=7, seed=3))
    assert events[0] == ("start", {"question": "Who are you?", "versions": [None, str(a), str(b)]})
    assert events[-1] == ("complete", {})
    answers = {data["version"]: data["text"] for kind, data in events if kind == "answer"}
    assert answers == {None: "I am the base.", str(a): f"I am {a}.", str(b): f"I am {b}."}
    for version, text in answers.items():
        said = "".join(data["text"] for kind, data in events if kind == "token" and data["version"] == version)
        assert said.strip() == text
    asked = [request for request in runtime.requests if request.messages[-1].content.endswith("Who are you?")]
    assert {(request.max_tokens, request.temperature, request.seed) for request in asked} == {(7, 0.0, asked[0].seed)}
    assert services.lora.get_active_ref() is None


async def test_a_version_that_cannot_answer_says_so_while_the_others_go_on(services, runtime, data_dir):
    a = publish_adapter(data_dir)

    def script(request):
        if request.adapter:
            raise WorkerFailedError("It broke.")
        return "Fine."

    runtime.script = script
    events = await heard(services, await services.ask.ask("Well?", [None, a]))
    assert ("failed", {"version": str(a), "code": "worker_failed", "detail": "It broke."}) in events
    assert events[-1][0] == "complete"
    alone = await heard(services, await services.ask.ask("Well?", [a]))
    assert alone[-1] == ("error", {"code": "worker_failed", "detail": "It broke."})


async def test_what_cannot_be_asked_is_refused_before_it_begins(services, data_dir):
    a = publish_adapter(data_dir)
    for question, versions in (
        ("", [None]),
        ("x" * 40_000, [None]),
        ("Why?", []),
        ("Why?", [a, a]),
        ("Why?", [None] * 2),
    ):
        with pytest.raises(InvalidInputError):
            await services.ask.ask(question, versions)
    for figures in ({"max_tokens": 0}, {"temperature": 3}, {"seed": -1}):
        with pytest.raises(InvalidInputError, match="out of range"):
            await services.ask.ask("Why?", [None], **figures)
    with pytest.raises(NotFoundError):
        await services.ask.ask("Why?", [uuid4()])
    with pytest.raises(ConflictError, match="another"):
        await services.ask.ask("Why?", [publish_adapter(data_dir, base_model="another")])
    (data_dir / "lora-adapters" / str(a) / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterInvalidError):
        await services.ask.ask("Why?", [a])
    with pytest.raises(NotFoundError):
        services.ask.events(uuid4())


async def test_only_the_last_questions_are_kept_and_stopping_ends_what_is_under_way(services, runtime):
    runtime.script = lambda _: "Yes."
    asked = []
    for _ in range(25):
        asked.append(await services.ask.ask("Why?", [None]))
        await heard(services, asked[-1])
    with pytest.raises(NotFoundError, match="last 20"):
        services.ask.events(asked[0])
    gate = asyncio.Event()
    runtime.script = lambda _: Reply("Never.", gate=gate)
    waiting = [await services.ask.ask("Why?", [None]) for _ in range(4)]
    with pytest.raises(ConflictError, match="being answered already"):
        await services.ask.ask("Why?", [None])
    await services.ask.stop()
    assert [(await heard(services, one))[-1][0] for one in waiting] == ["cancelled"] * 4
