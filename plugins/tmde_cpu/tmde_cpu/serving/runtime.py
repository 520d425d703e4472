"""Run llama.cpp in supervised child processes, one for each requested model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from tmde_core.sdk.chat_http import build_chat_body, response_error, transport_error
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import InvalidInputError, NotFoundError, TmdeError, WorkerFailedError
from tmde_core.sdk.runtimes import (
    AdapterRef,
    Availability,
    ChatDelta,
    ChatItem,
    ChatRequest,
    ModelInfo,
    RuntimeCapabilities,
    RuntimeStatus,
)
from tmde_cpu.serving.binary import open_binary
from tmde_cpu.serving.binary_host import BinaryHost
from tmde_cpu.serving.catalog import Catalog, ModelSource
from tmde_cpu.serving.child import SERVER
from tmde_cpu.serving.host import LibraryHost, ServerHost
from tmde_cpu.serving.loopback import stream_loopback
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.served import Generation, ServedModel
from tmde_cpu.serving.served_form import ensure_gguf
from tmde_cpu.serving.server_log import ServerLog
from tmde_cpu.serving.simple_questions import QualityReport, measure_quality
from tmde_cpu.serving.template import Ask, template_fields

END_NOTICE_SECONDS = 1.0
"""How long a request on a broken connection waits for the report that the child has ended."""


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
        self._expected: tuple[str, ...] = ()

    def expect(self, models: Sequence[str]) -> None:
        """Note which models will be asked. See `tmde_core.sdk.runtimes.ExpectingRuntime`."""
        self._expected = tuple(models)

    async def start(self) -> None:
        """Load the first expected model, else the default model, and learn its chat template."""
        model = await self._model(self._first_expected())
        await model.start()
        async with model.lease(None) as generation:
            await model.template.traits(_asking(generation))

    def _first_expected(self) -> str:
        """Return the first expected model that is here; an empty name is the default model.

        If a role names a model that is not here, this role says so when it is asked. The others can answer.
        """
        for name in self._expected:
            with contextlib.suppress(NotFoundError, InvalidInputError):
                self._catalog.check(self._catalog.find(name))
                return name
        return ""

    async def stop(self) -> None:
        """End every child within a second. Running requests end with WorkerFailedError."""
        async with self._opening:
            served, self._served = list(self._served.values()), {}
        await asyncio.gather(*(model.stop() for model in served))

    async def chat(self, request: ChatRequest) -> AsyncGenerator[ChatItem, None]:
        """Stream the answer. See `ModelRuntime.chat`."""
        model = await self._model(request.model)
        async with model.gate.permit(request.background), model.lease(request.adapter) as generation:
            body, opening = await _body(request, model, generation)
            if opening:
                yield opening
            child = generation.child
            stream = stream_loopback(child.address, child.key, body, server=SERVER, model=model.name)
            async with aclosing(stream):
                try:
                    async for item in stream:
                        yield item
                except WorkerFailedError as error:
                    raise await _explained(error, generation) from None

    async def models(self) -> Sequence[ModelInfo]:
        """List the GGUF files in the models directory, and the models that the settings name."""
        loaded = {name for name, model in self._served.items() if model.state == "ready"}
        listed = await asyncio.to_thread(self._catalog.list, loaded)
        return [self._with_place(model) for model in listed]

    def _with_place(self, model: ModelInfo) -> ModelInfo:
        """Add where the model runs, if that is known."""
        served = self._served.get(model.name)
        if served is None or not served.detail:
            return model
        detail = "; ".join(part for part in (model.detail, served.detail) if part)
        return msgspec.structs.replace(model, context_length=served.context, detail=detail)

    async def count_tokens(self, texts: Sequence[str], model: str = "") -> list[int]:
        """Return the number of tokens in each text, without a template."""
        served = await self._model(model)
        async with served.lease(None) as generation:
            return [await _count(generation, text) for text in texts]

    async def context_length(self, model: str = "") -> int:
        """Return how many tokens a prompt and its answer may have together."""
        source = self._catalog.find(model)
        opened = source.is_directory or self._options.binary
        return (await self._model(model)).context if opened else self._catalog.context(source)

    async def load_adapter(self, adapter: AdapterRef, model: str = "") -> None:
        """Load the adapter for requests that name it. See `ModelRuntime.load_adapter`."""
        await (await self._model(model)).load_adapter(adapter)

    async def unload_adapter(self, adapter_id: str) -> None:
        """Unload the adapter. Unknown ids are ignored."""
        for served in self._served.values():
            served.unload_adapter(adapter_id)

    async def status(self) -> RuntimeStatus:
        """Return the state of the default model's server, and the memory of all servers."""
        served = list(self._served.values())
        default = self._served.get(self._catalog.default.name)
        pids = [pid for model in served for pid in model.pids]
        return RuntimeStatus(
            state=default.state if default else "stopped",
            detail="; ".join(f"{model.name}: {told}" for model in served if (told := model.failure or model.detail)),
            pid=default.pids[0] if default and default.pids else None,
            restarts=sum(model.restarts for model in served),
            rss_bytes=sum(map(_rss, pids)) if pids else None,
            vram_bytes=sum(model.card_bytes for model in served) or None,
            adapters=tuple(dict.fromkeys(id_ for model in served for id_ in model.adapters)),
        )

    async def busy_slots(self, model: str = "") -> int:
        """Return how many slots of the model's server are busy, as the server reports."""
        served = await self._model(model)
        async with served.lease(None) as generation:
            response = await generation.child.client.get("/slots")
        return sum(bool(slot["is_processing"]) for slot in msgspec.json.decode(response.content))

    async def _model(self, name: str) -> ServedModel:
        """Return the model called `name`, ready to be leased. Its server starts with the first lease."""
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
            form = await ensure_gguf(source.path, self._models_dir / "converted", self._quality_of)
            source = ModelSource(source.name, form)
        return ServedModel(source.name, source.path, await self._host(source))

    async def _host(self, source: ModelSource) -> ServerHost:
        if self._options.binary:
            return await BinaryHost.open(source.path, self._options, self._log)
        context = await asyncio.to_thread(self._catalog.context, source)
        return LibraryHost(source.path, context, self._options, self._log)

    async def _quality_of(self, file: Path) -> QualityReport:
        """Measure the quality of the model in `file`, with a separate runtime that no request can reach yet."""
        settings = EmbeddedSettings(model=str(file), slots=1)
        if self._options.binary:  # a model that needs a card answers too slowly without it
            settings = msgspec.structs.replace(self._options, model=str(file), models=(), slots=1)
        trial = EmbeddedRuntime(PluginContext(self._data_dir, settings))
        try:
            return await measure_quality(trial)
        finally:
            await trial.stop()


