"""Reads the answers of OpenAI-style servers, streamed or whole, leniently.

Only the text of the answer and of the thought must be right. Everything else is read member by member, and an odd
member is ignored: a null choice, a negative count, a NaN timing, an empty `error`.
"""

from __future__ import annotations

import contextlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tmde_core.errors import WorkerFailedError
from tmde_core.records.chat import ChatDelta, ChatEnd, FinishReason
from tmde_core.sdk.chat_errors import is_error, response_error, tool_error
from tmde_core.sdk.chat_events import MAX_EVENT_BYTES, EventParser
from tmde_core.sdk.chat_members import calls_tool, finish_reason, objects, read_logprobs, text_and_thought
from tmde_core.sdk.lenient_json import as_count, as_number, as_object, as_text, read_lenient

__all__ = ["ChatAnswer", "ChatReader"]

_MOST_HEAD = 400
"""The bytes of an unknown answer that are kept for the error."""


class ChatReader:
    """Reads one response, block by block: server-sent events, lines of JSON, or one whole JSON answer.

    Call `feed` with each block until `done` is true or the response ends, then `close`. What the response is shows in
    its first character. Its content type does not matter, because servers and proxies name wrong ones.
    """

    def __init__(self, server: str, model: str = "", limit: int | None = None) -> None:
        self._answer = ChatAnswer(server, model, limit)
        self._server = server
        self._events = EventParser(server)
        self._first = bytearray()
        self._whole: bytearray | None = None
        """The body so far, if it is not a stream of events."""
        self._by_line: bool | None = None
        """Whether the body has one object on each line; None: not known yet."""
        self._sniffed = False

    @property
    def done(self) -> bool:
        """Whether the server said that nothing follows."""
        return self._answer.done

    @property
    def finished(self) -> bool:
        """Whether the server said why the answer ended. Only counts and timings may follow."""
        return self._answer.finished

    def feed(self, block: bytes) -> Iterator[ChatDelta]:
        """Yield the deltas that `block` completes.

        Raises:
            TmdeError: the response reports an error, or is damaged.
        """
        if not self._sniffed:
            block = self._sniff(block)
        if self._whole is not None:
            yield from self._feed_json(block)
            return
        for data in self._events.feed(block):
            yield from self._answer.feed(data)
            if self.done:
                return

    def close(self) -> Iterator[ChatDelta | ChatEnd]:
        """Yield what the end of the response completes, and the end of the answer.

        Raises:
            TmdeError: the response reports an error, or ended before the answer did.
        """
        if not self.done:
            if self._by_line:
                yield from self._json_line(bytes(self._whole or b""))
            elif self._whole is not None:
                for value in self._values():
                    yield from self._answer.read(value)
            else:
                for data in self._events.close():
                    yield from self._answer.feed(data)
        if not self._answer.begun:
            raise response_error(200, bytes(self._whole or self._first), self._server)
        yield self._answer.end()

    def _sniff(self, block: bytes) -> bytes:
        """Find out from the first character what the body is. Return the bytes that are still to be read."""
        self._first += block
        if BOM_UTF8.startswith(self._first):
            return b""  # the mark, or nothing, is all there is so far
        begin = bytes(self._first).removeprefix(BOM_UTF8).lstrip(b" \t\r\n")
        if not begin:
            self._first.clear()  # servers send blank lines while they are busy
            return b""
        self._sniffed = True
        if begin[:1] in (b"{", b"[", b"<"):
            self._whole = bytearray()
        self._first = bytearray(begin[:_MOST_HEAD])
        return begin

    def _feed_json(self, block: bytes) -> Iterator[ChatDelta]:
        """Collect a whole JSON answer, or read lines of JSON as they come. The first line shows which it is."""
        whole = self._whole = (self._whole or bytearray()) + block
        if self._by_line is None and b"\n" in whole:
            with contextlib.suppress(ValueError):
                self._by_line = False
                read_lenient(bytes(whole[: whole.index(b"\n")]))
                self._by_line = True
        if self._by_line:
            *lines, rest = bytes(whole).split(b"\n")
            self._whole = bytearray(rest)
            for line in lines:
                yield from self._json_line(line)
                if self.done:
                    return
        if len(self._whole) > MAX_EVENT_BYTES:
            raise WorkerFailedError(
                f"{_start(self._server)} sent an answer of over {MAX_EVENT_BYTES} bytes; it was cut off."
            )

    def _json_line(self, line: bytes) -> Iterator[ChatDelta]:
        yield from self._answer.feed(line)

    def _values(self) -> list[dict[str, Any]]:
        """Return the objects of a body that is no stream of events."""
        body = bytes(self._whole or b"")
        try:
            return objects(read_lenient(body))
        except ValueError:
            if body.startswith(b"<"):
                raise response_error(200, body, self._server) from None
            raise _unreadable(body, self._server) from None


