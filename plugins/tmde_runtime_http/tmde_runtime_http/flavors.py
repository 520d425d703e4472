"""Describe the differences between OpenAI-style servers: names, context lengths, token counts and adapters.

Each server has a class. `detect` recognises a server from its answer to `/v1/models`.
"""

# ruff: noqa: ARG002 - each server uses what it needs of one common signature

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.sdk.chat_errors import response_error
from tmde_core.sdk.chat_members import objects
from tmde_core.sdk.errors import AdapterInvalidError, NotFoundError
from tmde_core.sdk.lenient_json import as_count, as_list, as_object, as_text
from tmde_core.sdk.plain_lora import has_own_scales
from tmde_core.sdk.runtimes import AdapterRef, RuntimeCapabilities
from tmde_runtime_http.connection import Connection, entries
from tmde_runtime_http.options import Flavor

LOAD_SECONDS = 120.0
"""The time limit for loading an adapter, which may read gigabytes."""

ADAPTER_FILE = "adapter.gguf"
"""The GGUF form inside an adapter's directory."""


class Chosen(msgspec.Struct, frozen=True):
    """How to address a request so that the adapter, or the base model alone, answers."""

    model: str
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class Generic:
    """A server that is only known to speak the plain protocol."""

    title = "OpenAI-style server"
    capabilities = RuntimeCapabilities()
    refusal = (
        "The model server at {url} cannot load LoRA adapters. Serve the model with vLLM, llama-server or the embedded runtime, "
        "or merge the adapter into the model and serve the result."
    )

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection = connection
        self._url = url

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that are known to be loaded."""
        return ()

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """Make the adapter available, or raise an AdapterInvalidError that says what to do."""
        raise AdapterInvalidError(self.refusal.format(url=self._url))

    async def unload(self, adapter_id: str) -> None:
        """Forget the adapter."""

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """Return how to address a request for `model` with `adapter`."""
        if adapter is not None:
            await self.load(adapter, model)
        return Chosen(model)

    def thinking(self, wish: bool | None) -> dict[str, Any]:
        """Return the fields by which this server is told to think or not, besides `chat_template_kwargs`.

        OpenAI, LM Studio, Groq, Mistral, OpenRouter and Ollama take `reasoning_effort`. A server that refuses it is
        asked again without it.
        """
        return {} if wish is None else {"reasoning_effort": "medium" if wish else "none"}

    def lost(self, adapter: AdapterRef) -> bool:
        """Forget an adapter that the server does not know. Return True if loading it again may help."""
        return False

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """Return the number of tokens of each text, or None if the server cannot count."""
        return None

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Return the context length in tokens, or None. `entry` is the model's entry in `/v1/models`."""
        return None


