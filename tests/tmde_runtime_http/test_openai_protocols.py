"""The OpenAI runtime against a played vLLM and against servers on a bad day."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tmde_core.errors import AdapterInvalidError, RuntimeTimeoutError, WorkerFailedError
from tmde_core.sdk.runtimes import AdapterRef, ChatDelta, ChatEnd, ChatRequest, Message
from tmde_core.testing import make_context
from tmde_core.testing.contracts import RuntimeContract
from tmde_core.testing.fake_servers import WORDS, FakeServer, FakeVllm, FlakyServer, serving
from tmde_runtime_http import connection
from tmde_runtime_http.openai import OpenAIRuntime
from tmde_runtime_http.options import OpenAISettings

CHAT = "/v1/chat/completions"
ADAPTER = AdapterRef(id="33333333-3333-4333-8333-333333333333", directory="/data/lora-adapters/3333")
ASK = ChatRequest(model="", messages=(Message(role="user", content="2+2?"),))


@asynccontextmanager
async def _runtime(server: FakeServer, **settings: Any) -> AsyncIterator[OpenAIRuntime]:
    async with serving(server) as url:
        runtime = OpenAIRuntime(make_context(OpenAISettings, base_url=url, **settings))
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.stop()


async def _text(runtime: OpenAIRuntime, request: ChatRequest = ASK) -> str:
    items = [item async for item in runtime.chat(request)]
    assert isinstance(items[-1], ChatEnd)
    return "".join(item.text for item in items if isinstance(item, ChatDelta))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.001)


async def test_vllm_loads_an_adapter_and_is_asked_for_it_by_name() -> None:
    server = FakeVllm()
    async with _runtime(server) as runtime:
        server.calls.clear()  # what found out what the server can do
        await runtime.load_adapter(ADAPTER)
        assert await _text(runtime, ChatRequest(model="", messages=ASK.messages, adapter=ADAPTER)) == "".join(WORDS)
        assert await _text(runtime) == "".join(WORDS)
        assert [body["model"] for body in server.bodies(CHAT)] == [ADAPTER.id, FakeVllm.MODEL]
        assert server.bodies("/v1/load_lora_adapter") == [{"lora_name": ADAPTER.id, "lora_path": ADAPTER.directory}]
        assert (await runtime.status()).adapters == (ADAPTER.id,)
        await runtime.unload_adapter(ADAPTER.id)
        await runtime.unload_adapter("unknown")
        assert server.adapters == {}
        assert server.bodies("/v1/unload_lora_adapter") == [{"lora_name": ADAPTER.id}]


async def test_a_vllm_that_already_has_the_adapter_is_content() -> None:
    server = FakeVllm()
    server.adapters[ADAPTER.id] = ADAPTER.directory
    async with _runtime(server) as runtime:
        await runtime.load_adapter(ADAPTER)
        assert (await runtime.status()).adapters == (ADAPTER.id,)


async def test_a_restarted_vllm_gets_the_adapter_again() -> None:
    server = FakeVllm()
    async with _runtime(server) as runtime:
        server.calls.clear()
        await runtime.load_adapter(ADAPTER)
        server.restart()
        assert await _text(runtime, ChatRequest(model="", messages=ASK.messages, adapter=ADAPTER))
        assert len(server.bodies("/v1/load_lora_adapter")) == 2


async def test_a_vllm_that_takes_no_adapters_says_how_to_start_it() -> None:
    async with _runtime(FakeVllm(runtime_adapters=False)) as runtime:
        with pytest.raises(AdapterInvalidError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await runtime.load_adapter(ADAPTER)


async def test_an_adapter_that_vllm_cannot_read_is_refused_in_its_words() -> None:
    async with _runtime(FakeVllm()) as runtime:
        with pytest.raises(AdapterInvalidError, match="No adapter found"):
            await runtime.load_adapter(AdapterRef(id="x", directory="/broken"))


async def test_an_adapter_whose_modules_have_their_own_scales_never_reaches_vllm_which_would_ignore_them(
    tmp_path: Path,
) -> None:
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "alpha_pattern": {"q_proj": 32}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    server = FakeVllm()
    async with _runtime(server) as runtime:
        with pytest.raises(AdapterInvalidError, match="alpha_pattern"):
            await runtime.load_adapter(AdapterRef(id="x", directory=str(tmp_path)))
    probes = [body for body in server.bodies("/v1/load_lora_adapter") if body["lora_name"].startswith("tmde-probe")]
    assert server.bodies("/v1/load_lora_adapter") == probes


async def test_vllm_tells_context_and_token_counts() -> None:
    async with _runtime(FakeVllm()) as runtime:
        assert await runtime.context_length() == 2048
        assert await runtime.count_tokens(["a b c", ""]) == [3, 0]
        assert [model.context_length for model in await runtime.models()] == [2048]


async def test_vllm_reports_logprobs() -> None:
    async with _runtime(FakeVllm()) as runtime:
        request = ChatRequest(model="", messages=ASK.messages, top_logprobs=2)
        items = [item async for item in runtime.chat(request)]
        tokens = [token for item in items if isinstance(item, ChatDelta) for token in item.logprobs]
        assert [len(token.top) for token in tokens] == [2] * len(WORDS)


async def test_closing_the_stream_hangs_up() -> None:
    server = FakeVllm()
    server.hold = asyncio.Event()
    async with _runtime(server) as runtime:
        async with aclosing(runtime.chat(ASK)) as items:
            assert await anext(items) == ChatDelta(text=WORDS[0])
        await server.hung_up.wait()


async def test_an_unknown_server_is_asked_only_for_what_every_server_understands() -> None:
    server = FlakyServer("ok")
    async with _runtime(server) as runtime:
        await _text(
            runtime, ChatRequest(model="", messages=ASK.messages, json_schema={"type": "object"}, top_logprobs=3)
        )
        assert not {"response_format", "logprobs", "top_logprobs"} & server.bodies(CHAT)[0].keys()
        assert await runtime.count_tokens(["a"]) is None
        assert await runtime.context_length() == 4096
        with pytest.raises(AdapterInvalidError, match="cannot load LoRA adapters"):
            await runtime.load_adapter(ADAPTER)
        with pytest.raises(AdapterInvalidError):
            await _text(runtime, ChatRequest(model="", messages=ASK.messages, adapter=ADAPTER))


async def test_settings_can_say_what_an_unknown_server_can() -> None:
    server = FlakyServer("ok")
    async with _runtime(server, json_schema=True, logprobs=True, context_length=8192) as runtime:
        await _text(
            runtime, ChatRequest(model="", messages=ASK.messages, json_schema={"type": "object"}, top_logprobs=3)
        )
        assert {"response_format", "logprobs", "top_logprobs"} <= server.bodies(CHAT)[0].keys()
        assert await runtime.context_length() == 8192


async def test_lm_studio_refuses_adapters_with_what_to_do() -> None:
    async with _runtime(FlakyServer("ok"), flavor="lm-studio") as runtime:
        with pytest.raises(AdapterInvalidError, match="merged-gguf"):
            await runtime.load_adapter(ADAPTER)


@pytest.mark.parametrize("moods", [("503", "ok"), ("429", "503", "ok")])
async def test_a_server_that_is_busy_for_a_moment_is_asked_again(moods: tuple[Any, ...]) -> None:
    server = FlakyServer(*moods)
    async with _runtime(server) as runtime:
        assert await _text(runtime) == "".join(WORDS)
        assert len(server.bodies(CHAT)) == len(moods)


async def test_retries_come_to_an_end() -> None:
    server = FlakyServer("503")
    async with _runtime(server, retries=2) as runtime:
        with pytest.raises(WorkerFailedError, match="HTTP 503"):
            await _text(runtime)
        assert len(server.bodies(CHAT)) == 3


async def test_an_error_that_would_come_again_is_not_tried_again() -> None:
    server = FlakyServer("500")
    async with _runtime(server) as runtime:
        with pytest.raises(WorkerFailedError, match="HTTP 500"):
            await _text(runtime)
        assert len(server.bodies(CHAT)) == 1


async def test_a_wait_of_hours_is_not_waited_for() -> None:
    server = FlakyServer("busy-for-hours")
    async with _runtime(server) as runtime:
        with pytest.raises(WorkerFailedError, match="asked too much"):
            await _text(runtime)
        assert len(server.bodies(CHAT)) == 1


async def test_a_stream_that_breaks_after_its_first_token_is_never_tried_again() -> None:
    server = FlakyServer("drop", "ok")
    async with _runtime(server) as runtime:
        with pytest.raises(WorkerFailedError, match="before the answer was finished"):
            await _text(runtime)
        assert len(server.bodies(CHAT)) == 1


async def test_silence_before_the_first_token_is_a_time_out() -> None:
    server = FlakyServer("hang")
    async with _runtime(server, first_token_timeout=0.1) as runtime:
        with pytest.raises(RuntimeTimeoutError, match=r"within 0\.1 s with a first token"):
            await _text(runtime)
        await server.hung_up.wait()
        assert len(server.bodies(CHAT)) == 1


async def test_silence_between_tokens_is_a_time_out() -> None:
    server = FlakyServer("silent")
    async with _runtime(server, token_timeout=0.1) as runtime:
        with pytest.raises(RuntimeTimeoutError, match="further token"):
            await _text(runtime)
        await server.hung_up.wait()


async def test_a_server_that_went_away_is_tried_again_and_then_named() -> None:
    server = FlakyServer("ok")
    async with serving(server) as url:
        runtime = OpenAIRuntime(make_context(OpenAISettings, base_url=url, retries=1))
        await runtime.start()
    with pytest.raises(WorkerFailedError, match="cannot be reached"):
        await _text(runtime)
    await runtime.stop()


async def test_stopping_ends_a_pause_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(connection, "LONGEST_PAUSE_SECONDS", 3600.0)
    pausing = asyncio.Event()
    sleep = connection.Connection._sleep

    async def watched(self: connection.Connection, seconds: float) -> None:
        pausing.set()
        await sleep(self, seconds)

    monkeypatch.setattr(connection.Connection, "_sleep", watched)
    async with _runtime(FlakyServer("502")) as runtime:
        asking = asyncio.ensure_future(_text(runtime))
        await pausing.wait()
        await runtime.stop()
        with pytest.raises(WorkerFailedError):
            await asking


async def test_an_unknown_host_is_one_sentence() -> None:
    settings = {"base_url": "http://no-such-host.invalid:8000", "connect_timeout": 2.0}
    runtime = OpenAIRuntime(make_context(OpenAISettings, **settings))
    with pytest.raises(WorkerFailedError, match=r"no-such-host\.invalid"):
        await runtime.start()
    status = await runtime.status()
    assert status.state == "failed"
    assert "no-such-host" in status.detail


async def test_a_runtime_without_an_address_says_where_to_put_one() -> None:
    runtime = OpenAIRuntime(make_context(OpenAISettings))
    assert list(await runtime.models()) == []
    with pytest.raises(WorkerFailedError, match=r"\[runtimes\.openai\]"):
        await runtime.start()
    with pytest.raises(WorkerFailedError, match="never started"):
        await _text(runtime)


class TestVllmContract(RuntimeContract):
    """The played vLLM through the OpenAI runtime."""

    def runtime(self) -> AbstractAsyncContextManager[OpenAIRuntime]:
        return _runtime(FakeVllm())
