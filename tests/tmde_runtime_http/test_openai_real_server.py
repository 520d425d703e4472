"""The OpenAI runtime against a real server: llama.cpp's own, with a key, on a free port."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tmde_core.errors import (
    AdapterInvalidError,
    ContextOverflowError,
    NotFoundError,
    UnauthorizedError,
    WorkerFailedError,
)
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.runtimes import AdapterRef, ChatDelta, ChatEnd, ChatRequest, Message, ModelRuntime
from tmde_core.testing import make_context
from tmde_core.testing.contracts import ServedModelContract
from tmde_runtime_http.openai import OpenAIRuntime
from tmde_runtime_http.options import OpenAISettings
from tmde_runtime_http.plugin import tmde_model_runtimes

KEY = "a-key-for-tests"
ASK = (Message(role="user", content="Write a short poem about the sea."),)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    directory = tmp_path_factory.mktemp("adapters") / "11111111-1111-4111-8111-111111111111"
    directory.mkdir()
    return AdapterRef(id=directory.name, directory=str(directory))


@pytest.fixture(scope="module")
def url(embedded_model: Path, adapter: AdapterRef) -> Iterator[str]:
    program = Path(__file__).with_name("llama_server.py")
    process = subprocess.Popen(
        [sys.executable, program, embedded_model, KEY, Path(adapter.directory) / "adapter.gguf"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Threads of llama.cpp that spin beside other tests would starve both.
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http"), "the llama.cpp server did not start"
    yield address
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.fixture
async def runtime(url: str) -> AsyncIterator[OpenAIRuntime]:
    made = OpenAIRuntime(_context(url))
    await made.start()
    yield made
    await made.stop()


def _context(url: str, **more: Any) -> PluginContext[OpenAISettings]:
    return make_context(OpenAISettings, **{"base_url": url, "api_key": KEY, **more})


async def _say(runtime: ModelRuntime, **request: Any) -> tuple[str, list[ChatDelta], ChatEnd]:
    request = {"model": "", "messages": ASK, "temperature": 0.0, "max_tokens": 16, **request}
    items = [item async for item in runtime.chat(ChatRequest(**request))]
    deltas = [item for item in items if isinstance(item, ChatDelta)]
    end = items[-1]
    assert isinstance(end, ChatEnd)
    assert len(deltas) == len(items) - 1
    return "".join(delta.text for delta in deltas), deltas, end


async def test_an_answer_comes_in_pieces_and_ends_with_its_usage(runtime: OpenAIRuntime) -> None:
    text, deltas, end = await _say(runtime)
    assert len(deltas) > 3
    assert text.strip()
    assert end.prompt_tokens > 10
    assert 0 < end.completion_tokens <= 16
    assert end.finish_reason in ("stop", "length")
    assert end.completion_ms is not None


async def test_the_server_is_recognised_as_llama_server(runtime: OpenAIRuntime) -> None:
    capabilities = runtime.capabilities
    assert (capabilities.json_schema, capabilities.logprobs, capabilities.adapters, capabilities.token_counts) == (
        True,
    ) * 4
    assert "llama-server" in (await runtime.status()).detail


async def test_models_context_and_token_counts_are_the_servers_own(runtime: OpenAIRuntime) -> None:
    models = await runtime.models()
    assert [(model.name, model.default) for model in models] == [("tiny", True)]
    # 1024 tokens are shared by two slots, or given to each: the server says which.
    assert await runtime.context_length() in (512, 1024)
    counts = await runtime.count_tokens(["hello world", "", "one two three four"])
    assert counts is not None
    assert counts[1] == 0
    assert counts[0] < counts[2]


async def test_closing_the_stream_stops_the_servers_work(runtime: OpenAIRuntime, url: str) -> None:
    async with aclosing(runtime.chat(ChatRequest(model="", messages=ASK, max_tokens=450, temperature=1.0))) as items:
        async for _ in items:
            break
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}) as client, asyncio.timeout(20):
        while any(slot["is_processing"] for slot in (await client.get(f"{url}/slots")).json()):
            pass
    text, _, _ = await _say(runtime)
    assert text


async def test_cancelling_the_reader_leaves_the_runtime_usable(runtime: OpenAIRuntime) -> None:
    first = asyncio.Event()

    async def read() -> None:
        async for _ in runtime.chat(ChatRequest(model="", messages=ASK, max_tokens=450, temperature=1.0)):
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await _say(runtime))[0]


async def test_a_json_schema_is_enforced(runtime: OpenAIRuntime) -> None:
    schema = {
        "type": "object",
        "properties": {"verdict": {"enum": ["accept", "revise"]}, "score": {"type": "integer"}},
        "required": ["verdict", "score"],
    }
    text, _, _ = await _say(runtime, json_schema=schema, max_tokens=60)
    answer = json.loads(text)
    assert answer["verdict"] in ("accept", "revise")
    assert isinstance(answer["score"], int)


async def test_logprobs_come_with_alternatives_likeliest_first(runtime: OpenAIRuntime) -> None:
    _, deltas, _ = await _say(runtime, top_logprobs=5, max_tokens=4)
    tokens = [token for delta in deltas for token in delta.logprobs]
    assert tokens
    for token in tokens:
        assert len(token.top) == 5
        assert [other.logprob for other in token.top] == sorted((other.logprob for other in token.top), reverse=True)


async def test_a_wrong_key_is_named_as_such(url: str) -> None:
    runtime = OpenAIRuntime(_context(url, api_key="wrong"))
    with pytest.raises(UnauthorizedError, match="refused the key"):
        await runtime.start()
    assert (await runtime.status()).state == "failed"


async def test_a_prompt_that_does_not_fit_is_a_context_overflow(runtime: OpenAIRuntime) -> None:
    long = (Message(role="user", content="word " * 3000),)
    with pytest.raises(ContextOverflowError, match="does not fit"):
        await _say(runtime, messages=long)


async def test_an_unknown_model_is_refused_with_the_names_of_those_there_are(runtime: OpenAIRuntime) -> None:
    with pytest.raises(NotFoundError, match=r"no model called 'gpt-9'; it has tiny"):
        await _say(runtime, model="gpt-9")


async def test_an_adapter_named_at_start_is_chosen_per_request(runtime: OpenAIRuntime, adapter: AdapterRef) -> None:
    base, _, _ = await _say(runtime)
    adapted, _, _ = await _say(runtime, adapter=adapter)
    assert adapted != base
    assert (await _say(runtime))[0] == base, "the adapter must not answer requests that do not name it"
    assert (await runtime.status()).adapters == (adapter.id,)


async def test_an_adapter_that_is_not_loaded_there_is_refused_with_how_to_start_the_server(
    runtime: OpenAIRuntime, tmp_path: Path
) -> None:
    other = AdapterRef(id="22222222-2222-4222-8222-222222222222", directory=str(tmp_path / "other"))
    with pytest.raises(AdapterInvalidError, match=r"Restart it with --lora .*other/adapter\.gguf"):
        await runtime.load_adapter(other)
    with pytest.raises(AdapterInvalidError):
        await _say(runtime, adapter=other)
    await runtime.unload_adapter(other.id)


async def test_stopping_ends_a_request_under_way_with_an_error(url: str) -> None:
    runtime = OpenAIRuntime(_context(url))
    await runtime.start()
    first = asyncio.Event()

    async def read() -> None:
        async for _ in runtime.chat(ChatRequest(model="", messages=ASK, max_tokens=450, temperature=1.0)):
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    await runtime.stop()
    with pytest.raises(WorkerFailedError):
        await task
    assert (await runtime.status()).state == "stopped"


async def test_requests_run_beside_each_other(runtime: OpenAIRuntime) -> None:
    answers = await asyncio.gather(*(_say(runtime) for _ in range(3)))
    assert all(text for text, _, _ in answers)


async def test_availability_says_what_is_wrong(url: str) -> None:
    offered = {descriptor.name: descriptor for descriptor in tmde_model_runtimes()}
    ask = offered["openai"].availability

    def asked(**settings: Any) -> str:
        found = ask(make_context(OpenAISettings, **settings))
        return "ok" if found.ok else found.reason

    assert await asyncio.to_thread(asked, base_url=f"{url}/v1/", api_key=KEY) == "ok"
    assert "refuses the key" in await asyncio.to_thread(asked, base_url=url)
    assert "No server is configured" in await asyncio.to_thread(asked)
    assert "does not answer at http://127.0.0.1:9" in await asyncio.to_thread(asked, base_url="http://127.0.0.1:9")


def test_the_runtime_has_the_shape_of_its_port() -> None:
    assert isinstance(OpenAIRuntime(_context("http://127.0.0.1:9")), ModelRuntime)


class TestServedModelContract(ServedModelContract):
    """llama-server through the OpenAI runtime."""

    def runtime(self, url: str) -> OpenAIRuntime:
        return OpenAIRuntime(_context(url))