class LmStudio(Generic):
    """LM Studio. It enforces schemas, and its own listing has the context length."""

    title = "LM Studio server"
    capabilities = RuntimeCapabilities(json_schema=True)
    refusal = (
        "LM Studio at {url} cannot load LoRA adapters. Export the adapter as merged-gguf and load the result there, or use the "
        "embedded runtime."
    )

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Return the context length of the loaded model, or otherwise the maximum of the model."""
        status, answer = await self._connection.ask("GET", "/api/v0/models")
        for model in entries(answer, "data") if status == 200 else []:
            if model.get("id") == entry.get("id"):
                return _count(model.get("loaded_context_length")) or _count(model.get("max_context_length"))
        return None


class Vllm(Generic):
    """vLLM. It loads adapters by path and serves them by name, like models."""

    title = "vLLM server"
    capabilities = RuntimeCapabilities(json_schema=True, logprobs=True, adapters=True, token_counts=True)

    def __init__(self, connection: Connection, url: str) -> None:
        super().__init__(connection, url)
        self._loaded: set[str] = set()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that this process loaded."""
        return tuple(sorted(self._loaded))

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """Load the adapter with `POST /v1/load_lora_adapter`.

        The server reads the directory, so it must see the same files. vLLM gives every module the same alpha / r, so an
        adapter with scales of its own would answer wrongly without a warning.
        """
        if await asyncio.to_thread(_has_own_scales, Path(adapter.directory)):
            raise AdapterInvalidError(
                f"The adapter {adapter.id} gives some modules a rank or an alpha of their own (rank_pattern, alpha_pattern), "
                "which vLLM does not know. Use the embedded runtime, or export the adapter as merged-gguf."
            )
        status, answer = await self._connection.ask(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": adapter.id, "lora_path": adapter.directory},
            seconds=LOAD_SECONDS,
        )
        said = msgspec.json.encode(answer)
        if status == 404 and b"No adapter found" not in said and b"does not exist" not in said:
            raise AdapterInvalidError(
                f"vLLM at {self._url} does not take adapters while it runs. Start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment."
            )
        if status >= 400 and b"already been loaded" not in said and b"already loaded" not in said:
            error = response_error(status, said, self._connection.server)
            raise AdapterInvalidError(
                f"vLLM at {self._url} refuses the adapter {adapter.id} (directory {adapter.directory}, which it must be able "
                f"to read): {error.detail}",
                status=status,
            )
        self._loaded.add(adapter.id)

    async def unload(self, adapter_id: str) -> None:
        """Unload the adapter with `POST /v1/unload_lora_adapter`."""
        if adapter_id in self._loaded:
            self._loaded.discard(adapter_id)
            await self._connection.ask("POST", "/v1/unload_lora_adapter", {"lora_name": adapter_id})

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """Return the adapter's name in place of the model's name."""
        if adapter is None:
            return Chosen(model)
        if adapter.id not in self._loaded:
            await self.load(adapter, model)
        return Chosen(adapter.id)

    def thinking(self, wish: bool | None) -> dict[str, Any]:
        """Return no further field: the chat template has the switch."""
        return {}

    def lost(self, adapter: AdapterRef) -> bool:
        """Forget the adapter, because a restarted vLLM has lost it. Return whether it was loaded before."""
        known = adapter.id in self._loaded
        self._loaded.discard(adapter.id)
        return known

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """Count tokens with `POST /tokenize`."""
        counts = []
        for text in texts:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
            status, answer = await self._connection.ask("POST", "/tokenize", body)
            told = as_object(answer)
            count = as_count(told.get("count"))
            if count is None and isinstance(told.get("tokens"), list):
                count = len(told["tokens"])
            if status >= 400 or count is None:
                return None
            counts.append(count)
        return counts

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Return `max_model_len` from the listing."""
        return _count(entry.get("max_model_len"))


class LlamaServer(Generic):
    """llama.cpp's llama-server. Adapters are named at its start and scaled in each request."""

    title = "llama-server"
    capabilities = RuntimeCapabilities(json_schema=True, logprobs=True, adapters=True, token_counts=True)

    def __init__(self, connection: Connection, url: str) -> None:
        super().__init__(connection, url)
        self._ids: dict[str, int] = {}
        self._slots: list[tuple[int, str]] | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that were found on the server."""
        return tuple(sorted(self._ids))

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """Find the adapter among those that the server was started with. The server cannot load another one."""
        self._slots = await self._listed()
        file = Path(adapter.directory) / ADAPTER_FILE
        for number, path in self._slots:
            if _same(Path(path), file, adapter.id):
                self._ids[adapter.id] = number
                return
        self._ids.pop(adapter.id, None)
        raise AdapterInvalidError(
            f"llama-server at {self._url} was started without the adapter {adapter.id}. "
            f"Restart it with --lora {file} --lora-init-without-apply, or use the embedded runtime."
        )

    async def unload(self, adapter_id: str) -> None:
        """Forget the adapter's number. The server keeps the file open until it ends."""
        self._ids.pop(adapter_id, None)

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """Return a scale for every adapter on the server: 1 for the chosen one, 0 for the others.

        All adapters are listed, because llama-server applies the adapters from its start to a request that lists none.
        """
        if adapter is not None and adapter.id not in self._ids:
            await self.load(adapter, model)
        if self._slots is None:
            self._slots = await self._listed()
        if not self._slots:
            return Chosen(model)
        wanted = None if adapter is None else self._ids[adapter.id]
        scales = [{"id": number, "scale": 1.0 if number == wanted else 0.0} for number, _ in self._slots]
        return Chosen(model, {"lora": scales})

    def thinking(self, wish: bool | None) -> dict[str, Any]:
        """Return no further field: the chat template has the switch."""
        return {}

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """Count tokens with `POST /tokenize`."""
        counts = []
        for text in texts:
            body = {"content": text, "add_special": False}
            status, answer = await self._connection.ask("POST", "/tokenize", body)
            tokens = as_object(answer).get("tokens")
            if status >= 400 or not isinstance(tokens, list):
                return None
            counts.append(len(tokens))
        return counts

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Return the context length of one slot from `/props`, because each request gets one slot."""
        _, answer = await self._connection.ask("GET", "/props")
        told = as_object(answer)
        return _count(as_object(told.get("default_generation_settings")).get("n_ctx")) or _count(told.get("n_ctx"))

    async def _listed(self) -> list[tuple[int, str]]:
        status, answer = await self._connection.ask("GET", "/lora-adapters")
        listed = objects(answer) if status < 400 else []
        numbered = ((as_count(entry.get("id")), as_text(entry.get("path"))) for entry in listed)
        return [(number, path) for number, path in numbered if number is not None]


KINDS: dict[str, type[Generic]] = {
    "vllm": Vllm,
    "llama-server": LlamaServer,
    "lm-studio": LmStudio,
    "generic": Generic,
}
OWNERS = {"vllm": "vllm", "llamacpp": "llama-server", "organization_owner": "lm-studio"}
"""Maps `owned_by` in `/v1/models` to a flavor."""


def detect(flavor: Flavor, listing: Sequence[dict[str, Any]]) -> type[Generic]:
    """Return the class for `flavor`, or the class that the listing indicates if `flavor` is `auto`."""
    if flavor != "auto":
        return KINDS[flavor]
    for entry in listing:
        if owner := OWNERS.get(str(entry.get("owned_by", "")).lower()):
            return KINDS[owner]
    return Generic


def find_model(listing: Sequence[dict[str, Any]], wanted: str, server: str) -> dict[str, Any]:
    """Return the listed model called `wanted`, or the first model if `wanted` is empty.

    Raises:
        NotFoundError: the server does not have this model, or has no model at all.
    """
    for entry in listing:
        if wanted in ("", entry.get("id")) or wanted in as_list(entry.get("aliases")):
            return entry
    names = [as_text(entry.get("id")) for entry in listing]
    if not names:
        raise NotFoundError(f"{server[:1].upper()}{server[1:]} has no model loaded. Load one there first.")
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    raise NotFoundError(
        f"{server[:1].upper()}{server[1:]} has no model called {wanted!r}; it has {shown}.", model=wanted
    )


def _same(served: Path, file: Path, adapter_id: str) -> bool:
    """Compare by path, and by name in case the server and TMDE see the file in different directories."""
    return served == file or adapter_id in (served.stem, served.parent.name)


def _count(value: object) -> int | None:
    return as_count(value) or None


def _has_own_scales(directory: Path) -> bool:
    """Return whether the adapter in `directory` has a pattern of ranks or alphas. A directory without one is plain."""
    try:
        config = msgspec.json.decode((directory / "adapter_config.json").read_bytes())
    except (OSError, msgspec.DecodeError):  # the server says what is wrong with the directory
        return False
    return isinstance(config, dict) and has_own_scales(config)
