"""Define the runtime for Ollama, through its own API: NDJSON streams, `format` as a schema, `keep_alive`."""

# ruff: noqa: ARG002 - the port asks for more than Ollama has a use for

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx
import msgspec

from tmde_core.sdk.chat_errors import MAX_ERROR_BYTES, response_error, transport_error
from tmde_core.sdk.chat_refusals import Refusals, RefusedError, ask_with_less
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import AdapterInvalidError, NotFoundError
from tmde_core.sdk.lenient_json import as_count, as_object, as_text
from tmde_core.sdk.runtimes import (
    AdapterRef,
    ChatItem,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeStatus,
)
from tmde_runtime_http.connection import Connection, entries, named_models
from tmde_runtime_http.ollama_answer import OllamaAnswer
from tmde_runtime_http.options import OllamaSettings

NAME = "ollama"
LOGPROBS_SINCE = (0, 12, 11)
"""The first version of Ollama whose `/api/chat` accepts `logprobs`."""
NO_ADAPTERS_SINCE = (0, 34, 1)
"""The first version that refuses `ADAPTER` in a Modelfile."""
INSTEAD = (
    "Export one GGUF file with the adapter merged in (`tmde lora export ID --format merged-gguf`), write a Modelfile with "
    "the line `FROM ./FILE.gguf`, run `ollama create NAME -f Modelfile`, and name that model in the settings; or use the "
    "embedded runtime."
)
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
        self._refusals = Refusals()
        self._failure = ""

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities of this version of Ollama, which is known after `start`."""
        return RuntimeCapabilities(
            json_schema=self._version >= SCHEMAS_SINCE,
            logprobs=self._version >= LOGPROBS_SINCE,
            adapters_note=self._adapters_note,
        )

    @property
    def _adapters_note(self) -> str:
        """Why no adapter can be loaded, and what to do."""
        version = ".".join(map(str, self._version))
        if self._version >= NO_ADAPTERS_SINCE:
            why = f"Ollama {version} loads no adapters: since 0.34.1, Ollama refuses ADAPTER in a Modelfile."
        elif self._version:
            why = f"Ollama {version} loads no adapters for a request, and since 0.34.1, it refuses ADAPTER in a Modelfile."
        else:
            why = "Ollama loads no adapters for a request."
        return f"{why} {INSTEAD}"

    async def start(self) -> None:
        """Connect to Ollama and read its version and models."""
        self._connection.open()
        try:
            told = as_object(await self._connection.told("GET", "/api/version"))
            await self._list()
        except Exception as error:
            self._failure = str(error)
            await self._connection.close()
            raise
        version = re.findall(r"\d{1,9}", as_text(told.get("version")), re.ASCII)
        self._version = tuple(int(part) for part in version[:3])
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
            server = self._connection.server
            return ask_with_less(body, self._refusals, lambda fitted: _stream(client, fitted, server, model))

        async with aclosing(self._connection.chat(attempt)) as items:
            async for item in items:
                yield item

    async def models(self) -> Sequence[ModelInfo]:
        """List the models from `/api/tags`."""
        if self._connection.is_open:
            await self._list()
        else:
            await self.start()
        default = self._options.model or next((entry["name"] for entry in self._listing), "")
        return tuple(
            ModelInfo(
                name=entry["name"],
                runtime=NAME,
                context_length=self._contexts.get(entry["name"]),
                size_bytes=as_count(entry.get("size")),
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
            status, shown = await self._connection.ask("POST", "/api/show", {"model": name})
            size = _context(shown, self._options.context_length)
            if status >= 400:  # the model may still answer
                return size
            self._contexts[name] = size
        return self._contexts[name]

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Refuse the adapter, because Ollama has adapters only inside its own models."""
        raise self._refusal(adapter)

    async def unload_adapter(self, adapter_id: str) -> None:
        """Do nothing, because no adapter is ever loaded."""

    async def status(self) -> RuntimeStatus:
        """Return the known state without a request."""
        if self._connection.is_open:
            return RuntimeStatus(state="ready", detail=self._connection.state)
        return RuntimeStatus(state="failed" if self._failure else "stopped", detail=self._failure)

    async def _list(self) -> None:
        listed = await self._connection.told("GET", "/api/tags")
        self._listing = named_models(entries(listed, "models"), "name", ("model",))

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
        names = ", ".join(entry["name"] for entry in self._listing[:8])
        raise NotFoundError(
            f"{self._connection.title} has no model called {wanted!r}; it has {names}. Fetch it with `ollama pull {wanted}`.",
            model=wanted,
        )

    def _find(self, wanted: str) -> str | None:
        names = [entry["name"] for entry in self._listing]
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
        if request.thinking is not None:
            body["think"] = request.thinking
        if request.top_logprobs > 0 and self.capabilities.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return body

    def _refusal(self, adapter: AdapterRef) -> AdapterInvalidError:
        return AdapterInvalidError(f"The adapter {adapter.id} cannot be loaded. {self._adapters_note}")


async def _stream(
    client: httpx.AsyncClient, body: dict[str, Any], server: str, model: str
) -> AsyncGenerator[ChatItem, None]:
    """Send one request to `/api/chat` and yield the items of its answer."""
    answer = OllamaAnswer(server, model, body["options"].get("num_predict"))
    try:
        async with client.stream(
            "POST", "/api/chat", content=msgspec.json.encode(body), headers={"content-type": "application/json"}
        ) as response:
            if not response.is_success:
                told = bytearray()
                async for block in response.aiter_bytes():
                    told += block
                    if len(told) > MAX_ERROR_BYTES:
                        break
                status, content = response.status_code, bytes(told)
                error = response_error(status, content, server, headers=response.headers)
                raise RefusedError(status, content, error)
            async for block in response.aiter_bytes():
                for item in answer.feed(block):
                    yield item
                if answer.done:
                    break
            for last in answer.close():
                yield last
    except httpx.HTTPError as error:
        raise transport_error(error, server) from None


def _context(shown: object, setting: int) -> int:
    """Return the context length: the Modelfile's `num_ctx` or `setting`, at most the model's maximum."""
    told = as_object(shown)
    sizes = (
        as_count(value) for key, value in as_object(told.get("model_info")).items() if key.endswith(".context_length")
    )
    most = next((size for size in sizes if size), None)
    named = re.search(r"^\s*num_ctx\s+(\d{1,9})\s*$", as_text(told.get("parameters")), re.MULTILINE | re.ASCII)
    wanted = int(named[1]) if named else 0
    wanted = wanted or setting
    return min(wanted, most) if most else wanted


def _detail(details: object) -> str:
    told = as_object(details)
    parts = (told.get("family"), told.get("parameter_size"), told.get("quantization_level"))
    return ", ".join(part for part in parts if part and isinstance(part, str))
