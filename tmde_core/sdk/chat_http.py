"""The chat protocol of OpenAI-style servers: one streamed request to `/v1/chat/completions` and its answer.

Runtime plugins for such servers use this module (llama.cpp, vLLM, Ollama, LM Studio, …). The runtime owns the HTTP
client with its address, key and time-outs. This module builds request bodies and converts events and errors to TMDE's
own types.
"""

from __future__ import annotations

import contextlib
import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Literal

import httpx
import msgspec

from tmde_core.errors import (
    ContextOverflowError,
    NotFoundError,
    RuntimeTimeoutError,
    TmdeError,
    UnauthorizedError,
    WorkerFailedError,
)
from tmde_core.records.chat import ChatDelta, ChatEnd, ChatItem, ChatRequest, TokenAlternative, TokenLogprob

__all__ = [
    "CHAT_PATH",
    "LEAST_LOGPROB",
    "MAX_ERROR_BYTES",
    "MAX_EVENT_BYTES",
    "build_chat_body",
    "response_error",
    "stream_chat",
    "transport_error",
]

CHAT_PATH = "/v1/chat/completions"
"""The path at which such servers answer chats."""

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""The most bytes of one event. A token with 20 alternatives takes 3 KB. A longer event ends the answer with an
error."""
MAX_ERROR_BYTES = 64 * 1024
"""The most bytes that are read from the body of an error."""
LEAST_LOGPROB = -9999.0
"""Replaces minus infinity, which JSON cannot express. vLLM uses the same number."""


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

    Raises:
        ContextOverflowError, NotFoundError, UnauthorizedError, RuntimeTimeoutError, WorkerFailedError.
    """
    answer = ChatAnswer(server, model)
    try:
        async with client.stream(
            "POST",
            path,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json", "accept": "text/event-stream", **(headers or {})},
        ) as response:
            if response.status_code != 200:
                raise response_error(
                    response.status_code, await _bounded(response), server, response.headers.get("retry-after")
                )
            if "event-stream" not in response.headers.get("content-type", ""):
                raise response_error(200, await _bounded(response), server)
            events = EventParser(server)
            async for block in response.aiter_bytes():
                for data in events.feed(block):
                    if data == b"[DONE]":
                        yield answer.end()
                        return
                    for item in answer.feed(data):
                        yield item
            for data in events.close():
                if data != b"[DONE]":
                    for item in answer.feed(data):
                        yield item
            yield answer.end()
    except httpx.HTTPError as error:
        raise transport_error(error, server) from None


# ------------------------------------------------------------------------------- server-sent events


_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventParser:
    """Splits a byte stream into the `data` of its server-sent events. Comments and other fields are dropped.

    The parser works on bytes, so a character that arrives in two blocks is decoded only when it is complete. Lines end
    with LF, CR or CRLF.

    The package `httpx-sse` is not used for two reasons. It reads only httpx responses, and the embedded model's
    connection is not one. It also keeps an endless event in memory, loses the first event after a byte order mark, and
    loses a last event without a blank line.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._rest = bytearray()
        self._searched = 0
        self._begun = False
        self._after_cr = False
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the events that `block` completes."""
        if self._after_cr and block:
            block, self._after_cr = block.removeprefix(b"\n"), False
        self._rest += block
        start = 0
        while found := _LINE_END.search(self._rest, max(start, self._searched)):
            line = bytes(self._rest[start : found.start()])
            start, self._searched = found.end(), 0
            # The LF of this CR may be in the next block.
            self._after_cr = start == len(self._rest) and self._rest.endswith(b"\r")
            if (data := self._line(line)) is not None:
                yield data
        del self._rest[:start]
        self._searched = len(self._rest)
        self._bound(len(self._rest))

    def close(self) -> Iterator[bytes]:
        """Yield the event that the end of the stream completes, because some servers omit the last blank line."""
        if self._rest:
            last, self._rest = bytes(self._rest), bytearray()
            self._line(last)
        if self._data:
            yield b"\n".join(self._data)
            self._data = []

    def _line(self, line: bytes) -> bytes | None:
        if not self._begun:
            line, self._begun = line.removeprefix(BOM_UTF8), True
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        if line.startswith(b"data:"):
            value = line[5:].removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1  # count the line end too, so that empty lines also reach the limit
            self._bound(self._size)
        return None

    def _bound(self, size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise WorkerFailedError(
                f"{_start(self._server)} sent an event of over {MAX_EVENT_BYTES} bytes; the answer was cut off."
            )


# ------------------------------------------------------------------------------------------- answer


class _Alternative(msgspec.Struct):
    token: str = ""
    logprob: float | None = None


class _Token(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct):
    """llama.cpp's own measurements."""

    cache_n: int | None = None
    prompt_n: int | None = None
    prompt_ms: float | None = None
    predicted_n: int | None = None
    predicted_ms: float | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk, strict=False)


