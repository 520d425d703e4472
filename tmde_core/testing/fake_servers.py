"""Imitate model servers that cannot be installed in a test, with small ASGI programs on loopback.

`FakeVllm` and `FakeOllama` imitate vLLM (0.10 and later) and Ollama (0.12.11 and later): the paths, bodies, status
codes and wording of their documented protocols, with canned words instead of a model. They prove that a client sends
the right requests in the right order, not that the servers behave as documented. `FlakyServer` imitates any unreliable
OpenAI-style server.

    async with serving(FakeVllm()) as url:
        ...
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import uvicorn

__all__ = ["WORDS", "Call", "FakeOllama", "FakeServer", "FakeVllm", "FlakyServer", "serving"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

WORDS = ("The", " answer", " is", " four", ".")
"""The answer of every fake model, one word for each token."""


class Call(msgspec.Struct):
    """One request that a fake server received."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


class FakeServer:
    """The base of the fake servers. It records requests, sends JSON or streams, and detects clients that disconnect."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.hung_up = asyncio.Event()
        """Set when a client closes the connection before its answer is finished."""
        self.hold: asyncio.Event | None = None
        """If this event exists and is not set, streams wait after their first word."""

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies of all requests to `path`."""
        return [call.body for call in self.calls if call.path == path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            return
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        call = Call(scope["method"], scope["path"], msgspec.json.decode(content) if content else None, headers)
        self.calls.append(call)
        answering = asyncio.ensure_future(self.answer(call, Reply(send)))
        leaving = asyncio.ensure_future(_gone(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            self.hung_up.set()
        for task in (answering, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionAbortedError):
                await task

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request."""
        raise NotImplementedError

    async def words(self, limit: int) -> AsyncIterator[str]:
        """Yield the first `limit` canned words. After the first word, wait for `hold` if there is one."""
        for number, word in enumerate(WORDS[:limit]):
            yield word
            if number == 0 and self.hold is not None:
                await self.hold.wait()


class Reply:
    """Sends one answer."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send a whole JSON answer."""
        await self.start(status, "application/json", headers)
        await self.write(msgspec.json.encode(value), last=True)

    async def start(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        """Send the status and headers of an answer."""
        pairs = [(b"content-type", kind.encode()), *((k.encode(), v.encode()) for k, v in (headers or {}).items())]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, content: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": content, "more_body": not last})

    async def event(self, value: Any) -> None:
        """Send a server-sent event."""
        await self.write(b"data: " + (value if isinstance(value, bytes) else msgspec.json.encode(value)) + b"\n\n")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def stream_openai(reply: Reply, words: AsyncIterator[str], model: str, call: Call) -> None:
    """Stream an answer in the OpenAI-style protocol, as vLLM does."""
    await reply.start(200, "text/event-stream; charset=utf-8")
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    await reply.event({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    count = 0
    async for word in words:
        choice: dict[str, Any] = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        if call.body.get("logprobs"):
            top = [{"token": word, "logprob": -0.1}, {"token": " x", "logprob": -2.5}][: call.body["top_logprobs"]]
            choice["logprobs"] = {"content": [{"token": word, "logprob": -0.1, "top_logprobs": top}]}
        await reply.event({**base, "choices": [choice]})
        count += 1
    await reply.event(
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(count, call.body["max_tokens"])}]}
    )
    usage = {"prompt_tokens": 12, "completion_tokens": count, "total_tokens": 12 + count}
    await reply.event({**base, "choices": [], "usage": usage})
    await reply.event(b"[DONE]")
    await reply.write(b"", last=True)


def _finish(count: int, limit: int) -> str:
    return "length" if count == limit and count < len(WORDS) else "stop"


class FakeVllm(FakeServer):
    """A fake vLLM: models and adapters by name, `/v1/load_lora_adapter`, `/tokenize`, `max_model_len`.

    Args:
        runtime_adapters: whether the server was started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.
    """

    MODEL = "meta/tiny"

    def __init__(self, *, runtime_adapters: bool = True) -> None:
        super().__init__()
        self.adapters: dict[str, str] = {}
        self.runtime_adapters = runtime_adapters

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        match (call.method, call.path):
            case ("GET", "/v1/models"):
                base = {
                    "id": self.MODEL,
                    "object": "model",
                    "owned_by": "vllm",
                    "root": self.MODEL,
                    "max_model_len": 2048,
                }
                extra = [
                    {**base, "id": name, "root": path, "parent": self.MODEL} for name, path in self.adapters.items()
                ]
                await reply.json({"object": "list", "data": [base, *extra]})
            case ("POST", "/v1/chat/completions"):
                model = call.body["model"]
                if model not in (self.MODEL, *self.adapters):
                    await reply.json(_openai_error(f"The model `{model}` does not exist.", "NotFoundError", 404), 404)
                else:
                    await stream_openai(reply, self.words(call.body["max_tokens"]), model, call)
            case ("POST", "/tokenize"):
                tokens = call.body["prompt"].split()
                await reply.json({"count": len(tokens), "max_model_len": 2048, "tokens": list(range(len(tokens)))})
            case ("POST", "/v1/load_lora_adapter") if self.runtime_adapters:
                await self._load(call.body, reply)
            case ("POST", "/v1/unload_lora_adapter") if self.runtime_adapters:
                name = call.body["lora_name"]
                if self.adapters.pop(name, None) is None:
                    await reply.json(
                        _openai_error(f"The lora adapter '{name}' cannot be found.", "NotFoundError", 404), 404
                    )
                else:
                    await reply.json(f"Success: LoRA adapter '{name}' removed successfully.")
            case _:
                await reply.json({"detail": "Not Found"}, 404)

    async def _load(self, body: Any, reply: Reply) -> None:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            text = f"The lora adapter '{name}' has already been loaded."
            await reply.json(_openai_error(text, "InvalidUserInput", 400), 400)
        elif "broken" in path or "nonexistent" in path:
            text = f"Loading lora {name} failed: No adapter found for {path}"
            await reply.json(_openai_error(text, "NotFoundError", 404), 404)
        else:
            self.adapters[name] = path
            await reply.json(f"Success: LoRA adapter '{name}' added successfully.")


def _openai_error(message: str, kind: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class FakeOllama(FakeServer):
    """A fake Ollama: `/api/version`, `/api/tags`, `/api/show` and `/api/chat` with its NDJSON stream."""

    MODEL = "smollm2:135m"

    def __init__(self, version: str = "0.12.11", parameters: str = "") -> None:
        super().__init__()
        self.version = version
        self.parameters = parameters
        self.breaks: Literal["", "error", "drop"] = ""
        """How a stream fails after its first words. Empty if the stream succeeds."""

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        match (call.method, call.path):
            case ("GET", "/api/version"):
                await reply.json({"version": self.version})
            case ("GET", "/api/tags"):
                details = {"family": "llama", "parameter_size": "134.52M", "quantization_level": "F16"}
                await reply.json(
                    {"models": [{"name": self.MODEL, "model": self.MODEL, "size": 270898672, "details": details}]}
                )
            case ("POST", "/api/show"):
                await reply.json({"parameters": self.parameters, "model_info": {"llama.context_length": 8192}})
            case ("POST", "/api/chat"):
                await self._chat(call, reply)
            case _:
                await reply.json({"error": "404 page not found"}, 404)

    async def _chat(self, call: Call, reply: Reply) -> None:
        if any("too long" in message["content"] for message in call.body["messages"]) and not call.body["truncate"]:
            await reply.json({"error": "the input length exceeds the context length"}, 400)
            return
        await reply.start(200, "application/x-ndjson")
        base = {"model": call.body["model"], "created_at": "2026-01-01T00:00:00Z"}
        count = 0
        async for word in self.words(call.body["options"]["num_predict"]):
            line: dict[str, Any] = {**base, "message": {"role": "assistant", "content": word}, "done": False}
            if call.body.get("logprobs"):
                top = [{"token": word, "logprob": -0.2}, {"token": " y", "logprob": -1.9}][: call.body["top_logprobs"]]
                line["logprobs"] = [{"token": word, "logprob": -0.2, "top_logprobs": top}]
            await reply.write(msgspec.json.encode(line) + b"\n")
            count += 1
            if self.breaks and count == 2:
                end = msgspec.json.encode({"error": "an error was encountered while running the model"}) + b"\n"
                await reply.write(end if self.breaks == "error" else b"", last=True)
                return
        done = {
            **base,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": _finish(count, call.body["options"]["num_predict"]),
            "total_duration": 9_000_000,
            "prompt_eval_count": 11,
            "prompt_eval_duration": 4_000_000,
            "eval_count": count,
            "eval_duration": 5_000_000,
        }
        await reply.write(msgspec.json.encode(done) + b"\n", last=True)


Mood = Literal["ok", "502", "503", "429", "500", "hang", "silent", "drop", "busy-for-hours"]


class FlakyServer(FakeServer):
    """An OpenAI-style server that answers each chat with the next of `moods`, and repeats the last.

    `ok`; `502`, `503`, `429` (with `Retry-After: 0`), `500`; `busy-for-hours` (429, `Retry-After: 7200`); `hang`: no
    answer at all; `silent`: one word, then nothing; `drop`: one word, then the stream ends.
    """

    MODEL = "flaky"

    def __init__(self, *moods: Mood) -> None:
        super().__init__()
        self._moods = list(moods)

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        if call.path == "/v1/models":
            await reply.json({"object": "list", "data": [{"id": self.MODEL, "object": "model", "owned_by": "someone"}]})
            return
        match self._moods.pop(0) if len(self._moods) > 1 else self._moods[0]:
            case "ok":
                await stream_openai(reply, self.words(call.body["max_tokens"]), self.MODEL, call)
            case "hang":
                await asyncio.Event().wait()
            case "silent" | "drop" as mood:
                await reply.start(200, "text/event-stream")
                await reply.event({"choices": [{"delta": {"content": WORDS[0]}}]})
                if mood == "silent":
                    await asyncio.Event().wait()
                await reply.write(b"", last=True)
            case "busy-for-hours":
                await reply.json({"error": {"message": "rate limit"}}, 429, {"retry-after": "7200"})
            case status:
                await reply.json(
                    {"error": {"message": "not now"}}, int(status), {"retry-after": "0"} if status == "429" else None
                )


@asynccontextmanager
async def serving(app: FakeServer) -> AsyncIterator[str]:
    """Serve the app on a free loopback port and yield the base URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, timeout_graceful_shutdown=1)
    server = _Quiet(config)
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    try:
        await server.listening.wait()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listening.close()


class _Quiet(uvicorn.Server):
    """A uvicorn server that reports when it listens and does not touch the process's signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server and set `listening`."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave the signals of the process alone."""
        yield
