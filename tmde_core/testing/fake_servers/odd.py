"""A server that gives a good answer in an odd way, or refuses a part of the request. The way is chosen by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from email.utils import formatdate
from time import time
from typing import Any

from tmde_core.testing.fake_servers.base import WORDS, Call, FakeServer, Reply, finish_word
from tmde_core.testing.fake_servers.protocols import openai_error

__all__ = ["ODDITIES", "OddServer"]

Chunk = dict[str, Any]
DONE = b"data: [DONE]\n\n"


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _stream(chunks: list[Chunk], end: bytes = DONE) -> list[bytes]:
    return [*map(_event, chunks), end]


def _each(change: Callable[[Chunk], Chunk]) -> Callable[[list[Chunk]], list[bytes]]:
    """Change every chunk of the stream."""
    return lambda chunks: _stream([change(chunk) for chunk in chunks])


def _first(*events: bytes) -> Callable[[list[Chunk]], list[bytes]]:
    """Send events before the stream."""
    return lambda chunks: [*events, *_stream(chunks)]


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[list[Chunk]], list[bytes]]:
    """Change the bytes of the stream."""
    return lambda chunks: [change(block) for block in _stream(chunks)]


def _in_choice(**members: Any) -> Callable[[Chunk], Chunk]:
    return lambda chunk: {**chunk, "choices": [{**choice, **members} for choice in chunk["choices"]]}


def _in_delta(**members: Any) -> Callable[[Chunk], Chunk]:
    def change(chunk: Chunk) -> Chunk:
        return {**chunk, "choices": [{**one, "delta": {**one["delta"], **members}} for one in chunk["choices"]]}

    return change


def _content(wrap: Callable[[str], Any]) -> Callable[[Chunk], Chunk]:
    def change(chunk: Chunk) -> Chunk:
        choices = [
            {**choice, "delta": {**choice["delta"], "content": wrap(choice["delta"].get("content") or "")}}
            for choice in chunk["choices"]
        ]
        return {**chunk, "choices": choices}

    return change


def _text(chunks: list[Chunk]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def _whole(chunks: list[Chunk]) -> list[bytes]:
    """Return the answer that a server gives that does not stream."""
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    choice = {"index": 0, "message": {"role": "assistant", "content": _text(chunks)}, "finish_reason": ends[0]}
    return [json.dumps({"object": "chat.completion", "choices": [choice], "usage": chunks[-1].get("usage")}).encode()]


def _legacy(chunk: Chunk) -> Chunk:
    choices = [
        {"index": 0, "text": choice["delta"].get("content") or "", "finish_reason": choice["finish_reason"]}
        for choice in chunk["choices"]
    ]
    return {**chunk, "choices": choices}


def _without_reason(chunks: list[Chunk]) -> list[bytes]:
    return _stream([_in_choice(finish_reason=None)(chunk) for chunk in chunks])


def _without_end(chunks: list[Chunk]) -> list[bytes]:
    return [_event(_in_choice(finish_reason=None)(chunk)) for chunk in chunks if chunk["choices"]]


_STREAMS: dict[str, tuple[str, Callable[[list[Chunk]], list[bytes]]]] = {
    "plain": ("nothing is odd", _stream),
    "data-null": ("events of `null` and of nothing", _first(b"data: null\n\n", b"data:\n\n", b"data: ping\n\n")),
    "choices-null": ("choices that are null, empty, or hold null",
                     _first(*(_event({"choices": value}) for value in (None, [], [None], "", 5)))),
    "delta-null": ("deltas that are null or have only a role",
                   _first(_event({"choices": [{"delta": None}]}), _event({"choices": [{"delta": {"role": "assistant"}}]}))),
    "several-choices": ("a second choice beside the first one",
                        _each(lambda chunk: {**chunk, "choices": [{"index": 1, "delta": {"content": "other"}}, *chunk["choices"]]}
                              if chunk["choices"] else chunk)),
    "no-index": ("choices without an index",
                 _each(lambda chunk: {**chunk, "choices": [{**choice, "index": None} for choice in chunk["choices"]]})),
    "odd-usage": ("counts that are fractions, huge, negative or text",
                  _first(_event({"usage": {"prompt_tokens": 12.0, "completion_tokens": "3"}}),
                         _event({"usage": {"prompt_tokens": 10**40, "completion_tokens": -1, "prompt_tokens_details": "none"}}),
                         _event({"usage": [1]}))),
    "nan": ("timings that are NaN and infinite, which is no JSON",
            _first(b'data: {"choices": [], "timings": {"prompt_ms": NaN, "predicted_ms": Infinity}}\n\n')),
    "model-number": ("a model name that is a number, and unknown members",
                     _each(lambda chunk: {**chunk, "model": 7, "created": None, "citations": {"0": [None]}, "id": {}})),
    "logprobs-odd": ("log-probabilities in a wrong shape", _each(_in_choice(logprobs={"content": [None, {"token": 5}]}))),
    "error-null": ("an `error` member that reports none", _each(lambda chunk: {**chunk, "error": None})),
    "error-empty": ("an `error` member that is an empty string", _each(lambda chunk: {**chunk, "error": ""})),
    "error-object-empty": ("an `error` member that is an empty object", _each(lambda chunk: {**chunk, "error": {}})),
    "done-blanks": ("`[DONE]` between blanks", lambda chunks: _stream(chunks, b"data:   [DONE]  \n\n")),
    "done-small": ("`[done]` in small letters", lambda chunks: _stream(chunks, b"data: [done]\n\n")),
    "no-done": ("no `[DONE]`", lambda chunks: _stream(chunks, b"")),
    "no-reason": ("no `finish_reason`", _without_reason),
    "no-end": ("neither `finish_reason` nor `[DONE]`", _without_end),
    "two-ends": ("two final events",
                 lambda chunks: _stream([*chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}])),
    "cr": ("lines that end with CR", _bytes(lambda block: block.replace(b"\n", b"\r"))),
    "crlf": ("lines that end with CR and LF", _bytes(lambda block: block.replace(b"\n", b"\r\n"))),
    "one-line-end": ("no blank lines between events", _bytes(lambda block: block.replace(b"\n\n", b"\n"))),
    "byte-order-mark": ("a byte order mark first", lambda chunks: [b"\xef\xbb\xbf", *_stream(chunks)]),
    "comments": ("comments and other fields between the events", _first(b": hello\n\nevent: message\nid: 1\nretry: 5\n")),
    "content-parts": ("content as a list of parts", _each(_content(lambda text: [{"type": "text", "text": text}]))),
    "legacy-text": ("`text` in place of `delta`", _each(_legacy)),
    "tool-calls-null": ("tool calls that are null", _each(_content(str))),
    "tool-calls-empty": ("tool calls and other members that are empty",
                         _each(_in_delta(tool_calls=[], function_call=None, refusal=None, audio=None, annotations=[]))),
    "no-blank": ("no blank after `data:`", _bytes(lambda block: block.replace(b"data: ", b"data:"))),
    "data-twice": ("events that a proxy wrapped once more", _bytes(lambda block: block.replace(b"data: ", b"data: data: "))),
    "bytes": ("one byte in each piece", lambda chunks: [bytes([one]) for block in _stream(chunks) for one in block]),
    "ping-events": ("events that are called ping", _first(b"event: ping\ndata: {}\n\n", b": PROCESSING\n\n")),
    "usage-first": ("counts before the answer",
                    _first(_event({"choices": [], "usage": {"prompt_tokens": 12}}), _event({"usage": None}))),
    "whole": ("a whole JSON answer instead of a stream", _whole),
    "lines-of-json": ("lines of JSON without `data:`",
                      lambda chunks: [json.dumps(chunk).encode() + b"\n" for chunk in chunks]),
}  # fmt: skip

_TYPES = {
    "type-json": ("events under the content type `application/json`", "application/json"),
    "type-text": ("events under the content type `text/plain`", "text/plain"),
    "type-binary": ("events under the content type `application/octet-stream`", "application/octet-stream"),
}

_BUSY: dict[str, tuple[int, Callable[[], dict[str, str]]]] = {
    "retry-seconds": (429, lambda: {"retry-after": "0"}),
    "retry-float": (429, lambda: {"retry-after": "0.01"}),
    "retry-milliseconds": (429, lambda: {"retry-after-ms": "10", "retry-after": "1"}),
    "retry-date": (503, lambda: {"retry-after": formatdate(time() - 60, usegmt=True)}),
    "retry-negative": (503, lambda: {"retry-after": "-7"}),
    "retry-nonsense": (529, lambda: {"retry-after": "soon, I hope"}),
    "retry-none": (529, dict),
}
"""How the first chat is refused. Every further one is answered."""

_REFUSES: dict[str, tuple[tuple[str, ...], str]] = {
    "no-max-tokens": (("max_tokens",), "Unsupported parameter: '{}' is not supported with this model. Use 'max_completion_tokens' instead."),
    "no-stream-options": (("stream_options",), "Unrecognized request argument supplied: {}"),
    "no-sampling": (("temperature", "top_p", "seed", "stop"), "Unsupported value: '{}' does not support this. Only the default is supported."),
    "no-logprobs": (("logprobs", "top_logprobs"), "{} is not supported by this model"),
    "no-response-format": (("response_format",), "This {} type is unavailable now"),
    "no-thinking-type": (("chat_template_kwargs",), "json: cannot unmarshal bool into Go struct field ChatRequest.{} of type string"),
    "no-thinking-switch": (("chat_template_kwargs", "reasoning_effort"), "Unknown parameter: '{}'."),
}  # fmt: skip

_OTHERS = {
    "reset": "the first connection is reset before the first byte",
    "close": "the first connection is closed before the first byte",
    "no-system": "a system message is refused",
    "strict": "every parameter besides model, messages and stream is refused, one at a time, in FastAPI's words",
    "stays-open": "the connection stays open after the final event, and `[DONE]` never comes",
    "cut-at-end": "the connection breaks after the final event",
    "cut": "the connection breaks amid the answer, which is then no answer",
    "models-null": "the list of models has null and odd members",
    "models-names": "the list of models holds names only",
    "models-object": "the models are members of an object",
    "models-list": "the list of models is an array without an object around it",
}

ODDITIES: Mapping[str, str] = {
    **{name: said for name, (said, _) in _STREAMS.items()},
    **{name: said for name, (said, _) in _TYPES.items()},
    **{name: f"the first chat is refused with HTTP {status}" for name, (status, _) in _BUSY.items()},
    **{name: f"{' and '.join(names)} is refused" for name, (names, _) in _REFUSES.items()},
    **_OTHERS,
}
"""Every oddity by name, with what it does."""


class OddServer(FakeServer):
    """An OpenAI-style server that answers every chat with `WORDS`, in the ways that `oddities` name.

    The names of `ODDITIES` say what is odd. Several refusals may be combined with one odd stream. Every client should
    give the whole answer for every oddity, except for `cut`.

    Args:
        oddities: names of `ODDITIES`.
    """

    MODEL = "odd-model"

    def __init__(self, *oddities: str) -> None:
        super().__init__()
        unknown = set(oddities) - ODDITIES.keys()
        if unknown:
            raise ValueError(f"unknown oddities: {', '.join(sorted(unknown))}; there are {', '.join(ODDITIES)}")
        self.oddities = oddities
        self._first_chat = True

    async def answer(self, call: Call, reply: Reply) -> None:
        """Answer one request. See `FakeServer.answer`."""
        match (call.method, call.path):
            case ("GET", "/v1/models"):
                await reply.json(self._models())
            case ("POST", "/v1/chat/completions"):
                await self._chat(call, reply)
            case _:
                await reply.json({"detail": "Not Found"}, 404)

    def _models(self) -> Any:
        entry: dict[str, Any] = {"id": self.MODEL, "object": "model", "owned_by": "someone"}
        if "models-null" in self.oddities:
            odd = [None, 5, {}, {"id": None}, {"id": ["x"]}]
            return {"object": None, "data": [*odd, {**entry, "owned_by": None, "aliases": 7, "max_model_len": "2048"}]}
        if "models-names" in self.oddities:
            return {"data": [self.MODEL]}
        if "models-object" in self.oddities:
            return {"data": {self.MODEL: {"object": "model"}}}
        return [entry] if "models-list" in self.oddities else {"object": "list", "data": [entry]}

    async def _chat(self, call: Call, reply: Reply) -> None:
        first, self._first_chat = self._first_chat, False
        if first and {"reset", "close"} & set(self.oddities):
            await reply.break_off(reset="reset" in self.oddities)
            return
        for name, (status, headers) in _BUSY.items():
            if first and name in self.oddities:
                await reply.json(openai_error("not now", "overloaded", status), status, headers())
                return
        if (refusal := self._refusal(call.body)) is not None:
            await reply.json(*refusal)
            return
        if call.body["model"] != self.MODEL:
            await reply.json(
                openai_error(f"The model `{call.body['model']}` does not exist.", "NotFoundError", 404), 404
            )
            return
        kind = next((kind for name, (_, kind) in _TYPES.items() if name in self.oddities), "text/event-stream")
        await reply.start(200, kind)
        chunks = await self._chunks(call.body)
        make = next((make for name, (_, make) in _STREAMS.items() if name in self.oddities), _stream)
        blocks = make(chunks)
        if "cut" in self.oddities:
            blocks = blocks[:2]
        if {"stays-open", "cut-at-end"} & set(self.oddities):
            blocks = blocks[:-1]
        for number, block in enumerate(blocks):
            await reply.write(block)
            if number == 0 and self.hold is not None:
                await self.hold.wait()
        if "stays-open" in self.oddities:
            await asyncio.Event().wait()
        if {"cut", "cut-at-end"} & set(self.oddities):
            await reply.break_off()
            return
        await reply.write(b"", last=True)

    async def _chunks(self, body: Any) -> list[Chunk]:
        limit = int(body.get("max_tokens", body.get("max_completion_tokens", 512)))
        words = WORDS[:limit]
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.MODEL}
        chunks: list[Chunk] = [
            {**base, "choices": [{"index": 0, "delta": {"content": word, "tool_calls": None}, "finish_reason": None}]}
            for word in words
        ]
        end = {"index": 0, "delta": {}, "finish_reason": finish_word(len(words), limit)}
        usage = {"prompt_tokens": 12, "completion_tokens": len(words), "total_tokens": 12 + len(words)}
        return [*chunks, {**base, "choices": [end]}, {**base, "choices": [], "usage": usage}]

    def _refusal(self, body: Any) -> tuple[Any, int] | None:
        """Return the error for the first part of the request that this server refuses."""
        for name, (fields, said) in _REFUSES.items():
            refused = next((field for field in fields if field in body), None)
            if name in self.oddities and refused is not None:
                error = openai_error(said.format(refused), "invalid_request_error", 400)
                error["error"]["param"] = refused
                return error, 400
        if "no-system" in self.oddities and any(message["role"] == "system" for message in body["messages"]):
            return openai_error("System role not supported", "invalid_request_error", 400), 400
        extra = next((field for field in body if field not in ("model", "messages", "stream")), None)
        if "strict" in self.oddities and extra is not None:
            detail = {"type": "extra_forbidden", "loc": ["body", extra], "msg": "Extra inputs are not permitted"}
            return {"detail": [detail]}, 422
        return None
