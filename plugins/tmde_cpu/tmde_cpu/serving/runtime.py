"""The embedded runtime: llama.cpp in supervised child processes, one for each model that is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import httpx
import msgspec
import psutil

from tmde_core.sdk.chat_http import chat_body, response_error, transport_error
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import TmdeError, WorkerFailedError
from tmde_core.sdk.runtimes import (
    AdapterRef,
    Availability,
    ChatItem,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeStatus,
)
from tmde_cpu.serving.catalog import Catalog, ModelSource
from tmde_cpu.serving.child import SERVER
from tmde_cpu.serving.loopback import stream_loopback
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.served import Generation, ServedModel
from tmde_cpu.serving.served_form import served_form
from tmde_cpu.serving.server_log import ServerLog
from tmde_cpu.serving.simple_questions import QualityReport, quality

END_NOTICE_SECONDS = 1.0
"""How long a broken connection waits for the news that the child has ended."""


class EmbeddedRuntime:
    """Serves GGUF models on this machine. See `tmde_core.sdk.runtimes.ModelRuntime`."""

    capabilities = RuntimeCapabilities(json_schema=True, logprobs=True, adapters=True, token_counts=True)

    def __init__(self, context: PluginContext[EmbeddedSettings]) -> None:
        self._options = context.settings
        self._catalog = Catalog(context.models_dir, self._options)
        self._log = ServerLog(context.data_dir / "logs" / "embedded.log")
        self._models_dir = context.models_dir
        self._data_dir = context.data_dir
        self._served: dict[str, ServedModel] = {}
        self._opening = asyncio.Lock()

    async def start(self) -> None:
        """Load the default model; harmless when it is loaded."""
        await (await self._model("")).start()

    async def stop(self) -> None:
        """End every child within a second; requests under way end with WorkerFailedError."""
        async with self._opening:
            served, self._served = list(self._served.values()), {}
        await asyncio.gather(*(model.stop() for model in served))

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatItem, None]:
        """Stream the answer. See `ModelRuntime.chat`."""
        model = await self._model(request.model)
        async with model.gate.permit(request.background), model.lease(request.adapter) as generation:
            # Progress events give the server something to write while it reads the prompt: that is how it notices
            # within a step, and not only after a second, that nobody listens any more.
            extra = {"cache_prompt": True, "return_progress": True, "lora": generation.lora(request.adapter)}
            body = chat_body(request, model=model.name, extra=extra)
            child = generation.child
            stream = stream_loopback(child.address, child.key, body, server=SERVER, model=model.name)
            async with aclosing(stream):
                try:
                    async for item in stream:
                        yield item
                except WorkerFailedError as error:
                    raise await _explained(error, generation) from None

    async def models(self) -> Sequence[ModelInfo]:
        """The GGUF files in the models directory, and what the settings name."""
        loaded = {name for name, model in self._served.items() if model.state == "ready"}
        return await asyncio.to_thread(self._catalog.list, loaded)

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int]:
        """Tokens in each text, without any template."""
        served = await self._model(model)
        async with served.lease(None) as generation:
            return [await _count(generation, text) for text in texts]

    async def context_length(self, model: str = "") -> int:
        """Tokens that one prompt and its answer may have together."""
        source = self._catalog.find(model)
        return (await self._model(model)).context if source.is_directory else self._catalog.context(source)

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Make the adapter answer requests that name it. See `ModelRuntime.load_adapter`."""
        await (await self._model(model)).load_adapter(adapter)

    async def unload_adapter(self, adapter_id: str) -> None:
        """Forget the adapter; unknown ids are ignored."""
        for served in self._served.values():
            served.unload_adapter(adapter_id)

    async def status(self) -> RuntimeStatus:
        """State of the default model's server, memory of all of them."""
        served = list(self._served.values())
        default = self._served.get(self._catalog.default.name)
        pids = [pid for model in served for pid in model.pids]
        return RuntimeStatus(
            state=default.state if default else "stopped",
            detail="; ".join(f"{model.name}: {model.failure}" for model in served if model.failure),
            pid=default.pids[0] if default and default.pids else None,
            restarts=sum(model.restarts for model in served),
            rss_bytes=sum(map(_rss, pids)) if pids else None,
            adapters=tuple(dict.fromkeys(id_ for model in served for id_ in model.adapters)),
        )

    async def busy_slots(self, model: str = "") -> int:
        """How many slots of the model's server are at work, by its own account."""
        served = await self._model(model)
        async with served.lease(None) as generation:
            response = await generation.child.client.get("/slots")
        return sum(bool(slot["is_processing"]) for slot in msgspec.json.decode(response.content))

    async def _model(self, name: str) -> ServedModel:
        """The model called `name`, ready to be leased; its server starts with the first lease."""
        source = self._catalog.find(name)
        if (served := self._served.get(source.name)) is not None:
            return served
        async with self._opening:
            if source.name not in self._served:
                self._served[source.name] = await self._open(source)
            return self._served[source.name]

    async def _open(self, source: ModelSource) -> ServedModel:
        await asyncio.to_thread(self._catalog.check, source)
        if source.is_directory:
            form = await served_form(source.path, self._models_dir / "converted", self._quality_of)
            source = ModelSource(source.name, form)
        context = await asyncio.to_thread(self._catalog.context, source)
        return ServedModel(source.name, source.path, context, self._options, self._log)

    async def _quality_of(self, file: Path) -> QualityReport:
        """What the model in `file` is worth, asked through a runtime of its own that nobody else can reach yet."""
        trial = EmbeddedRuntime(PluginContext(self._data_dir, EmbeddedSettings(model=str(file), slots=1)))
        try:
            return await quality(trial)
        finally:
            await trial.stop()


async def _explained(error: WorkerFailedError, generation: Generation) -> WorkerFailedError:
    """What happened to the child, when that is why the request failed; otherwise `error` as it is."""
    if error.context.get("status") is not None:  # it answered, so it lives
        return error
    await asyncio.wait([generation.child.exited], timeout=END_NOTICE_SECONDS)
    if generation.child.alive:
        return error
    return WorkerFailedError(
        f"The embedded model server failed while it answered this request: it {await generation.child.obituary()}. "
        "It is being started again; ask again."
    )


async def _count(generation: Generation, text: str) -> int:
    body = msgspec.json.encode({"content": text, "add_special": False})
    try:
        response = await generation.child.client.post("/tokenize", content=body)
    except httpx.HTTPError as error:
        raise await _explained(transport_error(error, SERVER), generation) from None
    if response.status_code != 200:
        raise response_error(response.status_code, response.content, SERVER)
    return len(msgspec.json.decode(response.content)["tokens"])


def _rss(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss
    return 0


def availability(context: PluginContext[EmbeddedSettings]) -> Availability:
    """Whether the default model is there and the settings are right. Starts nothing."""
    try:
        catalog = Catalog(context.models_dir, context.settings)
        catalog.check(catalog.default)
    except TmdeError as error:
        return Availability(ok=False, reason=error.detail)
    return Availability(ok=True)
