"""llama.cpp's llama-server: adapters are named at its start, and scaled in each request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tmde_core.sdk.chat_members import objects
from tmde_core.sdk.errors import AdapterInvalidError, TmdeError
from tmde_core.sdk.lenient_json import as_count, as_object, as_text
from tmde_core.sdk.runtimes import AdapterRef, RuntimeCapabilities
from tmde_runtime_http.connection import Connection
from tmde_runtime_http.generic import MERGED, Chosen, Generic, positive
from tmde_runtime_http.options import OpenAISettings

ADAPTER_FILE = "adapter.gguf"
"""The GGUF form inside an adapter's directory."""
SHOWN = 4
"""How many adapters of the server a sentence names."""


class LlamaServer(Generic):
    """llama.cpp's llama-server. Adapters are named at its start and scaled in each request."""

    title = "llama-server"
    able = RuntimeCapabilities(json_schema=True, logprobs=True, token_counts=True)

    def __init__(self, connection: Connection, options: OpenAISettings, data_dir: Path) -> None:
        super().__init__(connection, options, data_dir)
        self._ids: dict[str, int] = {}
        self._slots: list[tuple[int, str]] | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that were found on the server."""
        return tuple(sorted(self._ids))

    async def look(self, listing: Sequence[dict[str, Any]]) -> None:  # noqa: ARG002 - adapters are listed elsewhere
        """Read which adapters the server was started with."""
        try:
            slots = await self._listed()
        except TmdeError as error:
            self._serves = False
            self._note = f"llama-server at {self._url} could not be asked about its adapters: {error.detail}"
            return
        if slots != self._slots:
            self._ids.clear()  # the server was restarted, and its adapters may have other numbers now
        self._slots = slots
        self._serves = bool(self._slots)
        restart = "--lora FILE --lora-init-without-apply (FILE is adapter.gguf in the adapter's directory)"
        if self._slots:
            names = [_name(Path(path)) for _, path in self._slots]
            shown = ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")
            self._note = (
                f"llama-server at {self._url} serves the adapters that it was started with: {shown}. For another one, "
                f"restart it with {restart}."
            )
        else:
            self._note = (
                f"llama-server at {self._url} was started without adapters, and it loads none while it runs. Restart it "
                f"with {restart}, use the embedded runtime, or {MERGED}."
            )

    async def load(self, adapter: AdapterRef, model: str) -> None:  # noqa: ARG002 - the server has one model
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

    def thinking(self, wish: bool | None) -> dict[str, Any]:  # noqa: ARG002 - the chat template has the switch
        """Return no further field: the chat template has the switch."""
        return {}

    async def count_tokens(self, texts: Sequence[str], model: str) -> list[int] | None:  # noqa: ARG002 - it has one model
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

    async def context_length(self, entry: dict[str, Any]) -> int | None:  # noqa: ARG002 - `/props` has it
        """Return the context length of one slot from `/props`, because each request gets one slot."""
        _, answer = await self._connection.ask("GET", "/props")
        told = as_object(answer)
        return positive(as_object(told.get("default_generation_settings")).get("n_ctx")) or positive(told.get("n_ctx"))

    async def _listed(self) -> list[tuple[int, str]]:
        status, answer = await self._connection.ask("GET", "/lora-adapters")
        listed = objects(answer) if status < 400 else []
        numbered = ((as_count(entry.get("id")), as_text(entry.get("path"))) for entry in listed)
        return [(number, path) for number, path in numbered if number is not None]


def _same(served: Path, file: Path, adapter_id: str) -> bool:
    """Compare by path, and by name in case the server and TMDE see the file in different directories."""
    return served == file or adapter_id in (served.stem, served.parent.name)


def _name(served: Path) -> str:
    return served.parent.name if served.name == ADAPTER_FILE else served.stem
