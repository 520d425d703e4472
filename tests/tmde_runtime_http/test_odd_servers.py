"""Both runtimes against servers that answer oddly, and against thinking models in every dialect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tmde_core.errors import WorkerFailedError
from tmde_core.sdk import chat_http
from tmde_core.sdk.runtimes import ChatDelta, ChatEnd, ChatRequest, Message, ModelRuntime
from tmde_core.testing import make_context
from tmde_core.testing.contracts import RuntimeContract
from tmde_core.testing.fake_servers import (
    DIALECTS,
    ODDITIES,
    WORDS,
    Call,
    FakeOllama,
    FakeServer,
    FlakyServer,
    OddServer,
    ThinkingServer,
    serving,
)
from tmde_core.testing.fake_servers.base import Reply
from tmde_core.testing.fake_servers.thinking import ANSWER, THOUGHT
from tmde_runtime_http import connection
from tmde_runtime_http.ollama import OllamaRuntime
from tmde_runtime_http.openai import OpenAIRuntime
from tmde_runtime_http.options import OllamaSettings, OpenAISettings

CHAT = "/v1/chat/completions"
WHOLE = "".join(WORDS)
ASK = (Message(role="system", content="Be brief."), Message(role="user", content="2+2?"))
THOUGHTS = [*DIALECTS, "ollama"]


@asynccontextmanager
async def openai(server: FakeServer, **settings: Any) -> AsyncIterator[OpenAIRuntime]:
    async with serving(server) as url:
        runtime = OpenAIRuntime(make_context(OpenAISettings, base_url=url, **settings))
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.stop()


@asynccontextmanager
async def ollama(server: FakeServer) -> AsyncIterator[OllamaRuntime]:
    async with serving(server) as url:
        runtime = OllamaRuntime(make_context(OllamaSettings, base_url=url))
        await runtime.start()
        try:
            yield runtime
        finally:
            await runtime.stop()


async def told(runtime: ModelRuntime, **wishes: Any) -> tuple[str, str, ChatEnd]:
    """Text, thought and end of an answer."""
    request = ChatRequest(**{"model": "", "messages": ASK, **wishes})
    items = [item async for item in runtime.chat(request)]
    end = items[-1]
    assert isinstance(end, ChatEnd)
    deltas = [item for item in items if isinstance(item, ChatDelta)]
    return "".join(item.text for item in deltas), "".join(item.thought for item in deltas), end


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(chat_http, "GRACE_SECONDS", 0.2)


@pytest.mark.parametrize("oddity", [name for name in ODDITIES if name != "cut"])
async def test_an_odd_server_gives_the_whole_answer(oddity: str) -> None:
    wishes = {"seed": 1, "stop": ("END",), "json_schema": {"type": "object"}, "top_logprobs": 2, "thinking": False}
    async with openai(OddServer(oddity), json_schema=True, logprobs=True) as runtime:
        for _ in range(2):
            text, thought, end = await told(runtime, **wishes)
            assert (text, thought, end.finish_reason) == (WHOLE, "", "stop")


async def test_an_answer_that_is_cut_is_an_error_and_is_not_asked_for_again() -> None:
    server = OddServer("cut")
    async with openai(server) as runtime:
        with pytest.raises(WorkerFailedError, match="broke before the answer was finished"):
            await told(runtime)
    assert len(server.bodies(CHAT)) == 1


@pytest.mark.parametrize(
    "listed",
    [
        {"data": [{"id": "text-embedding-nomic"}, {"id": "odd-model"}]},
        {"data": [{"id": "bge-m3"}, {"id": "small", "type": "embeddings"}, {"id": "odd-model", "type": "llm"}]},
        {"data": [{"id": "  "}, {"id": " odd-model "}]},
        {"models": [{"name": "odd-model"}], "data": None},
        ["odd-model"],
    ],
)
async def test_the_first_model_that_can_answer_is_the_default(listed: Any) -> None:
    class Listing(OddServer):
        def _models(self) -> Any:
            return listed

    async with openai(Listing()) as runtime:
        assert (await told(runtime))[0] == WHOLE
        assert [model.name for model in await runtime.models() if model.default] == ["odd-model"]


async def test_a_list_of_models_that_reports_an_error_says_it_in_the_server_s_words() -> None:
    class Loading(OddServer):
        def _models(self) -> Any:
            return {"error": {"message": "the model is still loading"}}

    with pytest.raises(WorkerFailedError, match="the model is still loading"):
        async with openai(Loading()):
            pass


CALL = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}]}


async def test_a_model_that_only_calls_a_tool_gave_no_answer() -> None:
    class Caller(OddServer):
        async def _chunks(self, body: Any) -> list[dict[str, Any]]:
            choice = {"index": 0, "delta": {"content": None, **CALL}, "finish_reason": "tool_calls"}
            return [{"choices": [choice]}]

    async with openai(Caller()) as runtime:
        with pytest.raises(WorkerFailedError, match="called a tool instead of answering"):
            await told(runtime)


async def test_an_error_within_a_choice_is_told_in_the_server_s_words() -> None:
    class Failing(OddServer):
        async def _chunks(self, body: Any) -> list[dict[str, Any]]:
            error = {"code": 502, "message": "upstream fell"}
            return [{"choices": [{"index": 0, "delta": {}, "error": error, "finish_reason": "error"}]}]

    async with openai(Failing(), retries=0) as runtime:
        with pytest.raises(WorkerFailedError, match="upstream fell"):
            await told(runtime)


async def test_a_refusal_is_learned_once_and_remembered() -> None:
    server = OddServer("no-max-tokens", "no-stream-options", "no-system")
    async with openai(server) as runtime:
        await told(runtime, max_tokens=4)
        asked = len(server.bodies(CHAT))
        text, _, end = await told(runtime, max_tokens=4)
    assert asked == 4
    assert len(server.bodies(CHAT)) == asked + 1
    last = server.bodies(CHAT)[-1]
    assert last["max_completion_tokens"] == 4
    assert not {"max_tokens", "stream_options"} & last.keys()
    assert last["messages"] == [{"role": "user", "content": "Be brief.\n\n2+2?"}]
    assert (text, end.finish_reason) == ("".join(WORDS[:4]), "length")


async def test_a_server_that_refuses_everything_is_asked_a_bounded_number_of_times() -> None:
    class Refuser(OddServer):
        async def answer(self, call: Call, reply: Reply) -> None:
            if call.path != CHAT:
                await super().answer(call, reply)
            else:
                await reply.json({"error": {"message": "Unsupported parameters: " + ", ".join(call.body)}}, 400)

    server = Refuser()
    async with openai(server) as runtime:
        with pytest.raises(WorkerFailedError, match="Unsupported parameters"):
            await told(runtime)
    assert len(server.bodies(CHAT)) <= 4


@pytest.mark.parametrize("moods", [("reset", "ok"), ("reset", "reset", "ok")])
async def test_a_connection_that_is_reset_before_the_first_byte_is_tried_again(moods: tuple[Any, ...]) -> None:
    server = FlakyServer(*moods)
    async with openai(server) as runtime:
        assert (await told(runtime))[0] == WHOLE
    assert len(server.bodies(CHAT)) == len(moods)


async def test_resets_come_to_an_end() -> None:
    server = FlakyServer("reset")
    async with openai(server, retries=2) as runtime:
        with pytest.raises(WorkerFailedError, match="broke before"):
            await told(runtime)
    assert len(server.bodies(CHAT)) == 3


class Busy(OddServer):
    """Refuses chats with `status` and `headers` until it is told otherwise."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__()
        self.status = status
        self.headers = headers

    async def answer(self, call: Call, reply: Reply) -> None:
        if call.path == CHAT:
            await reply.json({"error": "busy"}, self.status, self.headers)
        else:
            await super().answer(call, reply)


