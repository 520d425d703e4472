"""Which adapter answers: activate, roll back, deactivate, and what is there to choose from."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, TmdeError
from tmde_core.lora.audit import AuditTrail, chain
from tmde_core.lora.base_match import require_same_base, served_model
from tmde_core.lora.probe import probe
from tmde_core.lora.records import ActivePointer, Gate, LoRAActivationEvent, LoRAAdapter, Manifest, Trigger
from tmde_core.lora.store import AdapterStore
from tmde_core.ports import AdapterRef, ModelRuntime
from tmde_core.record import utc_now
from tmde_core.runtimes import Runtimes
from tmde_core.settings import Settings
from tmde_core.storage.database import Database
from tmde_core.storage.durable import storage_errors

log = structlog.get_logger(__name__)

LOCK_FILE = ".activation.lock"
"""Held with `flock` during a switch, so that the server and a command line cannot both switch."""

Adapters = list[LoRAAdapter]
Events = list[LoRAActivationEvent]
"""The class below has a method called `list`, which would hide the type."""


class LoraService:
    """The adapters of one data directory and the one that is active."""

    def __init__(self, database: Database, settings: Settings, runtimes: Runtimes) -> None:
        self.store = AdapterStore(settings.data_path)
        self._settings = settings
        self._runtimes = runtimes
        self._audit = AuditTrail(database)
        self._lock = asyncio.Lock()

    # ------------------------------------------------------------------------------------- reading

    async def list(self, tag: str | None = None, valid: bool | None = None) -> Adapters:
        """Every adapter, newest first.

        Args:
            tag: only those that carry it.
            valid: only the sound ones, or only the others.
        """
        found = await asyncio.to_thread(self.store.list)
        return [
            adapter
            for adapter in found
            if (tag is None or tag in adapter.tags) and (valid is None or adapter.is_valid == valid)
        ]

    async def get(self, adapter_id: UUID) -> LoRAAdapter:
        """One adapter, sound or not.

        Raises:
            NotFoundError: there is none with that id.
        """
        return await asyncio.to_thread(self.store.get, adapter_id)

    async def active(self) -> LoRAAdapter | None:
        """The adapter that answers; None when the base model does."""
        active = self.store.active_id()
        return await self.get(active) if active else None

    def active_ref(self) -> AdapterRef | None:
        """What a debate pins at its start. A look at one file's time stamp, no more."""
        active = self.store.active_id()
        return AdapterRef(id=str(active), directory=str(self.store.path(active))) if active else None

    async def events(self, limit: int = 50) -> Events:
        """The audit trail, newest first."""
        return await self._audit.events(limit)

    # ----------------------------------------------------------------------------------- switching

    async def activate(self, adapter_id: UUID, by: Trigger = "user", force: bool = False) -> LoRAAdapter:
        """Make the adapter answer from the next debate on; all or nothing.

        Args:
            force: activate it although the gate holds it back; recorded as such.

        Raises:
            NotFoundError: no such adapter.
            ConflictError: its base model differs, the gate holds it back, or another switch is under way.
            AdapterInvalidError: its files are damaged, the runtime refuses it, or the probe failed. Nothing has changed.
        """
        async with self._switching():
            await self.get(adapter_id)
            await self._switch(adapter_id, by, force)
        return await self.get(adapter_id)

    async def rollback(self, adapter_id: UUID | None = None, by: Trigger = "rollback") -> LoRAAdapter | None:
        """Go back to what answered before, or to the adapter named; None in return is the base model.

        Raises:
            NotFoundError: the adapter named does not exist.
            ConflictError: nothing answered before, or another switch is under way.
            AdapterInvalidError: the earlier adapter can no longer be used. Nothing has changed.
        """
        async with self._switching():
            if adapter_id is not None:
                await self.get(adapter_id)
                target: UUID | None = adapter_id
            else:
                target = await self._previous()
            # The gate does not matter: what has answered before may answer again.
            await self._switch(target, by, force=True)
        return await self.active()

    async def deactivate(self, by: Trigger = "user") -> None:
        """Let the base model answer from the next debate on.

        Raises:
            ConflictError: another switch is under way.
        """
        async with self._switching():
            if self.store.active_id() is not None or self._pointer_is_damaged():
                await self._switch(None, by, force=False)

    async def set_gate(self, adapter_id: UUID, gate: Gate, note: str = "") -> LoRAAdapter:
        """Record what the benchmark made of an adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound.
        """
        manifest = await asyncio.to_thread(self.store.manifest, adapter_id)
        await asyncio.to_thread(self.store.rewrite, msgspec.structs.replace(manifest, gate=gate))
        log.info("lora.gate", adapter=str(adapter_id), gate=gate, note=note)
        return await self.get(adapter_id)

    async def settle(self) -> None:
        """Close the intents that a crash left open; whether they happened is read from the pointer.

        Does nothing while another process is switching: its intent is not abandoned.
        """
        if not self.store.directory.is_dir():
            return
        try:
            async with self._switching():
                pointer = None if self._pointer_is_damaged() else self.store.active()
                for event in await self._audit.unsettled():
                    happened = (
                        pointer is not None
                        and pointer.adapter_id == event.adapter_id
                        and pointer.since >= event.timestamp
                    )
                    message = None if happened else "TMDE ended before the switch was made; nothing changed."
                    await self._audit.close(event.id, happened, message)
                self.store.sweep_unfinished_files()
        except ConflictError:
            log.info("lora.settle_skipped", reason="another process is switching adapters")

    async def _switch(self, target: UUID | None, by: Trigger, force: bool) -> None:
        """Intent, trial, pointer, success; or intent, failure and its reason, with everything as before."""
        before = self.store.active_id()
        event = await self._audit.open(target, before, by)
        try:
            note = await self._try(target, force) if target is not None else None
            pointer = ActivePointer(adapter_id=target, previous_adapter_id=before, since=utc_now())
            await asyncio.to_thread(self.store.point_at, pointer)
        except BaseException as error:
            await asyncio.shield(self._audit.close(event, False, _reason(error)))
            raise
        await asyncio.shield(self._audit.close(event, True, note))
        log.info("lora.switched", adapter=str(target), previous=str(before), by=by)

    async def _try(self, adapter_id: UUID, force: bool) -> str | None:
        """Verify, load and probe; returns what is worth a note in the audit trail."""
        manifest = await asyncio.to_thread(self.store.verified, adapter_id)
        held_back = manifest.gate == "held-back"
        if held_back and not force:
            raise ConflictError(
                f"The benchmark holds the adapter {adapter_id} back: it was not better. Activate it with force if you must.",
                gate=manifest.gate,
            )
        role = self._settings.roles.proposer
        runtime = await self._runtimes.get(role.runtime)
        if not runtime.capabilities.adapters:
            raise AdapterInvalidError(
                f"The Proposer's runtime {role.runtime!r} cannot serve adapters. Choose one that can, such as 'embedded'."
            )
        await require_same_base(manifest, served_model(await runtime.models(), role.model, role.runtime))
        await self._trial(runtime, adapter_id, role.model)
        return self._forced(manifest) if held_back else None

    async def _trial(self, runtime: ModelRuntime, adapter_id: UUID, model: str) -> None:
        reference = AdapterRef(id=str(adapter_id), directory=str(self.store.path(adapter_id)))
        try:
            await runtime.load_adapter(reference, model)
            await probe(runtime, reference, model)
        except BaseException as error:
            if adapter_id != self.store.active_id():
                await asyncio.shield(_unload(runtime, reference.id))
            if isinstance(error, AdapterInvalidError) or not isinstance(error, TmdeError):
                raise
            raise AdapterInvalidError(
                f"The adapter {adapter_id} could not be tried: {error.detail}", adapterId=str(adapter_id)
            ) from error

    def _forced(self, manifest: Manifest) -> str:
        self.store.rewrite(msgspec.structs.replace(manifest, gate="forced"))
        return "Activated by force although the benchmark holds it back."

    async def _previous(self) -> UUID | None:
        """What answered before what answers now, without adapters that are gone."""
        stack = chain(await self._audit.history())
        pointer = None if self._pointer_is_damaged() else self.store.active()
        now = self.store.active_id()
        if pointer is not None and stack[-1] != pointer.adapter_id:
            # The pointer is the truth; a trail that disagrees (another database) is not followed.
            stack = [None, pointer.previous_adapter_id, pointer.adapter_id]
        below = [target for target in stack[:-1] if target is None or self.store.path(target).is_dir()]
        while below and below[-1] == now:
            below.pop()
        if not below:
            raise ConflictError("There is nothing to roll back: the base model answers and nothing answered before it.")
        return below[-1]

    def _pointer_is_damaged(self) -> bool:
        try:
            self.store.active()
        except AdapterInvalidError:
            return True
        return False

    @asynccontextmanager
    async def _switching(self) -> AsyncIterator[None]:
        """One switch at a time, in this process and among all."""
        busy = ConflictError("Another switch of adapters is under way. Try again when it is done.")
        if self._lock.locked():
            raise busy
        async with self._lock:
            with storage_errors(self.store.directory):
                self.store.directory.mkdir(parents=True, exist_ok=True)
                file = (self.store.directory / LOCK_FILE).open("a")
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise busy from None
                yield


def _reason(error: BaseException) -> str:
    if isinstance(error, TmdeError):
        return error.detail
    if isinstance(error, asyncio.CancelledError):
        return "It was interrupted."
    return f"{type(error).__name__}: {error}"


async def _unload(runtime: ModelRuntime, adapter_id: str) -> None:
    try:
        await runtime.unload_adapter(adapter_id)
    except TmdeError as error:
        log.warning("lora.unload_failed", adapter=adapter_id, error=error.detail)
