"""A fake of Ollama, and what the fakes of OpenAI-style servers share: the wording of their documented protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec

from tmde_core.testing.fake_servers.base import Call, FakeServer, Reply, finish_word

__all__ = ["FakeOllama", "answer_openai", "openai_error", "stream_openai"]


async def stream_openai(reply: Reply, words: AsyncIterator[str], model: str, call: Call, logprob: float = -0.1) -> None:
    """Stream an answer in the OpenAI-style protocol, as vLLM does. Each word has the probability `logprob`."""
    await reply.start(200, "text/event-stream; charset=utf-8")
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    await reply.event({**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    count = 0
    async for word in words:
        choice: dict[str, Any] = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        if call.body.get("logprobs"):
            top = [{"token": word, "logprob": logprob}, {"token": " x", "logprob": -2.5}][: call.body["top_logprobs"]]
            choice["logprobs"] = {"content": [{"token": word, "logprob": logprob, "top_logprobs": top}]}
        await reply.event({**base, "choices": [choice]})
        count += 1
    await reply.event(
        {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish_word(count, call.body["max_tokens"])}]}
    )
    usage = {"prompt_tokens": 12, "completion_tokens": count, "total_tokens": 12 + count}
    await reply.event({**base, "choices": [], "usage": usage})
    await reply.event(b"[DONE]")
    await reply.write(b"", last=True)


async def answer_openai(reply: Reply, words: AsyncIterator[str], model: str, call: Call, logprob: float = -0.1) -> None:
    """Answer a chat in the OpenAI-style protocol: as a stream, or at once if the request asks for no stream."""
    if call.body.get("stream"):
        await stream_openai(reply, words, model, call, logprob)
        return
    said = [word async for word in words]
    message = {"role": "assistant", "content": "".join(said)}
    finish = finish_word(len(said), call.body["max_tokens"])
    await reply.json(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 12, "completion_tokens": len(said), "total_tokens": 12 + len(said)},
        }
    )


def openai_error(message: str, kind: str, code: int) -> dict[str, Any]:
    """Return an error body as OpenAI-style servers send it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class FakeOllama(FakeServer):
    """A fake Ollama: `/api/version`, `/api/tags`, `/api/show`, `/api/create` and `/api/chat` with its NDJSON stream.

    Args:
        version: from 0.34.1 on, `/api/create` refuses adapters.
        parameters: the model's parameters, as `/api/show` tells them.
    """

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
            case ("POST", "/api/create"):
                if call.body.get("adapters") and self._is_new:
                    await reply.json({"error": "creating models with adapters is no longer supported"}, 400)
                else:
                    await reply.json({"status": "success"})
            case ("POST", "/api/chat"):
                await self._chat(call, reply)
            case _:
                await reply.json({"error": "404 page not found"}, 404)

    @property
    def _is_new(self) -> bool:
        return tuple(map(int, self.version.split("."))) >= (0, 34, 1)

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
                if self.breaks == "drop":
                    await reply.break_off()
                else:
                    await reply.write(end, last=True)
                return
        done = {
            **base,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": finish_word(count, call.body["options"]["num_predict"]),
            "total_duration": 9_000_000,
            "prompt_eval_count": 11,
            "prompt_eval_duration": 4_000_000,
            "eval_count": count,
            "eval_duration": 5_000_000,
        }
        await reply.write(msgspec.json.encode(done) + b"\n", last=True)