async def test_a_wait_is_told_in_the_log_and_in_the_status_and_ends_at_once_when_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger=connection.__name__)
    async with openai(Busy(503, {"retry-after": "50"})) as runtime:
        asking = asyncio.create_task(told(runtime))
        async with asyncio.timeout(30):
            while "trying again" not in (await runtime.status()).detail:
                await asyncio.sleep(0)
        assert "trying again in 50.0 s, attempt 2 of 4" in caplog.text
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert "trying again" not in (await runtime.status()).detail


@pytest.mark.parametrize("value", ["61", "7200", "9" * 300, "Fri, 31 Dec 2100 00:00:00 GMT"])
async def test_a_wait_that_is_too_long_is_told_instead(value: str) -> None:
    server = Busy(529, {"retry-after": value})
    async with openai(server) as runtime:
        with pytest.raises(WorkerFailedError, match="asks to wait"):
            await told(runtime)
    assert len(server.bodies(CHAT)) == 1


async def test_waits_that_are_too_long_together_are_told_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LONGEST_TOTAL_SECONDS", 0.05)
    server = Busy(503, {"retry-after-ms": "20"})
    async with openai(server, retries=10) as runtime:
        with pytest.raises(WorkerFailedError, match="HTTP 503"):
            await told(runtime)
    assert len(server.bodies(CHAT)) == 3


