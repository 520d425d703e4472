"""The OpenAI-style chat wire, against servers that answer byte by byte as told."""

import asyncio
import contextlib
import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import (
    ContextOverflowError,
    NotFoundError,
    RuntimeTimeoutError,
    TmdeError,
    UnauthorizedError,
    WorkerFailedError,
)
from tmde_core.records.chat import ChatDelta, ChatEnd, ChatItem, ChatRequest, Message, TokenAlternative, TokenLogprob
from tmde_core.sdk import chat_events, chat_http
from tmde_core.sdk.chat_http import EventParser, build_chat_body, response_error, stream_chat

REQUEST = ChatRequest(model="m", messages=(Message(role="user", content="hi"),))
EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

Client = Callable[..., AsyncIterator[ChatItem]]


@asynccontextmanager
async def serving(blocks: Sequence[bytes], *, hold: asyncio.Event | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that sends `blocks` as the whole answer; with `hold`, then waits until the client leaves."""

    ended = asyncio.Event()
    ended.set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.clear()
        with contextlib.suppress(ConnectionError):  # the client may leave while we write
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
            for block in blocks:
                writer.write(block)
                await writer.drain()
                await asyncio.sleep(0)
            if hold is not None:
                assert await reader.read() == b""  # the client has closed
                hold.set()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
        yield client
    await ended.wait()


async def asked(client: httpx.AsyncClient) -> list[ChatItem]:
    return [item async for item in stream_chat(client, build_chat_body(REQUEST), server="the test server")]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, **choice: object) -> bytes:
    return event(model="served", choices=[{"index": 0, "delta": {"content": text}, **choice}])


def finish(reason: str = "stop") -> bytes:
    return event(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])


DONE = b"data: [DONE]\n\n"


async def test_deltas_then_one_end_with_usage_and_timings() -> None:
    usage = {"prompt_tokens": 32, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 30}}
    timings = {"cache_n": 30, "prompt_n": 2, "prompt_ms": 9.5, "predicted_n": 2, "predicted_ms": 21.0}
    blocks = [
        EVENT_STREAM,
        event(choices=[{"delta": {"role": "assistant", "content": None}}]),
        delta("Hel"),
        delta("lo"),
    ]
    blocks += [finish("length"), event(choices=[], usage=usage, timings=timings), DONE]
    async with serving(blocks) as client:
        items = await asked(client)
    assert items == [
        ChatDelta(text="Hel"),
        ChatDelta(text="lo"),
        ChatEnd(
            finish_reason="length",
            prompt_tokens=32,
            cached_tokens=30,
            completion_tokens=2,
            prompt_ms=9.5,
            completion_ms=21.0,
            model="served",
        ),
    ]


async def test_log_probabilities_are_read_and_kept_in_range() -> None:
    token = {
        "token": "a",
        "logprob": 1e-7,
        "top_logprobs": [{"token": "a", "logprob": 0}, {"token": "b", "logprob": None}],
    }
    async with serving([EVENT_STREAM, delta("a", logprobs={"content": [token]}), finish(), DONE]) as client:
        first = (await asked(client))[0]
    top = (TokenAlternative(token="a", logprob=0.0), TokenAlternative(token="b", logprob=chat_http.LEAST_LOGPROB))
    assert first == ChatDelta(text="a", logprobs=(TokenLogprob(token="a", logprob=0.0, top=top),))


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
async def test_any_cut_of_the_bytes_reads_the_same(newline: bytes) -> None:
    stream = b": a comment\n\nevent: x\nid: 7\n" + delta("naïve – 日本 🦉") + finish() + DONE
    whole = EVENT_STREAM + stream.replace(b"\n", newline)
    async with serving([whole[i : i + 1] for i in range(len(whole))]) as client:
        items = await asked(client)
    assert items[0] == ChatDelta(text="naïve – 日本 🦉")
    assert isinstance(items[-1], ChatEnd)


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
    st.data(),
)
def test_the_parser_gives_every_event_back_whatever_the_blocks(
    texts: list[str], newline: bytes, marked: bool, data: st.DataObject
) -> None:
    stream = BOM_UTF8 * marked + b"".join(b"data: " + text.encode() + newline * 2 for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = EventParser("x")
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:end])
    assert [event.decode() for event in found] == texts
    assert not list(parser.close())


async def test_an_end_without_the_last_blank_line_or_done_is_an_end() -> None:
    async with serving([EVENT_STREAM, delta("x"), finish().rstrip(b"\n")]) as client:
        assert isinstance((await asked(client))[-1], ChatEnd)


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b"data: {not json}\n\n", "no chat event"),
        (b'data: {"choices": [{"delta": {"cont', "no chat event"),
        (finish("abort"), "broke off"),
        (event(error={"code": 500, "message": "boiler burst"}), "boiler burst"),
        (b"data: " + b"x" * (chat_http.MAX_EVENT_BYTES + 70_000), "over 4194304 bytes"),
        (b"data: xxxxxxxxxxxxxxx\n" * (chat_http.MAX_EVENT_BYTES // 15 + 1), "over 4194304 bytes"),
    ],
    ids=["not json", "cut event", "abort", "error event", "giant line", "giant event"],
)
async def test_a_stream_that_goes_wrong_fails_with_the_reason(tail: bytes, told: str) -> None:
    async with serving([EVENT_STREAM, delta("x"), tail]) as client:
        with pytest.raises(WorkerFailedError, match=told):
            await asked(client)


def test_an_event_of_endless_empty_lines_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_events, "MAX_EVENT_BYTES", 1000)
    parser = EventParser("x")
    assert list(parser.feed(b"data:\n" * 1000)) == []
    with pytest.raises(WorkerFailedError, match="over 1000 bytes"):
        list(parser.feed(b"data:\n"))


async def test_closing_the_iterator_closes_the_connection() -> None:
    left = asyncio.Event()
    async with serving([EVENT_STREAM, delta("x")], hold=left) as client:
        async with aclosing(stream_chat(client, build_chat_body(REQUEST), server="the test server")) as stream:
            assert await anext(stream) == ChatDelta(text="x")
        await asyncio.wait_for(left.wait(), 60)


async def test_cancelling_the_reader_closes_the_connection() -> None:
    left = asyncio.Event()
    async with serving([EVENT_STREAM, delta("x")], hold=left) as client:
        got = asyncio.Event()

        async def read() -> None:
            async for _ in stream_chat(client, build_chat_body(REQUEST), server="the test server"):
                got.set()

        reader = asyncio.create_task(read())
        await got.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await asyncio.wait_for(left.wait(), 60)


def http(status: int, body: bytes, kind: str = "application/json") -> list[bytes]:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode(), body]


LLAMA_OVERFLOW = {
    "error": {"code": 400, "message": "…", "type": "exceed_context_size_error", "n_prompt_tokens": 12031, "n_ctx": 8192}
}
VLLM_OVERFLOW = {
    "error": {
        "message": "This model's maximum context length is 4096 tokens. However, you requested 5000.",
        "code": 400,
    }
}


@pytest.mark.parametrize(
    ("status", "body", "expected", "told"),
    [
        (400, LLAMA_OVERFLOW, ContextOverflowError, "of 12031 tokens does not fit the context of 8192 tokens"),
        (400, VLLM_OVERFLOW, ContextOverflowError, "does not fit the context of the test server"),
        (404, {"error": {"message": "model 'x' not found, try pulling it first"}}, NotFoundError, "has no such model"),
        (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, NotFoundError, "`x`"),
        (404, {"error": "File Not Found"}, WorkerFailedError, "Check its URL"),
        (401, {"error": {"message": "Invalid API Key", "type": "authentication_error"}}, UnauthorizedError, "the key"),
        (403, {}, UnauthorizedError, "HTTP 403"),
        (429, {"detail": "slow down"}, WorkerFailedError, "too much at once.*slow down"),
        (
            503,
            {"error": {"message": "Loading model", "code": 503}},
            WorkerFailedError,
            "HTTP 503. It said: Loading model.",
        ),
        (504, {}, RuntimeTimeoutError, "in time"),
        (400, {"error": {"message": "bad grammar"}}, WorkerFailedError, "HTTP 400. It said: bad grammar."),
        (200, {"choices": []}, WorkerFailedError, "did not answer with a stream"),
    ],
)
async def test_refusals_become_our_errors(
    status: int, body: dict[str, object], expected: type[TmdeError], told: str
) -> None:
    async with serving(http(status, json.dumps(body).encode())) as client:
        with pytest.raises(expected, match=told) as caught:
            await asked(client)
    assert type(caught.value) is expected
    assert caught.value.context["status"] == status


async def test_a_page_of_html_is_not_quoted() -> None:
    async with serving(http(502, b"<html>" + b"x" * 1_000_000, "text/html")) as client:
        with pytest.raises(WorkerFailedError, match=r"^The test server failed with HTTP 502\.$"):
            await asked(client)


def test_a_named_delay_is_passed_on() -> None:
    assert response_error(429, b"", "the server", "17").context["retryAfter"] == 17
    assert response_error(503, b"", "the server", headers={"Retry-After": "17"}).context["retryAfter"] == 17
    assert "retryAfter" not in response_error(429, b"", "the server", "soon").context


async def test_a_server_that_is_not_there_cannot_be_reached(unused_tcp_port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{unused_tcp_port}", trust_env=False) as client:
        with pytest.raises(WorkerFailedError, match="cannot be reached"):
            await asked(client)


async def test_a_server_that_falls_silent_times_out() -> None:
    left = asyncio.Event()
    async with serving([EVENT_STREAM, delta("x")], hold=left) as client:
        client.timeout = httpx.Timeout(10, read=0.05)
        with pytest.raises(RuntimeTimeoutError):
            await asked(client)


async def test_a_connection_that_breaks_is_told() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 100000\r\n\r\n"
    async with serving([head, delta("x")]) as client:
        with pytest.raises(WorkerFailedError, match="broke before the answer was finished"):
            await asked(client)


def test_the_body_says_what_was_wished_and_nothing_else() -> None:
    plain = build_chat_body(REQUEST)
    assert not {"seed", "stop", "response_format", "logprobs"} & plain.keys()
    assert plain["stream_options"] == {"include_usage": True}
    wished = ChatRequest(
        model="m", messages=REQUEST.messages, seed=0, stop=("x",), json_schema={"type": "object"}, top_logprobs=3
    )
    body = build_chat_body(wished, model="other", extra={"cache_prompt": True})
    assert (body["model"], body["seed"], body["stop"], body["top_logprobs"]) == ("other", 0, ["x"], 3)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["cache_prompt"]
