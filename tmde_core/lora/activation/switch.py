"""One change of what answers: intent in the audit trail, trial in the runtime, pointer, success; or everything as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, TmdeError
from tmde_core.lora.activation.audit import AuditTrail
from tmde_core.lora.activation.probe import Answer, base_answer, probe
from tmde_core.lora.files.base_match import require_same_base, served_model
from tmde_core.lora.files.forms import Forms
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.base import utc_now
from tmde_core.records.chat import AdapterRef
from tmde_core.records.lora import ActivePointer, Manifest, Operation, Trigger
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LOCK_FILE = ".activation.lock"
"""Locked during a switch, so that the server and a command line cannot both switch."""

FORCED = "Activated by force although the benchmark holds it back."


class Switch:
    """Changes which adapter answers."""

    def __init__(self, workspace: Workspace, store: AdapterStore, audit: AuditTrail, forms: Forms) -> None:
        self._forms = forms
        self._workspace = workspace
        self._store = store
        self._audit = audit
        self._lock = asyncio.Lock()
        self._probed: dict[tuple[str, str, str, int], Answer] = {}

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """One switch at a time, in this process and among all.

        Raises:
            ConflictError: another one is under way.
            InsufficientStorageError: the directory cannot be written.
        """
        busy = ConflictError("Another switch of adapters is under way. Try again when it is done.")
        if self._lock.locked():
            raise busy
        async with self._lock:
            with storage_errors(self._store.directory):
                self._store.directory.mkdir(parents=True, exist_ok=True)
                lock = FileLock.try_acquire(self._store.directory / LOCK_FILE)
            if lock is None:
                raise busy
            with lock:
                yield

    async def to(self, target: UUID | None, by: Trigger, force: bool, operation: Operation) -> None:
        """Let `target` answer, None is the base model. Within `alone` only.

        Raises:
            ConflictError, AdapterInvalidError, InsufficientStorageError: why not. Nothing has changed, and the event says why.
        """
        before = self._store.active_id()
        event = await self._audit.open(target, before, by, operation)
        tried: Manifest | None = None
        pointer: ActivePointer | None = None
        try:
            if target is not None:
                tried = await self._try(target, force)
            pointer = ActivePointer(adapter_id=target, previous_adapter_id=before, since=utc_now())
            await carried_through(self._store.point_at, pointer)
        except BaseException as error:
            # Cancelled while the pointer was written, or its directory not brought to the disk: it has happened.
            if pointer is None or not self._points_at(pointer):
                await asyncio.shield(self._failed(event, error, str(target) if tried and target != before else None))
                raise
            if not isinstance(error, Exception):
                await asyncio.shield(self.succeeded(event, pointer, tried))
                raise
            log.warning("lora.switch_not_synced", error=str(error))
        await asyncio.shield(self.succeeded(event, pointer, tried))
        log.info("lora.switched", adapter=str(target), previous=str(before), by=by)

    async def _failed(self, event: int, error: BaseException, loaded: str | None) -> None:
        await self._audit.close(event, False, reason_of(error))
        if loaded is not None:
            await self.unload(loaded)

    async def succeeded(self, event: int, pointer: ActivePointer, tried: Manifest | None) -> None:
        """Close an intent that was carried out.

        Args:
            tried: the adapter's manifest before; one that was held back is forced now.
        """
        forced = tried is not None and tried.gate == "held-back"
        if tried is not None and forced:
            try:
                await asyncio.to_thread(self._store.edit, tried.id, _forced)
            except TmdeError as error:
                log.warning("lora.gate_not_written", adapter=str(tried.id), error=error.detail)
        await self._audit.close(event, True, note=FORCED if forced else None, at=pointer.since)

    async def unload(self, adapter_id: str) -> None:
        """Let the Proposer's runtime go of an adapter, if it is running."""
        try:
            runtime = self._workspace.runtimes.made(self._workspace.settings.roles.proposer.runtime)
            if (await runtime.status()).state == "ready":
                await runtime.unload_adapter(adapter_id)
        except TmdeError as error:
            log.info("lora.not_unloaded", adapter=adapter_id, error=error.detail)

    def _points_at(self, pointer: ActivePointer) -> bool:
        try:
            return self._store.active() == pointer
        except AdapterInvalidError:
            return False

    async def _try(self, adapter_id: UUID, force: bool) -> Manifest:
        """Verify, load and probe."""
        manifest = await asyncio.to_thread(self._store.manifest, adapter_id)
        if manifest.gate == "held-back" and not force:
            raise ConflictError(
                f"The benchmark holds the adapter {adapter_id} back: it was found worse. Activate it with force if you must.",
                gate=manifest.gate,
            )
        role = self._workspace.settings.roles.proposer
        runtime = await self._workspace.runtimes.get(role.runtime)
        if not runtime.capabilities.adapters:
            raise AdapterInvalidError(
                f"The Proposer's runtime {role.runtime!r} cannot serve adapters. Choose one that can, such as 'embedded'."
            )
        await require_same_base(manifest, served_model(await runtime.models(), role.model, role.runtime))
        # While the bytes are read, the base model gives the answer that the adapter's is compared with.
        await together(asyncio.to_thread(self._store.verified, adapter_id), self._base_answer(runtime, role.model))
        await self._forms.complete(manifest)
        await self._trial(runtime, adapter_id, role.model)
        return manifest

    async def _base_answer(self, runtime: ModelRuntime, model: str) -> Answer:
        """What the base model says to the probe; asked once a model."""
        served = served_model(await runtime.models(), model, "")
        key = (served.runtime, served.name, served.path or "", served.size_bytes or 0)
        if key not in self._probed:
            try:
                self._probed[key] = await base_answer(runtime, model)
            except TmdeError as error:
                raise AdapterInvalidError(f"The base model could not be asked: {error.detail}") from error
        return self._probed[key]

    async def _trial(self, runtime: ModelRuntime, adapter_id: UUID, model: str) -> None:
        reference = AdapterRef(id=str(adapter_id), directory=str(self._store.path(adapter_id)))
        try:
            await runtime.load_adapter(reference, model)
            await probe(runtime, reference, model, await self._base_answer(runtime, model))
        except BaseException as error:
            if adapter_id != self._store.active_id():
                await asyncio.shield(self.unload(reference.id))
            if isinstance(error, AdapterInvalidError) or not isinstance(error, TmdeError):
                raise
            raise AdapterInvalidError(
                f"The adapter {adapter_id} could not be tried: {error.detail}", adapterId=str(adapter_id)
            ) from error


def _forced(manifest: Manifest) -> Manifest:
    return msgspec.structs.replace(manifest, gate="forced")


def reason_of(error: BaseException) -> str:
    """Why something ended, for the audit trail."""
    if isinstance(error, TmdeError):
        return error.detail
    if isinstance(error, asyncio.CancelledError):
        return "It was interrupted."
    return f"{type(error).__name__}: {error}"


async def carried_through(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Do something in a thread and wait for its end even when cancelled: whoever asks then what happened gets the answer."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # has been seen: asyncio complains of errors that nobody looks at
        raise


async def together(*work: Coroutine[Any, Any, Any]) -> None:
    """Do several things at once; when one fails the others are ended first, then its error is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