class ChatAnswer:
    """Reads the events of one stream: call `feed` with each event's data, then `end`.

    The object collects the model name, the token counts and the timings beside the text.
    """

    def __init__(self, server: str, model: str) -> None:
        self._server = server
        self._model = model
        self._finish: Literal["stop", "length"] | None = None
        self._usage = _Usage()
        self._timings = _Timings()

    def feed(self, data: bytes) -> Iterator[ChatDelta]:
        """Yield the deltas of one event.

        Raises:
            TmdeError: the data is not a chat event, or the event reports an error.
        """
        try:
            chunk = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            shown = data[:80].decode("utf-8", "replace")
            raise WorkerFailedError(f"{_start(self._server)} sent what is no chat event: {shown!r}.") from None
        if chunk.error is not None:
            raise response_error(_status_of(chunk.error), msgspec.json.encode({"error": chunk.error}), self._server)
        self._model = self._model or chunk.model or ""
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings
        for choice in (chunk.choices or ())[:1]:
            text = (choice.delta.content if choice.delta else None) or ""
            logprobs = tuple(_logprob(token) for token in (choice.logprobs.content if choice.logprobs else None) or ())
            if text or logprobs:
                yield ChatDelta(text=text, logprobs=logprobs)
            if choice.finish_reason in ("abort", "error"):
                raise WorkerFailedError(f"{_start(self._server)} broke off the answer ({choice.finish_reason}).")
            if choice.finish_reason:
                self._finish = "length" if choice.finish_reason == "length" else "stop"

    def end(self) -> ChatEnd:
        """Return the last item after the stream has ended.

        Raises:
            WorkerFailedError: the stream ended before the answer was finished.
        """
        if self._finish is None:
            raise WorkerFailedError(f"{_start(self._server)} ended the answer before it was finished.")
        usage, timings = self._usage, self._timings
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
        cached = timings.cache_n if cached is None else cached
        read = (timings.cache_n or 0) + (timings.prompt_n or 0)
        return ChatEnd(
            finish_reason=self._finish,
            prompt_tokens=read if usage.prompt_tokens is None else usage.prompt_tokens,
            cached_tokens=cached or 0,
            completion_tokens=(timings.predicted_n or 0)
            if usage.completion_tokens is None
            else usage.completion_tokens,
            prompt_ms=timings.prompt_ms,
            completion_ms=timings.predicted_ms,
            model=self._model,
        )


def _logprob(token: _Token) -> TokenLogprob:
    return TokenLogprob(
        token=token.token,
        logprob=_natural(token.logprob),
        top=tuple(
            TokenAlternative(token=other.token, logprob=_natural(other.logprob)) for other in token.top_logprobs or ()
        ),
    )


def _natural(logprob: float | None) -> float:
    return LEAST_LOGPROB if logprob is None else min(0.0, max(LEAST_LOGPROB, logprob))


# ------------------------------------------------------------------------------------------- errors

