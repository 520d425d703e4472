"""What differs between OpenAI-style servers: who they are, context lengths, token counts and adapters.

One class a server. `detect` tells them apart by what they say of themselves under `/v1/models`.
"""

# ruff: noqa: ARG002 - each server uses what it needs of one common signature

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.sdk.chat_http import response_error
from tmde_core.sdk.errors import AdapterInvalidError, NotFoundError
from tmde_core.sdk.runtimes import AdapterRef, RuntimeCapabilities
from tmde_runtime_http.connection import Connection
from tmde_runtime_http.options import Flavor

LOAD_SECONDS = 120.0
"""For loading an adapter: gigabytes may have to be read."""

ADAPTER_FILE = "adapter.gguf"
"""The GGUF form inside an adapter's directory."""


class Chosen(msgspec.Struct, frozen=True):
    """How a request is to be addressed so that the adapter, or the bare model, answers."""

    model: str
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class Generic:
    """A server of which nothing is known beyond the plain wire."""

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
        """Ids of the adapters that are known to be loaded."""
        return ()

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """Make the adapter available, or raise AdapterInvalidError that says what to do."""
        raise AdapterInvalidError(self.refusal.format(url=self._url))

    async def unload(self, adapter_id: str) -> None:
        """Forget it."""

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """How to ask for `model` with `adapter`."""
        if adapter is not None:
            await self.load(adapter, model)
        return Chosen(model)

    def lost(self, adapter: AdapterRef) -> bool:
        """The server says that it does not know the adapter: forget it; True where loading it again may help."""
        return False

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """Tokens of each text."""
        return None

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Tokens of context, `entry` being what `/v1/models` says of the model."""
        return None


class LmStudio(Generic):
    """LM Studio: enforces schemas; its own listing tells the context."""

    title = "LM Studio server"
    capabilities = RuntimeCapabilities(json_schema=True)
    refusal = (
        "LM Studio at {url} cannot load LoRA adapters. Export the adapter as GGUF, merge it into the model and load the result "
        "there, or use the embedded runtime."
    )

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """What the loaded model was given, else what it could have."""
        status, answer = await self._connection.ask("GET", "/api/v0/models")
        listed = answer.get("data", []) if status == 200 and isinstance(answer, dict) else []
        for model in listed:
            if isinstance(model, dict) and model.get("id") == entry.get("id"):
                return _count(model.get("loaded_context_length")) or _count(model.get("max_context_length"))
        return None


class Vllm(Generic):
    """vLLM: adapters are loaded by path and then asked for by name, like models."""

    title = "vLLM server"
    capabilities = RuntimeCapabilities(json_schema=True, logprobs=True, adapters=True, token_counts=True)

    def __init__(self, connection: Connection, url: str) -> None:
        super().__init__(connection, url)
        self._loaded: set[str] = set()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those that this process loaded."""
        return tuple(sorted(self._loaded))

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """`POST /v1/load_lora_adapter`; the server reads the directory itself, so it must see the same files."""
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
        """`POST /v1/unload_lora_adapter`."""
        if adapter_id in self._loaded:
            self._loaded.discard(adapter_id)
            await self._connection.ask("POST", "/v1/unload_lora_adapter", {"lora_name": adapter_id})

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """The adapter's name in the place of the model's."""
        if adapter is None:
            return Chosen(model)
        if adapter.id not in self._loaded:
            await self.load(adapter, model)
        return Chosen(adapter.id)

    def lost(self, adapter: AdapterRef) -> bool:
        """After a restart of vLLM, it has forgotten what was loaded while it ran."""
        known = adapter.id in self._loaded
        self._loaded.discard(adapter.id)
        return known

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """`POST /tokenize`."""
        counts = []
        for text in texts:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
            count = (await self._connection.told("POST", "/tokenize", body)).get("count")
            if not isinstance(count, int):
                return None
            counts.append(count)
        return counts

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """`max_model_len` of the listing."""
        return _count(entry.get("max_model_len"))


class LlamaServer(Generic):
    """llama.cpp's llama-server: adapters are named when it starts and scaled in each request."""

    title = "llama-server"
    capabilities = RuntimeCapabilities(json_schema=True, logprobs=True, adapters=True, token_counts=True)

    def __init__(self, connection: Connection, url: str) -> None:
        super().__init__(connection, url)
        self._ids: dict[str, int] = {}
        self._slots: list[tuple[int, str]] | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those that were found there."""
        return tuple(sorted(self._ids))

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """Find the adapter among those that the server was started with; it cannot load another."""
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
        """Forget the number; the server keeps the file open until it ends."""
        self._ids.pop(adapter_id, None)

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """A scale for every adapter that is there: 1 for the chosen one, 0 for the rest.

        All are named because llama-server applies those it was started with to a request that names none.
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

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """`POST /tokenize`."""
        counts = []
        for text in texts:
            body = {"content": text, "add_special": False}
            tokens = (await self._connection.told("POST", "/tokenize", body)).get("tokens")
            if not isinstance(tokens, list):
                return None
            counts.append(len(tokens))
        return counts

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """`/props` tells what one slot has, which is what one request gets."""
        settings = (await self._connection.told("GET", "/props")).get("default_generation_settings")
        return _count(settings.get("n_ctx")) if isinstance(settings, dict) else None

    async def _listed(self) -> list[tuple[int, str]]:
        status, answer = await self._connection.ask("GET", "/lora-adapters")
        if status >= 400 or not isinstance(answer, list):
            return []
        return [
            (int(entry["id"]), str(entry.get("path", "")))
            for entry in answer
            if isinstance(entry, dict) and isinstance(entry.get("id"), int)
        ]


KINDS: dict[str, type[Generic]] = {
    "vllm": Vllm,
    "llama-server": LlamaServer,
    "lm-studio": LmStudio,
    "generic": Generic,
}
OWNERS = {"vllm": "vllm", "llamacpp": "llama-server", "organization_owner": "lm-studio"}
"""`owned_by` in `/v1/models` → flavor."""


def detect(flavor: Flavor, listing: Sequence[dict[str, Any]]) -> type[Generic]:
    """The class for `flavor`, or for what the listing gives away when it is `auto`."""
    if flavor != "auto":
        return KINDS[flavor]
    for entry in listing:
        if owner := OWNERS.get(str(entry.get("owned_by", "")).lower()):
            return KINDS[owner]
    return Generic


def find_model(listing: Sequence[dict[str, Any]], wanted: str, server: str) -> dict[str, Any]:
    """The listed model called `wanted` (or the first, when that is empty).

    Raises:
        NotFoundError: the server has no such model, or none at all.
    """
    for entry in listing:
        if wanted in ("", entry.get("id")) or wanted in (entry.get("aliases") or ()):
            return entry
    names = [str(entry.get("id")) for entry in listing]
    if not names:
        raise NotFoundError(f"{server[:1].upper()}{server[1:]} has no model loaded. Load one there first.")
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    raise NotFoundError(
        f"{server[:1].upper()}{server[1:]} has no model called {wanted!r}; it has {shown}.", model=wanted
    )


def _same(served: Path, file: Path, adapter_id: str) -> bool:
    """By path, and by name where server and TMDE see the file under different directories."""
    return served == file or adapter_id in (served.stem, served.parent.name)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
