"""Converts the errors of HTTP model servers to TMDE's own errors, and reads how long such a server asks to wait."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

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
from tmde_core.sdk.lenient_json import as_count, as_list, as_object, as_text, read_lenient

__all__ = [
    "MAX_ERROR_BYTES",
    "Told",
    "is_context_overflow",
    "is_error",
    "read_told",
    "response_error",
    "retry_seconds",
    "tool_error",
    "transport_error",
]

MAX_ERROR_BYTES = 64 * 1024
"""The most bytes that are read from the body of an error."""
LONGEST_RETRY_SECONDS = 366 * 86400
"""The longest wait that is reported. A server that asks for more means "never"."""

_OVERFLOW = re.compile(
    r"exceed_context_size|context_length_exceeded|context (length|size|window)|maximum (input|model) length"
    r"|(prompt|input|messages?) (is|are|was) too long|max_?seq_?len|max_?model_?len|too many (input |prompt )?tokens"
    r"|inputs?`? tokens \+ `?max_new_tokens|maximum number of (input )?tokens|\btokens?\b.{0,40}exceeds? the (model|maximum|limit)"
    r"|上下文(长度|窗口)",
    re.IGNORECASE,
)
"""What servers say: llama.cpp, OpenAI, vLLM, LM Studio, Anthropic, ExLlamaV2, TGI, Gemini, and Chinese services."""
_NO_MODEL = re.compile(
    r"model\b.*(not found|does not exist|not exist|not available|no such)|(no such|unknown) model",
    re.IGNORECASE | re.DOTALL,
)
_NO_ERROR = ("", "null", "none", "ok", "success")
MOST_PROXIES = 3
_MOST_SHOWN = 300
"""The most characters of a server's own message that people see."""


class Told(msgspec.Struct):
    """The content of an error body, in any known format."""

    message: str = ""
    """The server's own message, on one line."""
    type: str = ""
    """The kind of error in the server's words."""
    code: str = ""
    """The code of the error in the server's words."""
    params: tuple[str, ...] = ()
    """The request's fields that the server names as wrong, such as `stream_options` or `messages[0].role`."""
    n_prompt_tokens: int | None = None
    """The size of the prompt, if the server told it."""
    n_ctx: int | None = None
    """The size of the context, if the server told it."""

    @property
    def kind(self) -> str:
        """Type, code and message in one text, for recognising the error."""
        return f"{self.type} {self.code} {self.message}"


def is_error(error: object) -> bool:
    """Return whether an `error` member reports an error. Null, false, 0, blanks, empty objects and "ok" report none."""
    if isinstance(error, str):
        return error.strip().lower() not in _NO_ERROR
    if isinstance(error, dict):
        code = as_count(error.get("code"))
        if code is not None and (code == 0 or 200 <= code < 300):
            return is_error(error.get("message"))
        return any(is_error(value) for value in error.values())
    if isinstance(error, list):
        return any(is_error(value) for value in error)
    return bool(error)


def is_context_overflow(told: Told) -> bool:
    """Return whether the error says that the prompt does not fit the model's context."""
    return _OVERFLOW.search(told.kind) is not None