_OVERFLOW = re.compile(
    r"exceed_context_size|context_length_exceeded|context (length|size|window)|maximum (input|model) length|prompt is too long",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model\b.*(not found|does not exist|not exist|not available|no such)|(no such|unknown) model",
    re.IGNORECASE | re.DOTALL,
)


def response_error(status: int, body: bytes, server: str, retry_after: str | None = None) -> TmdeError:
    """Return TMDE's error for a failed response, including the server's own message if there is one.

    The error's `context` has `status`. It also has `retryAfter` (seconds) if the server sent it, and for a context
    overflow `limit` and `promptTokens` if the server sent them.
    """
    told = _told(body)
    said = f" It said: {told.message}" if told.message else ""
    said = said if not said or said.endswith((".", "!", "?")) else f"{said}."
    who = _start(server)
    kind = f"{told.type} {told.code} {told.message}"
    if status in (400, 413, 422, 500) and _OVERFLOW.search(kind):
        size = f" of {told.n_prompt_tokens} tokens" if told.n_prompt_tokens else ""
        room = f" of {told.n_ctx} tokens" if told.n_ctx else ""
        return ContextOverflowError(
            f"The prompt{size} does not fit the context{room} of {server}. Shorten it, or serve the model with a larger context.",
            limit=told.n_ctx,
            promptTokens=told.n_prompt_tokens,
            status=status,
        )
    if status in (400, 404) and _NO_MODEL.search(kind):
        return NotFoundError(f"{who} has no such model.{said}", status=status)
    if status in (401, 403):
        return UnauthorizedError(
            f"{who} refused the key (HTTP {status}).{said} Check the key in the settings.", status=status
        )
    if status == 404:
        return WorkerFailedError(f"{who} has no OpenAI-style chat at this address.{said} Check its URL.", status=status)
    if status in (408, 504):
        return RuntimeTimeoutError(f"{who} did not answer in time (HTTP {status}).{said}", status=status)
    if status == 429:
        seconds = int(retry_after) if retry_after and retry_after.isdigit() else None
        return WorkerFailedError(
            f"{who} is asked too much at once (HTTP 429).{said}", status=status, retryAfter=seconds
        )
    if status == 200:
        return WorkerFailedError(f"{who} did not answer with a stream.{said}", status=status)
    return WorkerFailedError(f"{who} failed with HTTP {status}.{said}", status=status)


def transport_error(error: httpx.HTTPError, server: str) -> WorkerFailedError:
    """Return TMDE's error for a connection that could not be opened, broke, or timed out."""
    who = _start(server)
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return RuntimeTimeoutError(f"{who} could not be reached in time.")
    if isinstance(error, httpx.TimeoutException):
        return RuntimeTimeoutError(f"{who} did not answer in time.")
    if isinstance(error, httpx.ConnectError):
        return WorkerFailedError(f"{who} cannot be reached. Check that it runs and that its address is right.")
    return WorkerFailedError(f"The connection to {server} broke before the answer was finished.")


class _Told(msgspec.Struct):
    """The content of an error body, in any known format."""

    message: str = ""
    type: str = ""
    code: str = ""
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


def _told(body: bytes) -> _Told:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        tree = msgspec.json.decode(body)
        inner = tree.get("error", tree) if isinstance(tree, dict) else tree
        if isinstance(inner, str):
            return _Told(message=_one_line(inner))
        if isinstance(inner, dict):
            counts = {name: inner.get(name) for name in ("n_prompt_tokens", "n_ctx")}
            return _Told(
                message=_one_line(inner.get("message") or inner.get("detail") or ""),
                type=str(inner.get("type") or ""),
                code=str(inner.get("code") or ""),
                **{name: count for name, count in counts.items() if isinstance(count, int)},
            )
    text = body[:400].decode("utf-8", "replace")
    return _Told(message="" if "<" in text else _one_line(text))


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:300] + "…"


def _status_of(error: object) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for block in response.aiter_bytes():
        body += block
        if len(body) > MAX_ERROR_BYTES:
            break
    return bytes(body)


def _start(server: str) -> str:
    return server[:1].upper() + server[1:]
