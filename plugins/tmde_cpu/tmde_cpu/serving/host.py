"""Start the server of one model: TMDE's own on the processor, or (in `binary_host`) a `llama-server` program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tmde_cpu.serving.child import ServerChild, server_job
from tmde_cpu.serving.options import DEFAULT_BATCH, EmbeddedSettings
from tmde_cpu.serving.server_log import ServerLog


class ServerHost(Protocol):
    """Starts servers of one model. Context and slots are the same for all of them."""

    context: int
    """The tokens that a prompt and its answer may have together."""
    slots: int
    """How many answers are generated at the same time."""

    @property
    def detail(self) -> str:
        """Where the model runs, for people; empty if there is nothing to say."""
        ...

    @property
    def card_bytes(self) -> int:
        """The memory of one server on graphics cards."""
        ...

    async def start(self, adapters: Sequence[Path]) -> ServerChild:
        """Start a server with the adapters, and return when it has loaded the model.

        Raises:
            InvalidInputError: the server cannot load the model or an adapter.
            WorkerFailedError: the server cannot be started, was killed, or takes too long.
        """
        ...

    async def has_room(self, adapters: Sequence[Path]) -> bool:
        """Return whether a second server fits beside the running one."""
        ...

    def mourn(self, child: ServerChild) -> None:
        """Learn from the end of a server that was running."""
        ...


class LibraryHost:
    """Starts llama.cpp's server inside xllamacpp, on the processor (a `ServerHost`)."""

    detail = ""
    card_bytes = 0

    def __init__(self, model: Path, context: int, options: EmbeddedSettings, log: ServerLog) -> None:
        self.context = context
        self.slots = options.slot_count
        self._model = model
        self._options = options
        self._log = log

    async def start(self, adapters: Sequence[Path]) -> ServerChild:
        """Start a server. See `ServerHost.start`."""
        job = server_job(
            self._model,
            adapters,
            context=self.context,
            slots=self.slots,
            threads=self._options.thread_count,
            batch=self._options.batch or DEFAULT_BATCH,
        )
        return await ServerChild.start(job, self._log)

    async def has_room(self, adapters: Sequence[Path]) -> bool:  # noqa: ARG002 - the protocol's argument
        """Return True: main memory can be shared, and the weights of two servers are the same pages of the file."""
        return True

    def mourn(self, child: ServerChild) -> None:
        """Do nothing: the next server is the same."""
