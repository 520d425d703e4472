"""Define the runtime for Ollama, through its own API: NDJSON streams, `format` as a schema, `keep_alive`."""

# ruff: noqa: ARG002 - the port asks for more than Ollama has a use for

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import httpx
import msgspec

from tmde_core.sdk.chat_http import MAX_ERROR_BYTES, MAX_EVENT_BYTES, response_error, transport_error
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import AdapterInvalidError, NotFoundError, WorkerFailedError
from tmde_core.sdk.runtimes import (
    AdapterRef,
    ChatDelta,
    ChatEnd,
    ChatItem,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeStatus,
    TokenAlternative,
    TokenLogprob,
)
from tmde_runtime_http.connection import Connection
from tmde_runtime_http.options import OllamaSettings

NAME = "ollama"
LOGPROBS_SINCE = (0, 12, 11)
"""The first version of Ollama whose `/api/chat` accepts `logprobs`."""
SCHEMAS_SINCE = (0, 5, 0)
"""The first version whose `format` accepts a JSON schema."""


class OllamaRuntime:
    """A `tmde_core.sdk.runtimes.ModelRuntime` for Ollama."""

    def __init__(self, context: PluginContext[OllamaSettings]) -> None:
        self._options = context.settings
        self._connection = Connection(self._options, f"Ollama at {self._options.base_url}")
        self._version: tuple[int, ...] = ()
        self._listing: list[dict[str, Any]] = []
        self._contexts: dict[str, int] = {}
        self._failure = ""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities of this version of Ollama, which is known after `start`."""
        return RuntimeCapabilities(json_schema=self._version >= SCHEMAS_SINCE, logprobs=self._version >= LOGPROBS_SINCE)

    async def start(self) -> None:
        """Connect to Ollama and read its version and models."""
        self._connection.open()
        try:
            told = await self._connection.told("GET", "/api/version")
            await self._list()
        except Exception as error:
            self._failure = str(error)
            await self._connection.close()
            raise
        self._version = tuple(int(part) for part in re.findall(r"\d+", str(told.get("version", "")))[:3])
        self._failure = ""

    async def stop(self) -> None:
        """Close every connection."""
        await self._connection.close()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatItem, None]:
        """Stream the answer. See `ModelRuntime.chat`."""
        if request.adapter is not None:
            raise self._refusal(request.adapter)
        model = await self._model(request.model)
        body = self._body(request, model, await self.context_length(model))

        def attempt(client: httpx.AsyncClient) -> AsyncGenerator[ChatItem, None]:
            return _stream(client, body, self._connection.server, model)

        async with aclosing(self._connection.chat(attempt)) as items:
            async for item in items:
                yield item

    async def models(self) -> Sequence[ModelInfo]:
        """List the models from `/api/tags`."""
        if self._connection.is_open:
            await self._list()
        else:
            await self.start()
        default = self._options.model or next((str(entry["name"]) for entry in self._listing), "")
        return tuple(
            ModelInfo(
                name=str(entry["name"]),
                runtime=NAME,
                context_length=self._contexts.get(str(entry["name"])),
                size_bytes=entry["size"] if isinstance(entry.get("size"), int) else None,
                default=entry["name"] == default,
                detail=_detail(entry.get("details")),
            )
            for entry in self._listing
        )

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """Return None, because Ollama cannot count tokens."""
        return None

    async def context_length(self, model: str = "") -> int:
        """Return the context length that every request sends to Ollama as `num_ctx`.

        By default, Ollama gives a model a few thousand tokens, whatever its maximum is, and cuts a longer prompt
        silently. Therefore the model's own `num_ctx` (from its Modelfile) is used, or otherwise the setting
        `context_length`, but at most the model's maximum.
        """
        name = await self._model(model)
        if name not in self._contexts:
            shown = await self._connection.told("POST", "/api/show", {"model": name})
            self._contexts[name] = _context(shown, self._options.context_length)
        return self._contexts[name]

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Refuse the adapter, because Ollama has adapters only inside its own models."""
        raise self._refusal(adapter)

    async def unload_adapter(self, adapter_id: str) -> None:
        """Do nothing, because no adapter is ever loaded."""

    async def status(self) -> RuntimeStatus:
        """Return the known state without a request."""
        if self._connection.is_open:
            return RuntimeStatus(state="ready", detail=self._connection.server)
        return RuntimeStatus(state="failed" if self._failure else "stopped", detail=self._failure)

    async def _list(self) -> None:
        listed = (await self._connection.told("GET", "/api/tags")).get("models")
        self._listing = (
            [entry for entry in listed if isinstance(entry, dict) and "name" in entry]
            if isinstance(listed, list)
            else []
        )

    async def _model(self, name: str) -> str:
        wanted = name or self._options.model
        found = self._find(wanted)
        if found is None:
            await self._list()  # the model may have been pulled since
            found = self._find(wanted)
        if found is not None:
            return found
        if not self._listing:
            raise NotFoundError(f"{self._connection.title} has no model yet. Fetch one with `ollama pull NAME`.")
        names = ", ".join(str(entry["name"]) for entry in self._listing[:8])
        raise NotFoundError(
            f"{self._connection.title} has no model called {wanted!r}; it has {names}. Fetch it with `ollama pull {wanted}`.",
            model=wanted,
        )

    def _find(self, wanted: str) -> str | None:
        names = [str(entry["name"]) for entry in self._listing]
        if not wanted:
            return names[0] if names else None
        return next((name for name in names if name in (wanted, f"{wanted}:latest")), None)

    def _body(self, request: ChatRequest, model: str, context: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "num_predict": request.max_tokens,
            "num_ctx": context,
        }
        if request.seed is not None:
            options["seed"] = request.seed
        if request.stop:
            options["stop"] = list(request.stop)
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "stream": True,
            "options": options,
            "keep_alive": self._options.keep_alive,
            # A prompt that is too long must be an error, not a prompt with its beginning cut off. Older versions ignore
            # both fields.
            "truncate": False,
            "shift": False,
        }
        if request.json_schema is not None and self.capabilities.json_schema:
            body["format"] = request.json_schema
        if request.top_logprobs > 0 and self.capabilities.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return body

    def _refusal(self, adapter: AdapterRef) -> AdapterInvalidError:
        return AdapterInvalidError(
            f"Ollama cannot load the adapter {adapter.id} by itself. Export it as GGUF, write a Modelfile with the lines "
            f"`FROM <base model>` and `ADAPTER {adapter.directory}/adapter.gguf`, run `ollama create NAME -f Modelfile`, and "
            "name that model in the settings; or use the embedded runtime."
        )