async def test_a_list_of_models_that_is_not_there_yet_is_asked_for_again() -> None:
    class Starting(OddServer):
        async def answer(self, call: Call, reply: Reply) -> None:
            if call.path == "/v1/models" and len(self.calls) < 3:
                await (
                    reply.json({"error": "Loading model"}, 503) if len(self.calls) == 1 else reply.break_off(reset=True)
                )
            else:
                await super().answer(call, reply)

    async with openai(Starting()) as runtime:
        assert (await told(runtime))[0] == WHOLE


async def test_an_idle_connection_that_the_server_closed_is_no_failure() -> None:
    """The first connection answers one request and then goes away, as behind a proxy with a short time-out."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        body = (
            b'{"data": [{"id": "m"}]}' if b"/v1/models" in line else b'{"choices": [{"message": {"content": "Four."}}]}'
        )
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        if b"/v1/models" in line:
            await reader.readline()  # the next request begins, and the connection is gone
        writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        runtime = OpenAIRuntime(make_context(OpenAISettings, base_url=f"http://127.0.0.1:{port}"))
        await runtime.start()
        assert (await told(runtime))[0] == "Four."
        await runtime.stop()


# ------------------------------------------------------------------------------------------- thoughts


def thinking(dialect: str, **ways: Any) -> tuple[ThinkingServer, AbstractAsyncContextManager[ModelRuntime]]:
    server = ThinkingServer("tags" if dialect == "ollama" else dialect, **ways)
    return server, (ollama(server) if dialect == "ollama" else openai(server))


def expected(dialect: str, thought: str = THOUGHT, answer: str = ANSWER) -> tuple[str, str]:
    """Text and thought. Tags in the text are split by the core, not by the runtimes."""
    if dialect == "tags":
        return f"<think>\n{thought}\n</think>\n\n{answer}", ""
    if dialect == "no-opening-tag":
        return f"{thought}\n</think>\n\n{answer}", ""
    return answer, thought


@pytest.mark.parametrize("dialect", THOUGHTS)
async def test_a_thought_arrives_apart_from_the_answer(dialect: str) -> None:
    _, served = thinking(dialect)
    async with served as runtime:
        text, thought, end = await told(runtime)
    assert (text, thought) == expected(dialect)
    assert end.finish_reason == "stop"


@pytest.mark.parametrize("dialect", THOUGHTS)
async def test_a_model_that_is_asked_not_to_think_answers_at_once(dialect: str) -> None:
    _, served = thinking(dialect)
    async with served as runtime:
        assert (await told(runtime, thinking=False))[:2] == (ANSWER, "")
        assert (await told(runtime, thinking=True))[:2] == expected(dialect)


@pytest.mark.parametrize("dialect", THOUGHTS)
async def test_a_model_that_thinks_all_the_same_is_heard(dialect: str) -> None:
    _, served = thinking(dialect, obeys=False)
    async with served as runtime:
        assert (await told(runtime, thinking=False))[:2] == expected(dialect)


@pytest.mark.parametrize("dialect", THOUGHTS)
async def test_a_server_that_refuses_the_switch_is_asked_without(dialect: str) -> None:
    server, served = thinking(dialect, refuses=True)
    async with served as runtime:
        assert (await told(runtime, thinking=False))[:2] == expected(dialect)
        before = len(server.calls)
        assert (await told(runtime, thinking=False))[:2] == expected(dialect)
    assert len(server.calls) == before + 1, "what was refused is remembered"


@pytest.mark.parametrize("dialect", THOUGHTS)
async def test_a_budget_that_ends_within_the_thought_is_a_cut_without_an_answer(dialect: str) -> None:
    _, served = thinking(dialect)
    async with served as runtime:
        text, thought, end = await told(runtime, max_tokens=5)
    assert end.finish_reason == "length"
    assert ANSWER not in text
    if dialect not in ("tags", "no-opening-tag"):
        assert text == ""
        assert THOUGHT.startswith(thought)


async def test_nothing_is_said_of_thinking_unless_it_is_wished() -> None:
    server, served = thinking("reasoning")
    async with served as runtime:
        await told(runtime)
    assert not {"chat_template_kwargs", "reasoning_effort", "think"} & server.bodies(CHAT)[0].keys()


async def test_each_kind_of_server_gets_its_own_switch() -> None:
    fields = {"chat_template_kwargs", "reasoning_effort"}
    for flavor, wanted in {"vllm": 1, "llama-server": 1, "lm-studio": 2, "generic": 2}.items():
        server = ThinkingServer("reasoning")
        async with openai(server, flavor=flavor) as runtime:
            await told(runtime, thinking=False)
        assert len(fields & server.bodies(CHAT)[0].keys()) == wanted


# ------------------------------------------------------------------------------------- odd Ollamas


class OddOllama(FakeOllama):
    """Answers each path with bytes that are given."""

    def __init__(self, **bodies: bytes) -> None:
        super().__init__()
        self.bodies_sent = {name: body for name, body in bodies.items() if body}

    async def answer(self, call: Call, reply: Reply) -> None:
        body = self.bodies_sent.get(call.path.rpartition("/")[2])
        if body is None:
            await super().answer(call, reply)
            return
        await reply.start(200, "application/x-ndjson")
        for start in range(0, len(body), 7):
            await reply.write(body[start : start + 7])
        await reply.write(b"", last=True)


HEL = b'{"message": {"role": "assistant", "content": "Hel"}, "done": false}\n'
LO = b'{"message": {"content": "lo"}, "done": false}\n'
END = b'{"message": null, "done": true, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}\n'

ODD_ANSWERS = {
    "plain": HEL + LO + END,
    "no end": HEL + LO,
    "no last line end": HEL + LO + END.rstrip(),
    "CRLF": (HEL + LO + END).replace(b"\n", b"\r\n"),
    "blank and odd lines": b"\n\nnull\n5\n[]\nping\n" + HEL + b"\n" + LO + END,
    "byte order mark": b"\xef\xbb\xbf" + HEL + LO + END,
    "events": b"".join(b"data: " + line + b"\n" for line in (HEL, LO, END)),
    "one whole answer": b'{"message": {"content": "Hello"}, "done": true}',
    "one whole answer in lines": b'{\n "message": {\n  "content": "Hello"\n },\n "done": true\n}\n',
    "odd counts": HEL + LO + b'{"done": true, "eval_count": -1.5, "prompt_eval_count": "x", "eval_duration": NaN, "error": ""}',
    "odd messages": b'{"message": null}\n{"message": 5}\n{"message": {"content": null, "tool_calls": null}}\n' + HEL + LO + END,
    "content of parts": b'{"message": {"content": [{"type": "text", "text": "Hello"}]}}\n' + END,
    "error of nothing": b'{"error": null, "message": {"content": "Hello"}}\n{"error": {}}\n' + END,
    "odd log-probabilities": b'{"logprobs": [null, {"token": 5}], "message": {"content": "Hello"}}\n' + END,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ANSWERS)
async def test_an_odd_answer_of_ollama_is_whole(name: str) -> None:
    async with ollama(OddOllama(chat=ODD_ANSWERS[name])) as runtime:
        text, thought, end = await told(runtime)
    assert (text, thought, end.finish_reason) == ("Hello", "", "stop")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (HEL + b'{"error": "an error was encountered"}\n', "an error was encountered"),
        (HEL + b'{"message": {"cont', "no chat line"),
        (b"", "before it was finished"),
        (b'{"message": {"thinking": "hm"}}\n', "before it was finished"),
    ],
)
async def test_what_holds_no_answer_of_ollama_is_an_error(body: bytes, says: str) -> None:
    server = OddOllama(chat=body or b"\n")
    async with ollama(server) as runtime:
        with pytest.raises(WorkerFailedError, match=says):
            await told(runtime)


@pytest.mark.parametrize(
    "bodies",
    [
        {"tags": b'{"models": [null, 5, {"name": null}, {"name": "m", "size": "x", "details": [1]}], "x": NaN}'},
        {"tags": b'[{"model": "m", "size": 1e300, "details": {"family": 5}}]'},
        {"show": b'{"model_info": null, "parameters": ["num_ctx 5"]}'},
        {"show": b'{"model_info": {"x.context_length": NaN}, "parameters": "num_ctx 0"}'},
        {"show": b"null"},
        {"show": b"<html>"},
        {"version": b'{"version": null}'},
        {"version": b'{"version": 0.12}'},
        {"version": b"[]"},
    ],
)
async def test_odd_lists_and_descriptions_of_ollama_do_not_stop_an_answer(bodies: dict[str, bytes]) -> None:
    async with ollama(OddOllama(**bodies)) as runtime:
        assert (await told(runtime))[0] == WHOLE
        assert await runtime.context_length() == 4096
        (model,) = await runtime.models()
        assert model.name in ("m", FakeOllama.MODEL)


@pytest.mark.parametrize("flavor", ["vllm", "llama-server", "lm-studio"])
@pytest.mark.parametrize("body", [None, [], {}, "x", [None], {"data": None}, {"data": [None, 5]}, {"tokens": 5, "count": "x"},
                                  {"default_generation_settings": None, "n_ctx": None}, {"count": None}])  # fmt: skip
async def test_odd_answers_beside_the_chat_do_not_stop_an_answer(flavor: Any, body: Any) -> None:
    class Odd(OddServer):
        async def answer(self, call: Call, reply: Reply) -> None:
            if call.path in ("/v1/models", CHAT):
                await super().answer(call, reply)
            else:
                await reply.json(body)

    async with openai(Odd(), flavor=flavor) as runtime:
        assert (await told(runtime))[0] == WHOLE
        assert await runtime.count_tokens(["a"]) is None
        assert await runtime.context_length() == 4096


# ------------------------------------------------------------------------------------------ contracts


class TestOddStreamContract(RuntimeContract):
    """An odd stream from a server that refuses half of every request."""

    def runtime(self) -> AbstractAsyncContextManager[OpenAIRuntime]:
        return openai(OddServer("no-done", "type-text", "no-max-tokens", "no-system", "no-sampling", "models-null"))


class TestWholeAnswerContract(RuntimeContract):
    """A server that does not stream, and refuses everything that it need not know."""

    def runtime(self) -> AbstractAsyncContextManager[OpenAIRuntime]:
        return openai(OddServer("whole", "no-stream-options", "retry-date"))


class TestThinkingContract(RuntimeContract):
    """A thinking model that does not listen."""

    def runtime(self) -> AbstractAsyncContextManager[OpenAIRuntime]:
        return openai(ThinkingServer("tags", obeys=False, refuses=True))


class TestThinkingOllamaContract(RuntimeContract):
    """A thinking model behind Ollama that thinks one word only."""

    def runtime(self) -> AbstractAsyncContextManager[OllamaRuntime]:
        return ollama(ThinkingServer(thought="Hm."))