class ChatAnswer:
    """Reads the events of one stream: call `feed` with each event's data, then `end`.

    The object collects the model name, the token counts and the timings beside the text.
    """

    def __init__(self, server: str, model: str, limit: int | None = None) -> None:
        self._server = server
        self._model = model
        self._limit = limit
        """The token limit of the request, to tell an unexplained end from a cut."""
        self._finish: FinishReason | None = None
        self._choice: int | None = None
        """The index of the choice that is read."""
        self._source = ""
        """The member of the choice that holds the answer: `delta`, `message` or `text`."""
        self._thought_source = ""
        self._usage: dict[str, int] = {}
        self._timings: dict[str, float] = {}
        self._answered = False
        self._called = False
        """Whether the model called a tool."""
        self._went_on = False
        """Whether text followed a reason for the end, which was none then."""
        self.done = False
        """Whether the server said that nothing follows."""

    @property
    def finished(self) -> bool:
        """Whether the server said why the answer ended, and nothing of it followed."""
        return self._finish is not None and not self._went_on

    @property
    def begun(self) -> bool:
        """Whether anything of an answer has arrived."""
        return self.done or self._choice is not None

    def feed(self, data: bytes) -> Iterator[ChatDelta]:
        """Yield the deltas of one event.

        Data without an object is ignored: `null`, a number, or the word `ping` carries no part of an answer.

        Raises:
            TmdeError: the data is a damaged chat event, or the event reports an error.
        """
        data = data.strip()
        if data.startswith(b"data:"):
            data = data[5:].strip()  # proxies wrap the events of the server behind them once more
        if data.strip(b'"').lower() in (b"[done]", b"done"):
            self.done = True
            return
        if not data.startswith((b"{", b"[")) and b"{" not in data:
            return
        try:
            values = list(_events(data, self._server))
        except WorkerFailedError:
            if self.finished:  # the damaged event holds counts at most
                return
            raise
        for value in values:
            if value is _DONE:
                self.done = True
            else:
                yield from self.read(value)

    def read(self, chunk: Mapping[str, Any]) -> Iterator[ChatDelta]:
        """Yield the deltas of one event that is already decoded.

        Raises:
            TmdeError: the event reports an error, or the server broke off the answer.
        """
        self._check(chunk)
        self._model = self._model or as_text(chunk.get("model"))
        choice = self._chosen(chunk.get("choices"))
        for holder in (chunk, choice, as_object(chunk.get("x_groq"))):
            if holder.get("usage"):
                self._count(as_object(holder["usage"]))
        if chunk.get("timings"):
            self._time(as_object(chunk["timings"]))
        self._called = self._called or calls_tool(choice)
        text, thought = self._told(choice)
        logprobs = read_logprobs(choice.get("logprobs"))
        if text or thought or logprobs:
            self._answered = self._answered or bool(text)
            self._went_on = self._finish is not None
            yield ChatDelta(text=text, thought=thought, logprobs=logprobs)
        if choice.get("finish_reason"):
            self._note_end(choice["finish_reason"])

    def end(self) -> ChatEnd:
        """Return the last item after the stream has ended.

        A stream that ended in order without a reason, but with text, is an answer: some servers name no reason.

        Raises:
            WorkerFailedError: the stream ended before the answer was finished.
        """
        if self._finish is None and not self._answered:
            raise WorkerFailedError(f"{_start(self._server)} ended the answer before it was finished.")
        if self._called and not self._answered:
            raise tool_error(self._server)
        usage, timings = self._usage, self._timings
        read = as_count(timings.get("cache_n", 0.0) + timings.get("prompt_n", 0.0)) or 0
        written = usage.get("completion_tokens", as_count(timings.get("predicted_n")) or 0)
        cut = self._finish is None and self._limit is not None and written >= self._limit
        prompt = usage.get("prompt_tokens", read)
        return ChatEnd(
            finish_reason="length" if cut else self._finish or "stop",
            prompt_tokens=prompt,
            cached_tokens=min(prompt, usage.get("cached_tokens", as_count(timings.get("cache_n")) or 0)),
            completion_tokens=written,
            prompt_ms=timings.get("prompt_ms"),
            completion_ms=timings.get("predicted_ms"),
            model=self._model,
        )

    def _check(self, chunk: Mapping[str, Any]) -> None:
        """Raise the error that the event reports. What goes wrong after the answer does not spoil the answer."""
        error = chunk.get("error")
        if not is_error(error):
            error = next((one["error"] for one in objects(chunk.get("choices")) if is_error(one.get("error"))), error)
        if not is_error(error) and "choices" not in chunk and "error" in (chunk.get("object"), chunk.get("type")):
            error = {name: value for name, value in chunk.items() if name not in ("object", "error")}
        if is_error(error) and not self.finished:
            raise response_error(_status_of(error), msgspec.json.encode({"error": error}), self._server)

    def _chosen(self, choices: object) -> dict[str, Any]:
        """Return the choice to read: always the same of several, whatever their order."""
        found = objects(choices) if choices else []
        if not found:
            return {}
        if self._choice is None:
            self._choice = min(0 if (at := _index(choice)) is None else at for choice in found)
        for choice in found:
            if _index(choice) in (self._choice, None):
                return choice
        return {}

    def _told(self, choice: Mapping[str, Any]) -> tuple[str, str]:
        """Return the text and the thought of a choice.

        Some servers repeat the whole answer in another member at the end. Only the member that was used first is read.
        """
        for source in ("delta", "message", "text"):
            if source in choice and self._source in ("", source):
                member = choice[source]
                if not isinstance(member, dict):
                    member = {"content": member}
                text, thoughts = text_and_thought(member)
                thought = self._one_thought(thoughts)
                if text or thought:
                    self._source = source
                    return text, thought
        return "", ""

    def _one_thought(self, thoughts: Mapping[str, str]) -> str:
        """Return the thought from one source, because servers send the same thought in several members."""
        self._thought_source = self._thought_source or next(iter(thoughts), "")
        return thoughts.get(self._thought_source, "")

    def _count(self, usage: Mapping[str, Any]) -> None:
        details = as_object(usage.get("prompt_tokens_details"))
        for name, value in (
            ("prompt_tokens", usage.get("prompt_tokens")),
            ("completion_tokens", usage.get("completion_tokens")),
            ("cached_tokens", details.get("cached_tokens")),
        ):
            if (count := as_count(value)) is not None:
                self._usage[name] = count

    def _time(self, timings: Mapping[str, Any]) -> None:
        for name, value in timings.items():
            if (number := as_number(value)) is not None and number >= 0:
                self._timings[name] = number

    def _note_end(self, told: object) -> None:
        if isinstance(told, str) and told.strip().lower() in ("abort", "error") and not self.finished:
            raise WorkerFailedError(f"{_start(self._server)} broke off the answer ({told.strip()}).")
        reason = finish_reason(told)
        if reason is not None and self._finish in (None, "stop"):
            self._finish = reason


