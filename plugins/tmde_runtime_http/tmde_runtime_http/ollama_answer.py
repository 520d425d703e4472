"""Read the answers of Ollama's `/api/chat`: one JSON object on each line, or one whole object.

As with `tmde_core.sdk.chat_answers`, only the text and the thought must be right. Odd members are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tmde_core.sdk.chat_errors import is_error, response_error, tool_error
from tmde_core.sdk.chat_events import MAX_EVENT_BYTES
from tmde_core.sdk.chat_members import calls_tool, finish_reason, read_logprobs, text_and_thought
from tmde_core.sdk.errors import WorkerFailedError
from tmde_core.sdk.lenient_json import as_count, as_number, as_object, as_text, read_lenient
from tmde_core.sdk.runtimes import ChatDelta, ChatEnd, FinishReason


class OllamaAnswer:
    """Reads one response, block by block. Call `feed` until `done` is true or the response ends, then `close`."""

    def __init__(self, server: str, model: str, limit: int | None = None) -> None:
        self._server = server
        self._model = model
        self._limit = limit
        self._rest = b""
        self._pending = b""
        """Lines that are no JSON by themselves, because the server spread one object over several lines."""
        self._counts: dict[str, int] = {}
        self._times: dict[str, float] = {}
        self._reason: FinishReason | None = None
        self._answered = False
        self._called = False
        """Whether the model called a tool."""
        self.done = False
        """Whether the last line has arrived."""

    def feed(self, block: bytes) -> Iterator[ChatDelta]:
        """Yield the deltas of the lines that `block` completes.

        Raises:
            TmdeError: a line reports an error, or is too long.
        """
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            yield from self._line(line)
            if self.done:
                return
        if len(self._rest) + len(self._pending) > MAX_EVENT_BYTES:
            raise WorkerFailedError(
                f"{self._title} sent a line of over {MAX_EVENT_BYTES} bytes; the answer was cut off."
            )

    def close(self) -> Iterator[ChatDelta | ChatEnd]:
        """Yield what the end of the response completes, and the end of the answer.

        A response that ended in order without its last line, but with text, is an answer.

        Raises:
            WorkerFailedError: the response is damaged, or ended before the answer did.
        """
        if not self.done:
            yield from self._line(self._rest)
            if self._pending and not self.done:
                shown = self._pending[:80].decode("utf-8", "replace")
                raise WorkerFailedError(f"{self._title} sent what is no chat line: {shown!r}.")
        if not self.done and not self._answered:
            raise WorkerFailedError(f"{self._title} ended the answer before it was finished.")
        if self._called and not self._answered:
            raise tool_error(self._server)
        written = self._counts.get("eval_count", 0)
        cut = self._reason is None and self._limit is not None and written >= self._limit > 0
        yield ChatEnd(
            finish_reason="length" if cut else self._reason or "stop",
            prompt_tokens=self._counts.get("prompt_eval_count", 0),
            completion_tokens=written,
            prompt_ms=self._times.get("prompt_eval_duration"),
            completion_ms=self._times.get("eval_duration"),
            model=self._model,
        )

    def _line(self, line: bytes) -> Iterator[ChatDelta]:
        line = line.strip().removeprefix(b"data:").strip()
        if not line or not (self._pending or b"{" in line):
            return
        try:
            value = read_lenient(self._pending + line)
        except ValueError:
            self._pending += line + b"\n"
            return
        self._pending = b""
        if isinstance(value, dict):
            yield from self._read(value)

    def _read(self, line: Mapping[str, Any]) -> Iterator[ChatDelta]:
        if is_error(line.get("error")):
            error = line["error"]
            status = as_count(line.get("status")) or 500
            raise response_error(
                status if 400 <= status < 600 else 500, msgspec.json.encode({"error": error}), self._server
            )
        for name in ("prompt_eval_count", "eval_count"):
            if (count := as_count(line.get(name))) is not None:
                self._counts[name] = count
        for name in ("prompt_eval_duration", "eval_duration"):
            if (nanoseconds := as_number(line.get(name))) is not None and nanoseconds >= 0:
                self._times[name] = nanoseconds / 1e6
        self._called = self._called or calls_tool(line)
        text, thoughts = text_and_thought(as_object(line.get("message")))
        thought = next(iter(thoughts.values()), "")
        logprobs = read_logprobs(line.get("logprobs"))
        if text or thought or logprobs:
            self._answered = self._answered or bool(text)
            yield ChatDelta(text=text, thought=thought, logprobs=logprobs)
        reason = finish_reason(as_text(line.get("done_reason")))
        self._reason = self._reason or reason
        self.done = line.get("done") in (True, "true", 1)

    @property
    def _title(self) -> str:
        return self._server[:1].upper() + self._server[1:]