def response_error(
    status: int,
    body: bytes,
    server: str,
    retry_after: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> TmdeError:
    """Return TMDE's error for a failed response, including the server's own message if there is one.

    The error's `context` has `status`. It also has `retryAfter` (seconds) if the server asked to wait, and for a
    context overflow `limit` and `promptTokens` if the server sent them.

    Args:
        status: the HTTP status.
        body: the response's body, or its beginning.
        server: the name of the server in errors, such as "the vLLM server at …".
        retry_after: the header `Retry-After`, if that is all there is.
        headers: all headers of the response; see `retry_seconds`.
    """
    told = read_told(body)
    said = f" It said: {_shortened(told.message)}" if told.message else ""
    said = said if not said or said.endswith((".", "!", "?")) else f"{said}."
    who = _start(server)
    if status in (400, 413, 422, 500) and is_context_overflow(told):
        size = f" of {told.n_prompt_tokens} tokens" if told.n_prompt_tokens else ""
        room = f" of {told.n_ctx} tokens" if told.n_ctx else ""
        return ContextOverflowError(
            f"The prompt{size} does not fit the context{room} of {server}. Shorten it, or serve the model with a larger context.",
            limit=told.n_ctx,
            promptTokens=told.n_prompt_tokens,
            status=status,
        )
    if status in (400, 404) and _NO_MODEL.search(told.kind):
        return NotFoundError(f"{who} has no such model.{said}", status=status)
    if status in (401, 403):
        return UnauthorizedError(
            f"{who} refused the key (HTTP {status}).{said} Check the key in the settings.", status=status
        )
    if status == 404:
        return WorkerFailedError(f"{who} has no OpenAI-style chat at this address.{said} Check its URL.", status=status)
    if status in (408, 504):
        return RuntimeTimeoutError(f"{who} did not answer in time (HTTP {status}).{said}", status=status)
    if 300 <= status < 400:
        place = {str(name).lower(): str(value) for name, value in (headers or {}).items()}.get("location", "")
        to = f" to {_shortened(_one_line(place))}" if place else ""
        return WorkerFailedError(
            f"{who} sends the request on{to} (HTTP {status}). Correct the address in the settings.", status=status
        )
    if status < 300:
        page = " It sent a page of HTML." if body.lstrip()[:1] == b"<" else ""
        empty = " It sent nothing." if not body.strip() else ""
        return WorkerFailedError(
            f"{who} did not answer with a stream.{said or page or empty} Check that its address is that of a model server.",
            status=status,
        )
    wait = retry_seconds({"retry-after": retry_after} if retry_after else headers or {})
    asked = f" It asks to wait {_duration(wait)}." if wait else ""
    what = "is asked too much at once (HTTP 429)" if status == 429 else f"failed with HTTP {status}"
    return WorkerFailedError(f"{who} {what}.{said}{asked}", status=status, retryAfter=wait)


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 3600 else f"{seconds / 3600:,.0f} h"


def tool_error(server: str) -> WorkerFailedError:
    """Return the error for an answer that is nothing but the call of a tool. TMDE offers models no tools."""
    return WorkerFailedError(
        f"The model of {server} called a tool instead of answering. Switch its tools off, or use another model."
    )


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


# ------------------------------------------------------------------------------------- how long to wait

_SECONDS = re.compile(
    r"\+?((?:\d{1,18}(?:\.\d*)?|\.\d+)(?:e\+?\d{1,2})?) ?(?:s|secs?|seconds?)?(?: ?,.*)?", re.ASCII | re.IGNORECASE
)
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?")
"""A duration as Go writes it: `6m0s`, `1.5s`, `20ms`."""


def retry_seconds(headers: Mapping[str, str], now: float | None = None) -> int | float | None:
    """Return the seconds that the server asks to wait before the next attempt; None if it does not say.

    The value is read from `Retry-After-Ms` (milliseconds), `Retry-After` (seconds or an HTTP date, RFC 9110 §10.2.3),
    or OpenAI's `X-RateLimit-Reset-Requests` and `-Tokens` where nothing remains of that limit. Nonsense counts as not
    said. A date in the past means 0.

    Args:
        headers: the response's headers. Names are compared without case.
        now: the present as a Unix time; None: the header `Date`, or else this machine's clock.
    """
    named = {str(name).lower(): str(value).strip() for name, value in headers.items()}
    found = _milliseconds(named.get("retry-after-ms", ""))
    if found is None:
        found = _seconds(named.get("retry-after", ""))
    if found is None:
        found = _until(named.get("retry-after", ""), _now(named, now))
    if found is None:
        resets = (_reset(named, limit) for limit in ("requests", "tokens"))
        found = max((seconds for seconds in resets if seconds is not None), default=None)
    if found is None or not math.isfinite(found):
        return None
    bounded = round(min(max(found, 0.0), LONGEST_RETRY_SECONDS), 3)
    return int(bounded) if bounded == int(bounded) else bounded


def _milliseconds(text: str) -> float | None:
    found = re.fullmatch(r"\d{1,18}(\.\d*)?", text, re.ASCII)
    return float(text) / 1000 if found else None


def _seconds(text: str) -> float | None:
    if re.fullmatch(r"\d{19,}", text, re.ASCII):
        return float(LONGEST_RETRY_SECONDS)
    found = _SECONDS.fullmatch(text)
    return float(found[1]) if found else None


def _until(text: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _now(named: Mapping[str, str], now: float | None) -> float:
    """Return the server's own time if it told it, because its clock and this one may differ."""
    if now is not None:
        return now
    here = time.time()
    told = _until(named.get("date", ""), 0.0)
    return here if told is None else told


def _reset(named: Mapping[str, str], limit: str) -> float | None:
    if named.get(f"x-ratelimit-remaining-{limit}") != "0":
        return None
    found = _DURATION.fullmatch(named.get(f"x-ratelimit-reset-{limit}", ""))
    if not found or not any(found.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


# ------------------------------------------------------------------------------------------ error bodies


def read_told(body: bytes, depth: int = 0) -> Told:
    """Return what an error body says. A body in an unknown format has its text as the message; a page of HTML none."""
    try:
        tree = read_lenient(body)
    except ValueError:
        text = body[:MAX_ERROR_BYTES].decode("utf-8", "replace")
        return Told(message="" if "<" in text[:400] else _one_line(text))
    inner = tree
    for _ in range(3):  # proxies wrap the error of the server behind them
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if isinstance(inner, dict) and is_error(inner.get("error")):
            inner = inner["error"]
        elif isinstance(inner, dict) and isinstance(inner.get("message"), dict):
            inner = {**inner, **inner["message"]} if "message" in inner["message"] else inner["message"]  # Mistral
    if isinstance(inner, str):
        return Told(message=_one_line(inner))
    found = as_object(inner)
    if (behind := _behind(found, depth)) is not None:
        return behind
    details = [as_object(detail) for name in ("detail", "errors") for detail in as_list(found.get(name))]
    message = next((found[name] for name in ("message", "detail", "msg", "Message") if found.get(name)), "")
    if details:
        message = "; ".join(filter(None, (_detail(detail) for detail in details))) or message
    names = [as_text(found.get("param")), *(_field(detail) for detail in details)]
    return Told(
        message=_one_line(message),
        type=_one_line(found.get("type") or ""),
        code=_one_line(found.get("code") or ""),
        params=tuple(dict.fromkeys(name for name in names if name)),
        n_prompt_tokens=as_count(found.get("n_prompt_tokens")),
        n_ctx=as_count(found.get("n_ctx")),
    )


def _behind(found: Mapping[str, Any], depth: int) -> Told | None:
    """Return the error of the server behind a proxy, which the proxy quotes as JSON in a text; None if there is none.

    OpenRouter quotes it in `metadata.raw`, others in `message`.
    """
    for quoted in (as_object(found.get("metadata")).get("raw"), found.get("message")):
        if isinstance(quoted, str) and quoted.lstrip().startswith("{") and depth < MOST_PROXIES:
            told = read_told(quoted.encode("utf-8", "replace"), depth + 1)
            if told.message and not told.message.startswith("{"):
                return told
    return None


def _detail(detail: Mapping[str, Any]) -> str:
    """Return one entry of a list of validation errors as text. FastAPI: `loc` and `msg`."""
    said, field = as_text(detail.get("msg")) or as_text(detail.get("message")), _field(detail)
    return f"{field}: {said}" if field and said else said


def _field(detail: Mapping[str, Any]) -> str:
    parts = [str(part) for part in as_list(detail.get("loc"))] or [as_text(detail.get("field") or detail.get("param"))]
    return ".".join(parts[1:] if parts[:1] == ["body"] else parts)


def _one_line(text: object) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def _shortened(line: str) -> str:
    return line if len(line) <= _MOST_SHOWN else line[:_MOST_SHOWN] + "…"


def _start(server: str) -> str:
    return server[:1].upper() + server[1:]
