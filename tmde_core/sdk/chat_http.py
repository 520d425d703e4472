"""The chat protocol of OpenAI-style servers: one streamed request to `/v1/chat/completions` and its answer.

Runtime plugins for such servers use this module (llama.cpp, vLLM, Ollama, LM Studio, …). The runtime owns the HTTP
client with its address, key and time-outs. This module builds request bodies and converts events and errors to TMDE's
own types.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import httpx
import msgspec

from tmde_core.records.chat import ChatItem, ChatRequest
from tmde_core.sdk.chat_answers import ChatAnswer, ChatReader
from tmde_core.sdk.chat_errors import MAX_ERROR_BYTES, response_error, transport_error
from tmde_core.sdk.chat_events import MAX_EVENT_BYTES, EventParser
from tmde_core.sdk.chat_members import LEAST_LOGPROB
from tmde_core.sdk.chat_refusals import Refusals, RefusedError, ask_with_less
from tmde_core.sdk.lenient_json import as_count

__all__ = [
    "CHAT_PATH",
    "LEAST_LOGPROB",
    "MAX_ERROR_BYTES",
    "MAX_EVENT_BYTES",
    "ChatAnswer",
    "ChatReader",
    "EventParser",
    "Refusals",
    "build_chat_body",
    "response_error",
    "stream_chat",
    "transport_error",
]

CHAT_PATH = "/v1/chat/completions"
"""The path at which such servers answer chats."""

GRACE_SECONDS = 10.0
"""How long counts and `[DONE]` are waited for after the server said why the answer ended. Some servers send neither,
and keep the connection open."""


def build_chat_body(
    request: ChatRequest, *, model: str | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the JSON body for `request`.

    Args:
        request: the request.
        model: the model name to send instead of `request.model`, such as the name of a served adapter.
        extra: further fields for a certain server (`cache_prompt`, `lora`, `id_slot`, …). They replace fields of the
            same name.
    """
    body: dict[str, Any] = {
        "model": request.model if model is None else model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop:
        body["stop"] = list(request.stop)
    if request.json_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": request.json_schema, "strict": True},
        }
    if request.thinking is not None:
        # The names of the switch in chat templates: `enable_thinking` (Qwen, GLM, Gemma), `thinking` (DeepSeek, Granite).
        # Templates ignore names that they do not know.
        body["chat_template_kwargs"] = {"enable_thinking": request.thinking, "thinking": request.thinking}
    if request.top_logprobs > 0:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs
    body.update(extra or {})
    return body


async def stream_chat(
    client: httpx.AsyncClient,
    body: Mapping[str, Any],
    *,
    server: str,
    model: str = "",
    path: str = CHAT_PATH,
    headers: Mapping[str, str] | None = None,
    refusals: Refusals | None = None,
) -> AsyncGenerator[ChatItem, None]:
    """Send `body` and stream the answer: any number of `ChatDelta`, then exactly one `ChatEnd`.

    Closing the iterator, or cancelling the task that reads it, closes the connection. The server then stops generating.

    Args:
        client: an HTTP client with the server's address, key and time-outs.
        body: the request, as `build_chat_body` returns it.
        server: the name of the server in errors, such as "the vLLM server at …".
        model: the name for `ChatEnd.model`; empty: the name that the server reports.
        path: the path at which the server answers chats.
        headers: additional headers.
        refusals: what the server is known to refuse. With it, a refused parameter is left out and the request is sent
            again. Keep one object for each server.

    Raises:
        ContextOverflowError, NotFoundError, UnauthorizedError, RuntimeTimeoutError, WorkerFailedError.
    """

    def ask(fitted: Mapping[str, Any]) -> AsyncGenerator[ChatItem, None]:
        return _answer(client, fitted, server, model, path, headers or {})

    async with aclosing(ask_with_less(body, refusals or Refusals(), ask)) as items:
        async for item in items:
            yield item


async def _answer(
    client: httpx.AsyncClient,
    body: Mapping[str, Any],
    server: str,
    model: str,
    path: str,
    headers: Mapping[str, str],
) -> AsyncGenerator[ChatItem, None]:
    """Send one request and stream its answer."""
    limit = as_count(body.get("max_tokens", body.get("max_completion_tokens")))
    reader = ChatReader(server, model, limit)
    try:
        async with client.stream(
            "POST",
            path,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json", "accept": "text/event-stream", **headers},
        ) as response:
            if not response.is_success:
                status, content = response.status_code, await _bounded(response)
                raise RefusedError(status, content, response_error(status, content, server, headers=response.headers))
            async with aclosing(_blocks(response, reader)) as blocks:
                async for block in blocks:
                    for item in reader.feed(block):
                        yield item
                    if reader.done:
                        break
            for last in reader.close():
                yield last
    except httpx.HTTPError as error:
        raise transport_error(error, server) from None


async def _blocks(response: httpx.Response, reader: ChatReader) -> AsyncGenerator[bytes, None]:
    """Yield the blocks of the body. What goes wrong after the answer has ended does not spoil the answer."""
    blocks = response.aiter_bytes()
    while True:
        try:
            async with asyncio.timeout(GRACE_SECONDS if reader.finished else None):
                block = await anext(blocks, None)
        except (httpx.HTTPError, TimeoutError):
            if reader.finished:
                return
            raise
        if block is None:
            return
        yield block


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for block in response.aiter_bytes():
        body += block
        if len(body) > MAX_ERROR_BYTES:
            break
    return bytes(body)
