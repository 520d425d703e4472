"""vLLM: it serves adapters by name, like models, and gets them from a directory or by its API."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import msgspec

from tmde_core.sdk.chat_errors import response_error
from tmde_core.sdk.errors import AdapterInvalidError, InsufficientStorageError, TmdeError
from tmde_core.sdk.lenient_json import as_count, as_object, as_text
from tmde_core.sdk.plain_lora import has_own_scales
from tmde_core.sdk.runtimes import AdapterRef, RuntimeCapabilities
from tmde_runtime_http.connection import Connection
from tmde_runtime_http.generic import LOAD_SECONDS, MERGED, Chosen, Generic, positive
from tmde_runtime_http.options import OpenAISettings
from tmde_runtime_http.served_directory import DIRECTORY, ServedDirectory

log = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 30.0
"""A server that could not load adapters is not asked again before. It cannot be restarted with other options faster."""

Way = Literal["directory", "api"]


class Vllm(Generic):
    """vLLM. It serves adapters by name, like models.

    An adapter reaches vLLM in one of two ways. The filesystem LoRA resolver finds it in a directory when a request
    names it: every replica that sees the directory serves it, also after a restart. `/v1/load_lora_adapter` loads it
    into one replica, until that replica is restarted.
    """

    title = "vLLM server"
    able = RuntimeCapabilities(json_schema=True, logprobs=True, token_counts=True)

    def __init__(self, connection: Connection, options: OpenAISettings, data_dir: Path) -> None:
        super().__init__(connection, options, data_dir)
        self._directory = ServedDirectory(Path(options.adapters_dir or data_dir / DIRECTORY).expanduser().absolute())
        self._way: Way | None = None
        self._base = ""
        """The name of the served model that an adapter's configuration must have. The resolver compares it."""
        self._loaded: set[str] = set()
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that this process loaded."""
        return tuple(sorted(self._loaded))

    async def look(self, listing: Sequence[dict[str, Any]]) -> None:
        """Find out how the server gets adapters.

        Nothing is loaded: the server is asked to load an adapter that does not exist, and for one without weights. Its
        answers differ by what it can do.
        """
        async with self._looking:
            now = time.monotonic()
            if self._way is not None or now - self._looked < LOOK_AGAIN_SECONDS:
                return
            self._looked = now
            try:
                # The resolver works also where a proxy hides the API.
                lack = None if self._options.adapters == "directory" else await self._find_lack()
                if lack is None:
                    await self._find_way(listing)
            except TmdeError as error:
                lack = f"It could not be asked about adapters: {error.detail}"
            self._serves = self._way is not None
            if lack is not None:
                self._note = f"vLLM at {self._url} loads no adapters now. {lack} Otherwise {MERGED}."

    async def _find_lack(self) -> str | None:
        """Return what keeps the server from loading adapters while it runs; None if nothing does."""
        status, answer = await self._connection.ask(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": f"tmde-probe-{uuid4().hex}", "lora_path": "/nonexistent/tmde"},
        )
        said = msgspec.json.encode(answer)
        if _is_missing_route(status, said):
            return (
                "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true in its environment, or put it "
                "behind a proxy that lets /v1/load_lora_adapter pass."
            )
        if status in (401, 403):
            return f"It refuses this key for /v1/load_lora_adapter (HTTP {status})."
        if status == 404 or status < 400:
            return None
        told = response_error(status, said, self._connection.server).detail
        return f"Start it with --enable-lora. Asked for an adapter, it says: {told}"

    async def _find_way(self, listing: Sequence[dict[str, Any]]) -> None:
        wanted = self._options.adapters
        names = _base_names(listing)
        problem = ""
        if wanted in ("auto", "directory"):
            try:
                for name in names:
                    if await self._looks_into_directory(name):
                        self._way, self._base = "directory", name
                        self._note = (
                            f"vLLM at {self._url} loads adapters from {self._directory.path}: every replica that sees this "
                            "directory serves them, also after a restart."
                        )
                        return
            except InsufficientStorageError as error:
                problem = f" {error.detail}"
            if wanted == "directory":
                self._note = (
                    f"vLLM at {self._url} does not look for adapters in {self._directory.path}.{problem} Start it with "
                    "--enable-lora and, in its environment, VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, "
                    "VLLM_PLUGINS=lora_filesystem_resolver and VLLM_LORA_RESOLVER_CACHE_DIR set to that directory as the "
                    "server sees it."
                )
                return
        self._way = "api"
        self._note = (
            f"vLLM at {self._url} loads adapters by its API: they reach one replica, and TMDE loads them again when they "
            f"are lost at a restart. For several replicas, let its filesystem resolver read {self._directory.path}."
        )

    async def _looks_into_directory(self, base: str) -> bool:
        with self._directory.probe(base) as name:
            status, answer = await self._ask_for(name)
        # A server without the resolver, or with another directory, knows no such model: 404. One that found the view
        # could not load it.
        return status == 400 and b"could not be loaded" in msgspec.json.encode(answer)

    async def _ask_for(self, model: str) -> tuple[int, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "temperature": 0.0}
        return await self._connection.ask("POST", "/v1/chat/completions", body, seconds=LOAD_SECONDS)

    async def load(self, adapter: AdapterRef, model: str) -> None:  # noqa: ARG002 - the adapter's name is the model
        """Make the server load the adapter, from the served directory or by its API.

        vLLM gives every module the same alpha / r, so an adapter with scales of its own would answer wrongly without a
        warning.
        """
        if await asyncio.to_thread(_has_own_scales, Path(adapter.directory)):
            raise AdapterInvalidError(
                f"The adapter {adapter.id} gives some modules a rank or an alpha of their own (rank_pattern, alpha_pattern), "
                "which vLLM does not know. Use the embedded runtime, or export the adapter as merged-gguf."
            )
        if self._way == "directory":
            await self._load_from_directory(adapter)
        elif self._way == "api":
            await self._load_by_api(adapter)
        else:
            raise AdapterInvalidError(self._note)
        self._loaded.add(adapter.id)

    async def _load_from_directory(self, adapter: AdapterRef) -> None:
        await asyncio.to_thread(self._directory.write, adapter, self._base)
        status, answer = await self._ask_for(adapter.id)
        if status < 400:
            return
        await asyncio.to_thread(self._directory.remove, adapter.id)
        if status == 404:
            self._forget_way()
            raise AdapterInvalidError(
                f"vLLM at {self._url} did not find the adapter {adapter.id} in {self._directory.path}. Its resolver must "
                f"look there, and its model must still be called {self._base!r}. Start TMDE's runtime again after a change."
            )
        raise self._refused(adapter, status, msgspec.json.encode(answer))

    async def _load_by_api(self, adapter: AdapterRef) -> None:
        """Load the adapter with `POST /v1/load_lora_adapter`.

        The server reads the directory, so it must see the same files.
        """
        status, answer = await self._connection.ask(
            "POST",
            "/v1/load_lora_adapter",
            {"lora_name": adapter.id, "lora_path": adapter.directory},
            seconds=LOAD_SECONDS,
        )
        said = msgspec.json.encode(answer)
        if _is_missing_route(status, said):
            self._forget_way()
            raise AdapterInvalidError(
                f"vLLM at {self._url} does not take adapters while it runs any more. Start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true in its environment."
            )
        if status >= 400 and b"already been loaded" not in said and b"already loaded" not in said:
            raise self._refused(adapter, status, said)

    def _refused(self, adapter: AdapterRef, status: int, said: bytes) -> AdapterInvalidError:
        error = response_error(status, said, self._connection.server)
        return AdapterInvalidError(
            f"vLLM at {self._url} refuses the adapter {adapter.id} (directory {adapter.directory}, which it must be able "
            f"to read; its rank must not exceed --max-lora-rank): {error.detail}",
            status=status,
        )

    def _forget_way(self) -> None:
        """Find out anew what the server can do, because it has changed."""
        self._way, self._serves, self._looked = None, False, float("-inf")

    async def unload(self, adapter_id: str) -> None:
        """Unload the adapter, and remove it from the served directory."""
        known = adapter_id in self._loaded
        self._loaded.discard(adapter_id)
        if self._way == "directory":
            # Another process may have loaded it.
            known = await asyncio.to_thread(self._directory.remove, adapter_id) or known
        if known and self._way is not None:
            await self._connection.ask("POST", "/v1/unload_lora_adapter", {"lora_name": adapter_id})

    async def choose(self, adapter: AdapterRef | None, model: str) -> Chosen:
        """Return the adapter's name in place of the model's name."""
        if adapter is None:
            return Chosen(model)
        if adapter.id not in self._loaded:
            await self.load(adapter, model)
        return Chosen(adapter.id)

    def thinking(self, wish: bool | None) -> dict[str, Any]:  # noqa: ARG002 - the chat template has the switch
        """Return no further field: the chat template has the switch."""
        return {}

    def lost(self, adapter: AdapterRef) -> bool:
        """Forget the adapter, because a restarted vLLM has lost it. Return whether it was loaded before."""
        known = adapter.id in self._loaded
        self._loaded.discard(adapter.id)
        if known:
            log.warning("vLLM at %s has lost the adapter %s. It is loaded again.", self._url, adapter.id)
        return known

    def gone_again(self, adapter: AdapterRef) -> str:
        """Return why an adapter may be missing although it was just loaded, and what to do."""
        if self._way == "directory":
            why = f"Every replica must see the directory {self._directory.path}."
        else:
            why = (
                "Several replicas may answer at this address, and its API loads an adapter into one of them. Let the "
                f"filesystem resolver of each read {self._directory.path}."
            )
        return f"vLLM at {self._url} does not know the adapter {adapter.id}, which was just loaded. {why}"

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
        return positive(entry.get("max_model_len"))


def _is_missing_route(status: int, said: bytes) -> bool:
    """Return whether the server has no such path. A missing adapter is also a 404, but names the adapter."""
    if status == 405:
        return True
    return status == 404 and b"No adapter found" not in said and b"does not exist" not in said


def _base_names(listing: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the served model that the resolver may compare: where it was loaded from, and as it is served."""
    bases = [entry for entry in listing if not as_text(entry.get("parent"))]
    names = [as_text(entry.get(key)).strip() for key in ("root", "id") for entry in bases]
    return list(dict.fromkeys(name for name in names if name))


def _has_own_scales(directory: Path) -> bool:
    """Return whether the adapter in `directory` has a pattern of ranks or alphas. A directory without one is plain."""
    try:
        config = msgspec.json.decode((directory / "adapter_config.json").read_bytes())
    except (OSError, msgspec.DecodeError):  # the server says what is wrong with the directory
        return False
    return isinstance(config, dict) and has_own_scales(config)
