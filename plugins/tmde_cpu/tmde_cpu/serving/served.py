"""Serve one model: the current child, the children that still finish requests, and the restart after a crash."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import structlog

from tmde_core.sdk.errors import AdapterInvalidError, InvalidInputError, TmdeError, WorkerFailedError
from tmde_core.sdk.gguf_header import read_header
from tmde_core.sdk.runtimes import AdapterRef
from tmde_cpu.serving.child import ServerChild
from tmde_cpu.serving.gate import SlotQueue
from tmde_cpu.serving.host import ServerHost
from tmde_cpu.serving.template import ChatTemplate

log = structlog.get_logger(__name__)

ADAPTER_FILE = "adapter.gguf"
MAX_ADAPTERS = 4
"""The largest number of adapters that are loaded at the same time. The least recently used one is unloaded first."""

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
"""A child that ran for this long resets the restart delays."""
PATIENCE_SECONDS = 5.0
"""A request waits for a restart that is due within this time. Otherwise the request fails with the reason."""


class Generation:
    """One child with its adapters. Adapters are named at the start, so each new set needs a new child."""

    def __init__(self, child: ServerChild, adapters: Sequence[AdapterRef]) -> None:
        self.child = child
        self.adapters = {adapter.id: adapter for adapter in adapters}
        self._order = [adapter.id for adapter in adapters]
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.started = time.monotonic()

    def serves(self, adapter: AdapterRef) -> bool:
        """Return whether requests to this child may name the adapter."""
        return self.adapters.get(adapter.id) == adapter

    def lora(self, adapter: AdapterRef | None) -> list[dict[str, float]]:
        """Return the `lora` field of a request: a scale for every loaded adapter, so that no default applies."""
        wanted = adapter.id if adapter else None
        return [{"id": place, "scale": 1.0 if id_ == wanted else 0.0} for place, id_ in enumerate(self._order)]

    @asynccontextmanager
    async def used(self) -> AsyncIterator[None]:
        """Hold the child for a request."""
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def drain(self) -> None:
        """Stop the child when no request uses it.

        If the child dies, its requests fail and thus stop using it.
        """
        await self._idle.wait()
        await self.child.stop()


class ServedModel:
    """A model file and the children that serve it."""

    def __init__(self, name: str, path: Path, host: ServerHost) -> None:
        self.name = name
        self.path = path
        self.context = host.context
        self.gate = SlotQueue(host.slots)
        self.template = ChatTemplate(path)
        self.restarts = 0
        self._host = host
        self._current: Generation | None = None
        self._changing = asyncio.Lock()
        self._recent: dict[str, AdapterRef] = {}
        """The loaded adapters, least recently used first."""
        self._in_use: dict[str, int] = {}
        self._delay = FIRST_DELAY_SECONDS
        self._retry_at = 0.0
        self._restarted: asyncio.Future[None] | None = None
        """During a restart: done when the next attempt has ended."""
        self._failure = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[Generation] = set()
        self._stopped = False

    # ------------------------------------------------------------------------------------- requests

    @asynccontextmanager
    async def lease(self, adapter: AdapterRef | None) -> AsyncIterator[Generation]:
        """Yield a child that answers with `adapter`, and hold the child until the `with` block ends.

        Raises:
            AdapterInvalidError: the adapter cannot be served.
            InvalidInputError: the model cannot be loaded.
            WorkerFailedError: no server is running. The error gives the reason.
        """
        generation = await self._alive()
        while adapter is not None and not generation.serves(adapter):
            await self.load_adapter(adapter)
            generation = await self._alive()
        if adapter is not None:
            self._touch(adapter)
            self._in_use[adapter.id] = self._in_use.get(adapter.id, 0) + 1
        try:
            async with generation.used():
                yield generation
        finally:
            if adapter is not None:
                self._in_use[adapter.id] -= 1

    async def start(self) -> None:
        """Load the model unless it is loaded or being restarted."""
        async with self._changing:
            if self._stopped:
                raise WorkerFailedError("The embedded runtime has been stopped.")
            if self._current is None and self._restarted is None:
                self._put(await self._spawn(()))

    async def _alive(self) -> Generation:
        while True:
            if self._stopped:
                raise WorkerFailedError("The embedded runtime has been stopped.")
            if self._current is not None and self._current.child.alive:
                return self._current
            if self._current is not None:  # the child has just died; let the watcher handle this first
                await asyncio.sleep(0)
            elif self._restarted is None:
                await self.start()
            else:
                await self._wait_for_restart(self._restarted)

    async def _wait_for_restart(self, restarted: asyncio.Future[None]) -> None:
        wait = self._retry_at - time.monotonic()
        if wait > PATIENCE_SECONDS:
            raise WorkerFailedError(
                f"The embedded model server keeps failing ({self._failure}). It is started again in {wait:.0f} s.",
                retryAfter=round(wait),
            )
        await asyncio.shield(restarted)

    # ------------------------------------------------------------------------------------- adapters

    async def load_adapter(self, adapter: AdapterRef) -> None:
        """Start a child that also has `adapter`, and make it the current child. The old child finishes its requests.

        Raises:
            AdapterInvalidError: the adapter's GGUF form is missing, damaged, or made for another model.
        """
        await self._alive()
        async with self._changing:
            if self._current is not None and self._current.serves(adapter):
                self._touch(adapter)
                return
            _check_adapter(adapter, self.path)
            kept = self._room_for(adapter)
            before = await self._make_room((*kept, adapter))
            try:
                generation = await self._spawn((*kept, adapter))
            except TmdeError as error:
                await self._go_back(before)
                if not isinstance(error, InvalidInputError):
                    raise
                raise AdapterInvalidError(
                    f"The adapter {adapter.id} cannot be served by {self.name}: {error.detail}"
                ) from None
            old = self._current
            self._recent = {ref.id: ref for ref in (*kept, adapter)}
            self._put(generation)
            if old is not None:
                self._spawn_task(self._retire(old))

    async def _make_room(self, adapters: Sequence[AdapterRef]) -> Generation | None:
        """Stop the current child when it is idle, if the card has no room for a second one. Return the stopped child.

        Requests that come meanwhile wait for the new child.
        """
        old = self._current
        if old is None or await self._host.has_room([adapter_file(adapter) for adapter in adapters]):
            return None
        log.info("embedded.switch_in_turn", model=self.name, why="the card has no room for a second server")
        self._current = None
        try:
            await self._retire(old)
        except BaseException:
            if old.child.alive:  # the wait was cancelled, so the old child goes on
                self._current = old
            raise
        return old

    async def _go_back(self, before: Generation | None) -> None:
        """Start the adapters of a stopped child again, after the new child could not be started."""
        if before is not None:
            known = [ref for ref in before.adapters.values() if adapter_file(ref).is_file()]
            try:
                self._put(await self._spawn(known))
            except TmdeError as error:  # the next request tries again and tells the person
                log.warning("embedded.not_back", model=self.name, why=error.detail)

    def unload_adapter(self, adapter_id: str) -> None:
        """Stop answering with the adapter. The next child frees its few megabytes, which do not justify a restart."""
        self._recent.pop(adapter_id, None)
        if self._current is not None:
            self._current.adapters.pop(adapter_id, None)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The ids of the adapters that can answer now."""
        return tuple(self._current.adapters) if self._current else ()

    def _touch(self, adapter: AdapterRef) -> None:
        self._recent.pop(adapter.id, None)
        self._recent[adapter.id] = adapter

    def _room_for(self, adapter: AdapterRef) -> list[AdapterRef]:
        """Return the loaded adapters to keep.

        Adapters whose file is gone, and the least recently used ones, are dropped. An adapter in use is never dropped.
        """
        others = [ref for ref in self._recent.values() if ref.id != adapter.id and adapter_file(ref).is_file()]
        spare = [ref for ref in others if not self._in_use.get(ref.id)]
        gone = {ref.id for ref in spare[: max(0, len(others) + 1 - MAX_ADAPTERS)]}
        return [ref for ref in others if ref.id not in gone]

    # ------------------------------------------------------------------------------------- children

    async def _spawn(self, adapters: Sequence[AdapterRef]) -> Generation:
        child = await self._host.start([adapter_file(adapter) for adapter in adapters])
        return Generation(child, adapters)

    def _put(self, generation: Generation) -> None:
        self._current = generation
        self._spawn_task(self._watch(generation))

    async def _watch(self, generation: Generation) -> None:
        """Wait until the child ends, and replace the child if it was the current one."""
        await asyncio.shield(generation.child.exited)
        if generation is not self._current or self._stopped:
            return
        self._current = None
        self._restarted = asyncio.get_running_loop().create_future()
        if time.monotonic() - generation.started > HEALTHY_SECONDS:
            self._delay = FIRST_DELAY_SECONDS
        self._schedule()
        try:
            self._failure = await generation.child.obituary()
            log.warning("embedded.child_ended", model=self.name, how=self._failure)
            self._host.mourn(generation.child)
        finally:
            await generation.child.stop()  # its connections are closed even if the runtime is stopped meanwhile
        adapters: Sequence[AdapterRef] = tuple(ref for ref in self._recent.values() if adapter_file(ref).is_file())
        while not await self._restart(adapters):
            adapters = ()  # one of the adapters may cause the failure; a request that needs an adapter loads it again

    def _schedule(self) -> None:
        self._retry_at = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, LONGEST_DELAY_SECONDS)

    async def _restart(self, adapters: Sequence[AdapterRef]) -> bool:
        await asyncio.sleep(self._retry_at - time.monotonic())
        self.restarts += 1
        attempt = self._restarted
        try:
            async with self._changing:
                generation = await self._spawn(adapters)
                self._recent = {ref.id: ref for ref in adapters}
                self._restarted = None
                self._put(generation)
        except TmdeError as error:
            self._failure = error.detail
            self._restarted = asyncio.get_running_loop().create_future()
            self._schedule()
            log.warning("embedded.restart_failed", model=self.name, why=error.detail)
        if attempt is not None and not attempt.done():
            attempt.set_result(None)
        return self._restarted is None

    async def _retire(self, generation: Generation) -> None:
        self._retiring.add(generation)
        try:
            await generation.drain()
        finally:
            self._retiring.discard(generation)

    def _spawn_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -------------------------------------------------------------------------------- state and end

    @property
    def state(self) -> Literal["stopped", "ready", "restarting"]:
        """Whether the model can answer now."""
        if self._restarted is not None:
            return "restarting"
        return "ready" if self._current is not None and self._current.child.alive else "stopped"

    @property
    def failure(self) -> str:
        """Why the model is being restarted; empty otherwise."""
        return self._failure if self._restarted is not None else ""

    @property
    def detail(self) -> str:
        """Where the model runs, for people; empty while it does not run or if there is nothing to say."""
        return self._host.detail if self._current is not None else ""

    @property
    def card_bytes(self) -> int:
        """The memory of the children on graphics cards."""
        return self._host.card_bytes * len(self.pids)

    @property
    def pids(self) -> list[int]:
        """The process ids of the children, the current one first."""
        generations = [self._current, *self._retiring]
        return [generation.child.pid for generation in generations if generation is not None and generation.child.alive]

    async def stop(self) -> None:
        """End every child. Running requests fail."""
        self._stopped = True
        if self._restarted is not None and not self._restarted.done():
            self._restarted.set_result(None)
        generations = [generation for generation in (self._current, *self._retiring) if generation is not None]
        self._current = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(generation.child.stop() for generation in generations))


def adapter_file(adapter: AdapterRef) -> Path:
    """Return the path of the adapter's GGUF form."""
    return Path(adapter.directory) / ADAPTER_FILE


def _check_adapter(adapter: AdapterRef, model: Path) -> None:
    file = adapter_file(adapter)
    if not file.is_file():
        raise AdapterInvalidError(
            f"The adapter {adapter.id} cannot be served: it has no {ADAPTER_FILE}. That is made from the base model that the adapter "
            f"names ({ADAPTER_FILE} needs its weights' order): put that model into the models directory and try again."
        )
    try:
        header, base = read_header(file), read_header(model)
    except InvalidInputError as error:
        raise AdapterInvalidError(f"The adapter {adapter.id} cannot be served: {error.detail}") from None
    if header.kind != "adapter" or header.metadata.get("adapter.type") != "lora":
        raise AdapterInvalidError(
            f"The adapter {adapter.id} cannot be served: {file} is a GGUF file, but no LoRA adapter."
        )
    if header.architecture != base.architecture:
        raise AdapterInvalidError(
            f"The adapter {adapter.id} is made for the architecture {header.architecture}; {model.name} is {base.architecture}."
        )
