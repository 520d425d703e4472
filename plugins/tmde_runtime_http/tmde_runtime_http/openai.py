"""Define the runtime for an OpenAI-style server that is already running."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx
import msgspec

from tmde_core.sdk.chat_http import Refusals, build_chat_body, stream_chat
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import AdapterInvalidError, NotFoundError, WorkerFailedError
from tmde_core.sdk.lenient_json import as_count
from tmde_core.sdk.runtimes import (
    AdapterRef,
    ChatItem,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeStatus,
)
from tmde_runtime_http.connection import Connection, entries, named_models
from tmde_runtime_http.flavors import detect, find_model
from tmde_runtime_http.generic import Generic
from tmde_runtime_http.options import OpenAISettings

NAME = "openai"

UNKNOWN = "What the server can do with adapters is known once it answers."
OFF = 'The setting `adapters = "none"` in [runtimes.openai] keeps adapters from this server.'


class OpenAIRuntime:
    """A `tmde_core.sdk.runtimes.ModelRuntime` for OpenAI-style servers."""

    def __init__(self, context: PluginContext[OpenAISettings]) -> None:
        self._options = context.settings
        self._data_dir = context.data_dir
        key = self._options.key()
        self._connection = Connection(
            self._options,
            f"the model server at {self._options.base_url}",
            {"authorization": f"Bearer {key}"} if key else {},
        )
        self._server: Generic | None = None
        self._listing: list[dict[str, Any]] = []
        self._failure = ""
        self._refusals = Refusals()

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """The capabilities of this kind of server, which is known after `start`. The settings can override them."""
        known = self._server.capabilities if self._server else RuntimeCapabilities(adapters_note=UNKNOWN)
        options = self._options
        if options.adapters == "none":
            known = msgspec.structs.replace(known, adapters=False, adapters_note=OFF)
        return msgspec.structs.replace(
            known,
            json_schema=known.json_schema if options.json_schema is None else options.json_schema,
            logprobs=known.logprobs if options.logprobs is None else options.logprobs,
        )

    async def start(self) -> None:
        """Connect to the server, and find out its kind and its models."""
        if not self._options.base_url:
            raise WorkerFailedError(
                "No model server is configured. Set base_url in the table [runtimes.openai] of tmde.toml, "
                "for example to http://127.0.0.1:8000."
            )
        self._connection.open()
        try:
            await self._list()
        except Exception as error:
            self._failure = str(error)
            await self._connection.close()
            raise
        self._failure = ""
        kind = detect(self._options.flavor, self._listing)
        server = kind(self._connection, self._options, self._data_dir)
        self._connection.server = f"the {kind.title} at {self._options.base_url}"
        await self._look(server)
        self._server = server

    async def stop(self) -> None:
        """Close every connection."""
        self._server = None
        await self._connection.close()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatItem, None]:
        """Stream the answer. See `ModelRuntime.chat`."""
        server = self._started()
        model = (await self._model(request.model))["id"]
        again = request.adapter is not None
        while True:
            self._allow(request.adapter)
            chosen = await server.choose(request.adapter, model)
            extra = {**server.thinking(request.thinking), **chosen.extra}
            body = build_chat_body(self._able(request), model=chosen.model, extra=extra)

            def attempt(client: httpx.AsyncClient, body: dict[str, Any] = body) -> AsyncGenerator[ChatItem, None]:
                return stream_chat(client, body, server=self._connection.server, model=model, refusals=self._refusals)

            begun = False
            try:
                async with aclosing(self._connection.chat(attempt)) as items:
                    async for item in items:
                        begun = True
                        yield item
                return
            except NotFoundError:
                # The server was restarted and has lost the adapter, so the adapter is loaded again, once.
                if begun or request.adapter is None or not server.lost(request.adapter):
                    raise
                if not again:
                    raise WorkerFailedError(server.gone_again(request.adapter)) from None
                again = False

    async def models(self) -> Sequence[ModelInfo]:
        """List the models from `/v1/models`."""
        if not self._connection.is_open:
            if not self._options.base_url:
                return ()
            await self.start()
        else:
            await self._list()
            if self._server is not None:
                await self._look(self._server)
        default = self._options.model or next((entry["id"] for entry in self._listing), "")
        return tuple(
            ModelInfo(
                name=entry["id"],
                runtime=NAME,
                context_length=as_count(entry.get("max_model_len")) or None,
                loaded=True,
                default=entry.get("id") == default,
                detail=self._connection.server,
            )
            for entry in self._listing
        )

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int] | None:
        """Count tokens with the server's `/tokenize`, or return None if the server cannot count."""
        server = self._started()
        return await server.count_tokens(texts, (await self._model(model))["id"])

    async def context_length(self, model: str = "") -> int:
        """Return the server's context length, or otherwise the setting `context_length`."""
        server = self._started()
        return await server.context_length(await self._model(model)) or self._options.context_length

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Load the adapter. See `ModelRuntime.load_adapter`."""
        server = self._started()
        self._allow(adapter)
        await server.load(adapter, model or self._options.model)

    async def unload_adapter(self, adapter_id: str) -> None:
        """Unload the adapter. See `ModelRuntime.unload_adapter`."""
        if self._server is not None:
            await self._server.unload(adapter_id)

    async def status(self) -> RuntimeStatus:
        """Return the known state without a request."""
        if self._server is not None:
            return RuntimeStatus(state="ready", detail=self._connection.state, adapters=self._server.adapters)
        return RuntimeStatus(state="failed" if self._failure else "stopped", detail=self._failure)

    async def _look(self, server: Generic) -> None:
        if self._options.adapters != "none":
            await server.look(self._listing)

    def _allow(self, adapter: AdapterRef | None) -> None:
        if adapter is not None and self._options.adapters == "none":
            raise AdapterInvalidError(OFF)

    async def _list(self) -> None:
        answer = await self._connection.told("GET", "/v1/models")
        found = entries(answer, "data") or entries(answer, "models")
        self._listing = named_models(found, "id", ("name", "model"))

    async def _model(self, name: str) -> dict[str, Any]:
        wanted = name or self._options.model
        try:
            return find_model(self._listing, wanted, self._connection.server)
        except NotFoundError:
            await self._list()  # the model may have been loaded since
            return find_model(self._listing, wanted, self._connection.server)

    def _able(self, request: ChatRequest) -> ChatRequest:
        """Return the request without options that this server does not support and might reject."""
        able = self.capabilities
        return msgspec.structs.replace(
            request,
            json_schema=request.json_schema if able.json_schema else None,
            top_logprobs=request.top_logprobs if able.logprobs else 0,
        )

    def _started(self) -> Generic:
        if self._server is None:
            raise WorkerFailedError(f"{self._connection.title} is not in use: it was stopped, or never started.")
        return self._server