async def _stream(
    client: httpx.AsyncClient, body: dict[str, Any], server: str, model: str
) -> AsyncGenerator[ChatItem, None]:
    """Send one request to `/api/chat` and yield the items of its answer."""
    try:
        async with client.stream(
            "POST", "/api/chat", content=msgspec.json.encode(body), headers={"content-type": "application/json"}
        ) as response:
            if response.status_code != 200:
                told = bytearray()
                async for block in response.aiter_bytes():
                    told += block
                    if len(told) > MAX_ERROR_BYTES:
                        break
                raise response_error(response.status_code, bytes(told), server, response.headers.get("retry-after"))
            rest = b""
            async for block in response.aiter_bytes():
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    for item in _items(line, server, model):
                        yield item
                        if isinstance(item, ChatEnd):
                            return
                if len(rest) > MAX_EVENT_BYTES:
                    raise WorkerFailedError(
                        f"{server} sent a line of over {MAX_EVENT_BYTES} bytes; the answer was cut off."
                    )
            for item in _items(rest, server, model):
                yield item
                if isinstance(item, ChatEnd):
                    return
            raise WorkerFailedError(f"{server} ended the answer before it was finished.")
    except httpx.HTTPError as error:
        raise transport_error(error, server) from None


class _Logprob(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0
    top_logprobs: list[_Logprob] | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Line(msgspec.Struct):
    """One line of the stream. Durations are in nanoseconds."""

    message: _Message | None = None
    logprobs: list[_Logprob] | None = None
    error: Any = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


_decoder = msgspec.json.Decoder(_Line)


def _items(raw: bytes, server: str, model: str) -> Iterator[ChatItem]:
    if not raw.strip():
        return
    try:
        line = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WorkerFailedError(
            f"{server} sent what is no chat line: {raw[:80].decode('utf-8', 'replace')!r}."
        ) from None
    if line.error is not None:
        raise response_error(500, msgspec.json.encode({"error": line.error}), server)
    text = (line.message.content if line.message else None) or ""
    if text or line.logprobs:
        yield ChatDelta(text=text, logprobs=tuple(_logprob(token) for token in line.logprobs or ()))
    if line.done:
        yield ChatEnd(
            finish_reason="length" if line.done_reason == "length" else "stop",
            prompt_tokens=line.prompt_eval_count or 0,
            completion_tokens=line.eval_count or 0,
            prompt_ms=_ms(line.prompt_eval_duration),
            completion_ms=_ms(line.eval_duration),
            model=model,
        )


def _logprob(token: _Logprob) -> TokenLogprob:
    return TokenLogprob(
        token=token.token,
        logprob=min(0.0, token.logprob),
        top=tuple(
            TokenAlternative(token=other.token, logprob=min(0.0, other.logprob)) for other in token.top_logprobs or ()
        ),
    )


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6


def _context(shown: dict[str, Any], setting: int) -> int:
    """Return the context length: the Modelfile's `num_ctx` or `setting`, at most the model's maximum."""
    info = shown.get("model_info")
    most = (
        next(
            (
                value
                for key, value in info.items()
                if key.endswith(".context_length") and isinstance(value, int) and value > 0
            ),
            None,
        )
        if isinstance(info, dict)
        else None
    )
    named = re.search(r"^\s*num_ctx\s+(\d+)\s*$", str(shown.get("parameters") or ""), re.MULTILINE)
    wanted = int(named[1]) if named else setting
    return min(wanted, most) if most else wanted


def _detail(details: object) -> str:
    if not isinstance(details, dict):
        return ""
    parts = (details.get("family"), details.get("parameter_size"), details.get("quantization_level"))
    return ", ".join(str(part) for part in parts if part)
