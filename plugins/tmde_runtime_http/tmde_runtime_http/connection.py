"""Hold the connection to one server: time-outs, retries before the first token, and an orderly close.

Closing the connection ends every wait for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import msgspec

from tmde_core.sdk.chat_errors import is_error, response_error, transport_error
from tmde_core.sdk.chat_members import objects
from tmde_core.sdk.errors import RuntimeTimeoutError, TmdeError, WorkerFailedError
from tmde_core.sdk.lenient_json import as_object, as_text, read_lenient
from tmde_core.sdk.runtimes import ChatItem
from tmde_runtime_http.options import HttpSettings

log = logging.getLogger(__name__)

RETRIED = frozenset({429, 502, 503, 504, 529})
"""Statuses of a busy server, or of a proxy whose server is starting. Other statuses would not change with a retry."""
BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)
"""A server that is not there yet, or a connection that broke, such as one that the server closed while it was idle."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_WAIT_ASKED_SECONDS = 60.0
"""The longest `Retry-After` that is waited for. With a longer one, the person gets the error instead."""
LONGEST_TOTAL_SECONDS = 120.0
"""The longest that one request waits between its attempts, all waits together."""
QUESTION_SECONDS = 10.0
"""The time limit of requests that are not chats: lists of models, token counts, loading an adapter."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024


class Connection:
    """A client of the server at `options.base_url`. `open` and `close` may each be called repeatedly."""

    def __init__(self, options: HttpSettings, server: str, headers: Mapping[str, str] | None = None) -> None:
        self.server = server
        self._options = options
        self._headers = dict(headers or {})
        self._client: httpx.AsyncClient | None = None
        self._waiting: set[asyncio.Timeout] = set()
        self._waits_for = ""

    @property
    def is_open(self) -> bool:
        """Whether the connection is open."""
        return self._client is not None

    def open(self) -> None:
        """Create the client. No request is sent."""
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self._options.base_url,
                headers=self._headers,
                # Silence is timed below, where "before the first token" and "between tokens" can be distinguished.
                timeout=httpx.Timeout(None, connect=self._options.connect_timeout),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
                # A proxy from the environment is for the Internet, not for a model server that the settings name.
                trust_env=False,
                # Reading the certificates takes 40 ms, and plain http does not need them.
                verify=self._options.base_url.startswith("https:"),
            )

    async def close(self) -> None:
        """Close every connection. Callers that wait for an answer get a WorkerFailedError."""
        client, self._client = self._client, None
        for waiting in list(self._waiting):
            waiting.reschedule(asyncio.get_running_loop().time())
        if client is not None:
            await client.aclose()

    async def ask(
        self, method: str, path: str, body: Any = None, *, seconds: float = QUESTION_SECONDS
    ) -> tuple[int, Any]:
        """Send one plain request and return the status and the decoded JSON, or the text if the answer is not JSON.

        Raises:
            WorkerFailedError, RuntimeTimeoutError: the server cannot be reached, is silent, or sends far too much.
        """
        failures, waited = 0, 0.0
        while True:
            try:
                status, answer = await self._asked(method, path, body, seconds)
                if status not in RETRIED:
                    return status, answer
                error = response_error(status, b"", self.server)
            except TmdeError as failed:
                if isinstance(failed.__context__, httpx.ConnectError | httpx.ConnectTimeout):
                    raise  # the person is told at once that nothing is there
                error, status, answer = failed, 0, None
            # A person waits for these answers, so the waits together are no longer than one answer may take.
            left = min(seconds, QUESTION_SECONDS) - waited
            pause = self._pause(error, failures, left)
            if pause is None or pause > left:
                if status:
                    return status, answer
                raise error
            failures, waited = failures + 1, waited + pause
            await self._sleep(pause)

    async def _asked(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, Any]:
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            async with (
                self._within(seconds),
                self._opened().stream(method, path, content=content, headers=headers) as response,
            ):
                answer = bytearray()
                async for block in response.aiter_bytes():
                    answer += block
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise WorkerFailedError(f"{self.title} sent over {MAX_ANSWER_BYTES} bytes for {path}.")
        except httpx.HTTPError as error:
            raise transport_error(error, self.server) from None
        try:
            return response.status_code, read_lenient(bytes(answer))
        except ValueError:
            return response.status_code, bytes(answer).decode("utf-8", "replace")

    async def told(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request like `ask`, for an answer that must be a JSON object or an array.

        Raises:
            TmdeError: see `ask`; also if the server answered with an error, or with something else.
        """
        status, answer = await self.ask(method, path, body)
        if status >= 400:
            raise response_error(status, msgspec.json.encode(answer), self.server)
        if isinstance(answer, dict) and is_error(answer.get("error")):
            raise response_error(500, msgspec.json.encode(answer), self.server)
        if not isinstance(answer, dict | list):
            raise WorkerFailedError(f"{self.title} answers {path} with something unknown. Check its address.")
        return answer

    async def chat(
        self, attempt: Callable[[httpx.AsyncClient], AsyncGenerator[ChatItem, None]]
    ) -> AsyncGenerator[ChatItem, None]:
        """Stream the items of `attempt`. Until the first item has arrived, temporary failures are retried."""
        failures, waited = 0, 0.0
        while True:
            async with aclosing(attempt(self._opened())) as items:
                try:
                    async with self._within(self._options.first_token_timeout, " with a first token"):
                        item = await anext(items, None)
                except TmdeError as error:
                    pause = self._pause(error, failures, LONGEST_TOTAL_SECONDS - waited)
                    if pause is None:
                        raise
                else:
                    while item is not None:
                        yield item
                        async with self._within(self._options.token_timeout, " with a further token"):
                            item = await anext(items, None)
                    return
            failures, waited = failures + 1, waited + pause
            await self._sleep(pause)

    @property
    def state(self) -> str:
        """The server's name, and what requests wait for if they wait."""
        return f"{self.server}; {self._waits_for}" if self._waits_for else self.server

    @property
    def title(self) -> str:
        """The server's name with a capital letter, for the beginning of a sentence."""
        return self.server[:1].upper() + self.server[1:]

    def _pause(self, error: TmdeError, failures: int, left: float) -> float | None:
        """Return the seconds until the next attempt, or None to give up. `left` is the longest wait that is granted."""
        if failures >= self._options.retries or not _passes(error):
            return None
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**failures)
        pause *= random.uniform(0.5, 1.0)  # jitter, so that clients that failed together do not retry together
        asked = error.context.get("retryAfter")
        if isinstance(asked, int | float):
            pause = max(pause, float(asked))
            if pause > min(left, LONGEST_WAIT_ASKED_SECONDS):
                return None
        self._waits_for = f"trying again in {pause:.1f} s, attempt {failures + 2} of {self._options.retries + 1}"
        log.info("%s: %s.", error.detail.rstrip("."), self._waits_for)
        return pause

    async def _sleep(self, seconds: float) -> None:
        """Wait, or raise WorkerFailedError as soon as the connection is closed."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds) as waiting:
                    self._waiting.add(waiting)
                    try:
                        await asyncio.Event().wait()
                    finally:
                        self._waiting.discard(waiting)
        finally:
            self._waits_for = ""
        self._opened()

    @asynccontextmanager
    async def _within(self, seconds: float, what: str = "") -> AsyncIterator[None]:
        """Limit the time of a wait. Closing the connection ends the wait early."""
        try:
            async with asyncio.timeout(seconds) as waiting:
                self._waiting.add(waiting)
                try:
                    yield
                finally:
                    self._waiting.discard(waiting)
        except TimeoutError:
            if self._client is None:
                raise self._ended() from None
            raise RuntimeTimeoutError(f"{self.title} did not answer within {seconds:g} s{what}.") from None

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            raise self._ended()
        return self._client

    def _ended(self) -> WorkerFailedError:
        return WorkerFailedError(f"The connection to {self.server} was ended while it was in use.")


def _passes(error: TmdeError) -> bool:
    """Return whether the failure may be temporary."""
    if error.context.get("status") in RETRIED:
        return True
    return isinstance(error.__context__, BROKEN)


def entries(listed: object, name: str) -> list[dict[str, Any]]:
    """Return the objects of a list of models, which stands in the member `name` or is the whole answer.

    Some servers list names only, and some have an object with a member for each model.
    """
    found = as_object(listed).get(name) if isinstance(listed, dict) else listed
    if isinstance(found, dict) and found and all(isinstance(value, dict) for value in found.values()):
        found = [{"id": model, **value} for model, value in found.items()]
    if isinstance(found, list):
        found = [{"id": one, "name": one} if isinstance(one, str) else one for one in found]
    return objects(found)


_NO_CHAT = re.compile(
    r"embed|rerank|moderation|whisper|minilm|(?<![a-z])(?:bge|gte|e5|bert|tts|dall-e|text-to-speech)(?![a-z])",
    re.IGNORECASE,
)
"""Kinds of models that cannot answer, in the names and types that servers list. LM Studio and Ollama list embedding
models among the others, and often first."""


def named_models(listed: list[dict[str, Any]], key: str, others: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the entries of a list of models with their names under `key`, and those last that do not chat.

    Args:
        key: the member that holds the name.
        others: members that may hold the name in its place.
    """
    found = []
    for entry in listed:
        name = next((name for member in (key, *others) if (name := as_text(entry.get(member)).strip())), "")
        if name:
            found.append({**entry, key: name})
    return sorted(found, key=lambda entry: bool(_NO_CHAT.search(f"{entry[key]} {as_text(entry.get('type'))}")))