_DONE: dict[str, Any] = {}
"""Stands for `[DONE]` among the objects of an event."""


def _events(data: bytes, server: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of an event's data. A server that forgets the blank line puts several on lines of one event."""
    try:
        yield from objects(read_lenient(data))
    except ValueError:
        if b"\n" not in data:
            raise _unreadable(data, server) from None
        for line in data.split(b"\n"):
            if line.strip().lower() == b"[done]":
                yield _DONE
            elif b"{" in line:
                yield from objects(_readable(line, server))


def _readable(line: bytes, server: str) -> Any:
    try:
        return read_lenient(line)
    except ValueError:
        raise _unreadable(line, server) from None


def _unreadable(data: bytes, server: str) -> WorkerFailedError:
    shown = data[:80].decode("utf-8", "replace")
    return WorkerFailedError(f"{_start(server)} sent what is no chat event: {shown!r}.")


def _index(choice: Mapping[str, Any]) -> int | None:
    """Return the index of a choice; None if it is missing or odd."""
    number = as_number(choice.get("index"))
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def _status_of(error: object) -> int:
    found = as_object(error)
    for name in ("code", "status", "status_code"):
        code = as_count(found.get(name))
        if code is not None and 400 <= code < 600:
            return code
    return 500


def _start(server: str) -> str:
    return server[:1].upper() + server[1:]
