"""The Ollama runtime against a played Ollama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import pytest

from tmde_core.errors import AdapterInvalidError, ContextOverflowError, NotFoundError, WorkerFailedError
from tmde_core.sdk.runtimes import AdapterRef, ChatDelta, ChatEnd, ChatRequest, Message, ModelRuntime
from tmde_core.testing import make_context
from tmde_core.testing.contracts import RuntimeContract
from tmde_core.testing.fake_servers import WORDS, FakeOllama, serving
from tmde_runtime_http.ollama import OllamaRuntime
from tmde_runtime_http.options import OllamaSettings
from tmde_runtime_http.reach import ollama_availability


@asynccontextmanager
async def _runtime(server: FakeOllama, **settings: Any) -> AsyncIterator[OllamaRuntime]:
    async with serving(server) as url:
        runtime = OllamaRuntime(make_context(OllamaSettings, base_url=url, **settings))
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.stop()


def _ask(content: str = "2+2?", **more: Any) -> ChatRequest:
    return ChatRequest(**{"model": "", "messages": (Message(role="user", content=content),), **more})


async def test_an_answer_comes_in_pieces_and_ends_with_its_usage() -> None:
    async with _runtime(FakeOllama()) as runtime:
        items = [item async for item in runtime.chat(_ask())]
    assert [item.text for item in items if isinstance(item, ChatDelta)] == list(WORDS)
    assert items[-1] == ChatEnd(
        finish_reason="stop",
        prompt_tokens=11,
        completion_tokens=5,
        prompt_ms=4.0,
        completion_ms=5.0,
        model=FakeOllama.MODEL,
    )


async def test_every_wish_reaches_ollama_in_its_own_words() -> None:
    server = FakeOllama()
    schema = {"type": "object"}
    request = _ask(temperature=0.2, top_p=0.9, max_tokens=4, seed=3, stop=("END",), json_schema=schema, top_logprobs=2)
    async with _runtime(server, keep_alive="10m") as runtime:
        items = [item async for item in runtime.chat(request)]
    (body,) = server.bodies("/api/chat")
    assert body["options"] == {
        "temperature": 0.2,
        "top_p": 0.9,
        "num_predict": 4,
        "num_ctx": 4096,
        "seed": 3,
        "stop": ["END"],
    }
    assert (body["format"], body["keep_alive"], body["truncate"], body["top_logprobs"]) == (schema, "10m", False, 2)
    first = items[0]
    assert isinstance(first, ChatDelta)
    assert [other.token for other in first.logprobs[0].top] == ["The", " y"]
    end = items[-1]
    assert isinstance(end, ChatEnd)
    assert end.finish_reason == "length"


async def test_an_older_ollama_is_not_asked_for_what_it_does_not_know() -> None:
    server = FakeOllama(version="0.4.7")
    async with _runtime(server) as runtime:
        assert not runtime.capabilities.json_schema
        assert not runtime.capabilities.logprobs
        [item async for item in runtime.chat(_ask(json_schema={"type": "object"}, top_logprobs=2))]
    assert not {"format", "logprobs"} & server.bodies("/api/chat")[0].keys()


@pytest.mark.parametrize(
    ("parameters", "settings", "expected"),
    [("", {}, 4096), ("num_ctx    2048", {}, 2048), ("", {"context_length": 100_000}, 8192)],
)
async def test_the_context_is_the_modelfiles_or_the_settings_but_never_more_than_the_model_has(
    parameters: str, settings: dict[str, Any], expected: int
) -> None:
    async with _runtime(FakeOllama(parameters=parameters), **settings) as runtime:
        assert await runtime.context_length() == expected


async def test_models_are_those_that_ollama_has() -> None:
    async with _runtime(FakeOllama()) as runtime:
        (model,) = await runtime.models()
    assert (model.name, model.size_bytes, model.default) == (FakeOllama.MODEL, 270898672, True)
    assert model.detail == "llama, 134.52M, F16"


async def test_an_unknown_model_is_refused_with_how_to_fetch_it() -> None:
    async with _runtime(FakeOllama()) as runtime:
        with pytest.raises(NotFoundError, match="ollama pull llama9"):
            [item async for item in runtime.chat(_ask(model="llama9"))]


async def test_a_prompt_that_does_not_fit_is_a_context_overflow() -> None:
    async with _runtime(FakeOllama()) as runtime:
        with pytest.raises(ContextOverflowError, match="does not fit"):
            [item async for item in runtime.chat(_ask("this is too long"))]


async def test_adapters_are_refused_with_what_to_do() -> None:
    adapter = AdapterRef(id="a1", directory="/data/a1")
    async with _runtime(FakeOllama()) as runtime:
        with pytest.raises(AdapterInvalidError, match="merged-gguf"):
            await runtime.load_adapter(adapter)
        with pytest.raises(AdapterInvalidError):
            [item async for item in runtime.chat(_ask(adapter=adapter))]
        await runtime.unload_adapter("a1")


@pytest.mark.parametrize(
    ("breaks", "says"), [("error", "an error was encountered"), ("drop", "before the answer was finished")]
)
async def test_a_stream_that_breaks_off_is_an_error(breaks: Any, says: str) -> None:
    server = FakeOllama()
    server.breaks = breaks
    async with _runtime(server) as runtime:
        with pytest.raises(WorkerFailedError, match=says):
            [item async for item in runtime.chat(_ask())]
    assert len(server.bodies("/api/chat")) == 1


async def test_closing_the_stream_hangs_up() -> None:
    server = FakeOllama()
    server.hold = asyncio.Event()
    async with _runtime(server) as runtime:
        async with aclosing(runtime.chat(_ask())) as items:
            await anext(items)
        await server.hung_up.wait()


async def test_availability_says_how_to_start_ollama() -> None:
    async with serving(FakeOllama()) as url:
        context = make_context(OllamaSettings, base_url=url)
        assert (await asyncio.to_thread(ollama_availability, context)).ok
    gone = await asyncio.to_thread(ollama_availability, context)
    assert "ollama serve" in gone.reason


def test_the_runtime_has_the_shape_of_its_port() -> None:
    assert isinstance(OllamaRuntime(make_context(OllamaSettings)), ModelRuntime)


class TestOllamaContract(RuntimeContract):
    """The played Ollama."""

    def runtime(self) -> AbstractAsyncContextManager[OllamaRuntime]:
        return _runtime(FakeOllama())