async def _explained(error: WorkerFailedError, generation: Generation) -> WorkerFailedError:
    """Return an error that describes the child's end if the child has ended, and otherwise `error` unchanged."""
    if error.context.get("status") is not None:  # the server answered, so it is running
        return error
    await asyncio.wait([generation.child.exited], timeout=END_NOTICE_SECONDS)
    if generation.child.alive:
        return error
    return WorkerFailedError(
        f"The embedded model server failed while it answered this request: it {await generation.child.obituary()}. "
        "It is being started again; ask again."
    )


async def _body(
    request: ChatRequest, model: ServedModel, generation: Generation
) -> tuple[dict[str, Any], ChatDelta | None]:
    """Return the body for the model's server, and the beginning of the answer if the prompt contains it."""
    ask = _asking(generation)
    request = await model.template.fit(request, ask)
    # With progress events the server writes while it reads the prompt. It then notices within a step that the client
    # has disconnected, not only after a second.
    extra = {"cache_prompt": True, "return_progress": True, "lora": generation.lora(request.adapter)}
    if not await model.template.needs_tokens(request, ask):
        # `deepseek` is llama.cpp's name for the format that keeps a thought apart in `reasoning_content`.
        extra |= {"reasoning_format": "deepseek", **template_fields(request.thinking)}
        return build_chat_body(request, model=model.name, extra=extra), None
    prompt = await model.template.tokens(request, ask)
    body = build_chat_body(request, model=model.name, extra={**extra, "prompt": prompt.ids})
    body.pop("messages")
    body.pop("response_format", None)
    if request.json_schema is not None:
        body["json_schema"] = request.json_schema
    if request.top_logprobs > 0:
        body["logprobs"] = request.top_logprobs  # the completion endpoint's form of `top_logprobs`
    # The completion endpoint leaves thoughts in the text, and the template may have written the opening tag.
    return body, ChatDelta(text=prompt.in_thought) if prompt.in_thought else None


def _asking(generation: Generation) -> Ask:
    """Return the function that sends a request to the model's server."""

    async def ask(path: str, body: Mapping[str, Any]) -> Any:
        return await _ask(generation, path, body)

    return ask


async def _count(generation: Generation, text: str) -> int:
    answer = await _ask(generation, "/tokenize", {"content": text, "add_special": False, "parse_special": False})
    return len(answer["tokens"])


async def _ask(generation: Generation, path: str, body: Mapping[str, Any]) -> Any:
    """Send a request to the model's server and return the decoded answer. An empty body asks with GET."""
    client = generation.child.client
    try:
        response = await (client.post(path, content=msgspec.json.encode(body)) if body else client.get(path))
    except httpx.HTTPError as error:
        raise await _explained(transport_error(error, SERVER), generation) from None
    if response.status_code != 200:
        raise response_error(response.status_code, response.content, SERVER)
    return msgspec.json.decode(response.content)


def _rss(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).memory_info().rss
    return 0


def availability(context: PluginContext[EmbeddedSettings]) -> Availability:
    """Return whether the default model and the `llama-server` of the settings are there. No server is started."""
    try:
        if context.settings.binary:
            open_binary(context.settings.binary)
        catalog = Catalog(context.models_dir, context.settings)
        catalog.check(catalog.default)
    except TmdeError as error:
        return Availability(ok=False, reason=error.detail)
    return Availability(ok=True)
