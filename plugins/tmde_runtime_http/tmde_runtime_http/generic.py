"""The base of the OpenAI-style servers: what every server can do, and how a request names an adapter."""

# ruff: noqa: ARG002 - each server uses what it needs of one common signature

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from tmde_core.sdk.errors import AdapterInvalidError
from tmde_core.sdk.lenient_json import as_count
from tmde_core.sdk.runtimes import AdapterRef, RuntimeCapabilities
from tmde_runtime_http.connection import Connection, entries
from tmde_runtime_http.options import OpenAISettings

LOAD_SECONDS = 120.0
"""The time limit for loading an adapter, which may read gigabytes."""

MERGED = (
    "export one GGUF file with the adapter merged in (`tmde lora export ID --format merged-gguf`) and serve that file"
)
"""What works on every server, as the end of a sentence."""


class Chosen(msgspec.Struct, frozen=True):
    """How to address a request so that the adapter, or the base model alone, answers."""

    model: str
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


class Generic:
    """A server that is only known to speak the plain protocol."""

    title = "OpenAI-style server"
    able: ClassVar[RuntimeCapabilities] = RuntimeCapabilities()
    """What this kind of server can do, without adapters."""
    refusal = (
        "The model server at {url} cannot load LoRA adapters. Serve the model with vLLM, llama-server or the embedded runtime, "
        f"or {MERGED}."
    )

    def __init__(self, connection: Connection, options: OpenAISettings, data_dir: Path) -> None:
        self._connection = connection
        self._options = options
        self._url = options.base_url
        self._data_dir = data_dir
        self._serves = False
        self._note = self.refusal.format(url=self._url)

    @property
    def capabilities(self) -> RuntimeCapabilities:
        """What this server can do. What it can do with adapters is known after `look`."""
        return msgspec.structs.replace(self.able, adapters=self._serves, adapters_note=self._note)

    async def look(self, listing: Sequence[dict[str, Any]]) -> None:
        """Find out what the server can do with adapters, without loading a model or an adapter.

        Args:
            listing: the server's answer to `/v1/models`.
        """

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that are known to be loaded."""
        return ()

    async def load(self, adapter: AdapterRef, model: str) -> None:
        """Make the adapter available, or raise an AdapterInvalidError that says what to do."""
        raise AdapterInvalidError(self._note)

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

    def gone_again(self, adapter: AdapterRef) -> str:
        """Return why an adapter may be missing although it was just loaded, and what to do."""
        return f"The {self.title} at {self._url} does not know the adapter {adapter.id}, which was just loaded."

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:
        """Return the number of tokens of each text, or None if the server cannot count."""
        return None

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Return the context length in tokens, or None. `entry` is the model's entry in `/v1/models`."""
        return None


class LmStudio(Generic):
    """LM Studio. It enforces schemas, and its own listing has the context length."""

    title = "LM Studio server"
    able = RuntimeCapabilities(json_schema=True)
    refusal = f"LM Studio at {{url}} cannot load LoRA adapters. Use the embedded runtime, or {MERGED}."

    async def context_length(self, entry: dict[str, Any]) -> int | None:
        """Return the context length of the loaded model, or otherwise the maximum of the model."""
        status, answer = await self._connection.ask("GET", "/api/v0/models")
        for model in entries(answer, "data") if status == 200 else []:
            if model.get("id") == entry.get("id"):
                return positive(model.get("loaded_context_length")) or positive(model.get("max_context_length"))
        return None


def positive(value: object) -> int | None:
    """Return a count above zero, or None."""
    return as_count(value) or None
