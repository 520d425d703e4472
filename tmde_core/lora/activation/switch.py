"""Switches the active adapter, completely or not at all.

A switch writes an intent to the audit trail, tries the adapter in the runtime, replaces the pointer and closes the
intent. If a step before the new pointer fails, nothing has changed.
"""

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
from tmde_core.lora.activation.probe import ProbeAnswer, ask_base_model, probe
from tmde_core.lora.files.forms import GgufForms
from tmde_core.lora.files.store import AdapterStore
from tmde_core.models.service import find_served_model
from tmde_core.records.base import utc_now
from tmde_core.records.chat import AdapterRef
from tmde_core.records.lora import ActivationTrigger, ActivePointer, Manifest, Operation
from tmde_core.runtimes import describe_lack_of_adapters, serves_adapters
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

ACTIVATION_LOCK = ".activation.lock"
"""Locked during a switch, so that the server and the command line cannot switch at the same time."""

FORCED = "Activated by force although the benchmark holds it back."


class AdapterSwitcher:
    """Changes the active adapter."""

    def __init__(self, workspace: Workspace, store: AdapterStore, audit: AuditTrail, forms: GgufForms) -> None:
        self._forms = forms
        self._workspace = workspace
        self._store = store
        self._audit = audit
        self._lock = asyncio.Lock()
        self._probed: dict[tuple[str, str, str, int], ProbeAnswer] = {}

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Allow one switch at a time, in this process and across processes.

        Raises:
            ConflictError: another switch is in progress.
            InsufficientStorageError: the directory cannot be written.
        """
        busy = ConflictError("Another switch of adapters is under way. Try again when it is done.")
        if self._lock.locked():
            raise busy
        async with self._lock:
            with storage_errors(self._store.directory):
                self._store.directory.mkdir(parents=True, exist_ok=True)
                lock = FileLock.try_acquire(self._store.directory / ACTIVATION_LOCK)
            if lock is None:
                raise busy
            with lock:
                yield

    async def switch_to(self, target: UUID | None, by: ActivationTrigger, force: bool, operation: Operation) -> None:
        """Activate `target` (None: the base model). Call only within `alone`.

        If the method raises one of these errors, nothing has changed, and the audit trail gives the reason.

        Raises:
            ConflictError: the gate holds the adapter back, or its base model differs.
            AdapterInvalidError: the adapter is damaged, the runtime rejects it, or the probe failed.
            InsufficientStorageError: the disk is full or read-only.
        """
        before = self._store.active_id()
        event = await self._audit.open(target, before, by, operation)
        tried: Manifest | None = None
        pointer: ActivePointer | None = None
        try:
            if target is not None:
                tried = await self._try(target, force)
            pointer = ActivePointer(adapter_id=target, previous_adapter_id=before, since=utc_now())
            await run_to_completion(self._store.point_at, pointer)
        except BaseException as error:
            # If the new pointer was written, the switch has happened: the task was cancelled during the write, or
            # syncing the directory to the disk failed.
            if pointer is None or not self._points_at(pointer):
                await asyncio.shield(self._failed(event, error, str(target) if tried and target != before else None))
                raise
            if not isinstance(error, Exception):
                await asyncio.shield(self.record_success(event, pointer, tried))
                raise
            log.warning("lora.switch_not_synced", error=str(error))
        await asyncio.shield(self.record_success(event, pointer, tried))
        log.info("lora.switched", adapter=str(target), previous=str(before), by=by)

    async def _failed(self, event: int, error: BaseException, loaded: str | None) -> None:
        await self._audit.close(event, False, describe_error(error))
        if loaded is not None:
            await self.unload(loaded)

    async def record_success(self, event: int, pointer: ActivePointer, tried: Manifest | None) -> None:
        """Close the intent of a successful switch.

        Args:
            event: the event's id.
            pointer: the new pointer.
            tried: the adapter's manifest before the switch. The gate `held-back` changes to `forced`.
        """
        await self.refresh_copies()
        forced = tried is not None and tried.gate == "held-back"
        if tried is not None and forced:
            try:
                await asyncio.to_thread(self._store.edit, tried.id, _forced)
            except TmdeError as error:
                log.warning("lora.gate_not_written", adapter=str(tried.id), error=error.detail)
        await self._audit.close(event, True, note=FORCED if forced else None, at=pointer.since)

    async def refresh_copies(self, *, wait: bool = True) -> None:
        """Update what manifests tell other tools about the active adapter.

        TMDE does not read it, so a failure is only logged; the next switch or start tries again.
        """
        try:
            await asyncio.to_thread(self._store.refresh_copies, wait=wait)
        except (TmdeError, OSError) as error:
            log.warning("lora.copies_not_written", error=str(error))

    async def unload(self, adapter_id: str) -> None:
        """Unload an adapter from the Proposer's runtime, if the runtime is running."""
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
        """Verify, load and probe an adapter."""
        manifest = await asyncio.to_thread(self._store.read_manifest, adapter_id)
        if manifest.gate == "held-back" and not force:
            raise ConflictError(
                f"The benchmark holds the adapter {adapter_id} back: it was found worse. Activate it with force if you must.",
                gate=manifest.gate,
            )
        role = self._workspace.settings.roles.proposer
        runtime = await self._workspace.runtimes.get(role.runtime)
        if not await serves_adapters(runtime):
            raise AdapterInvalidError(describe_lack_of_adapters(role.runtime, runtime))
        served = find_served_model(await runtime.models(), role.model, role.runtime)
        await self._workspace.models.require_same_base(self._store.path(adapter_id), manifest, served)
        # Read the adapter's files while the base model writes the answer for the comparison.
        await gather_or_cancel(
            asyncio.to_thread(self._store.verify_files, adapter_id), self._base_answer(runtime, role.model)
        )
        await self._forms.ensure_gguf(manifest, served.path)
        await self._trial(runtime, adapter_id, role.model)
        return manifest

    async def _base_answer(self, runtime: ModelRuntime, model: str) -> ProbeAnswer:
        """Return the base model's answer to the probe; each model is asked only once."""
        served = find_served_model(await runtime.models(), model, "")
        key = (served.runtime, served.name, served.path or "", served.size_bytes or 0)
        if key not in self._probed:
            try:
                self._probed[key] = await ask_base_model(runtime, model)
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


def describe_error(error: BaseException) -> str:
    """Return the reason for an error, as a sentence for the audit trail."""
    if isinstance(error, TmdeError):
        return error.detail
    if isinstance(error, asyncio.CancelledError):
        return "It was interrupted."
    return f"{type(error).__name__}: {error}"


async def run_to_completion(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run a function in a thread and wait until it has finished, even if this task is cancelled.

    After the call, the caller can rely on the files on disk: no thread is still changing them.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments, **named))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieve the error, or asyncio logs "exception was never retrieved"
        raise


async def gather_or_cancel(*work: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines concurrently. If one fails, cancel the others, wait for them, and raise the error unchanged."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
