"""Imports and deletes adapters: writes an intent to the audit trail, does the work, and closes the intent.

A process may end at any step. The next start closes the intents that were left open, by looking at the files on disk:
see `Intents.settle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tmde_core.errors import TmdeError
from tmde_core.lora.activation.audit import AuditTrail
from tmde_core.lora.activation.switch import AdapterSwitcher, describe_error, run_to_completion
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.lora import ActivationTrigger, LoRAActivationEvent, LoRAAdapter, Manifest
from tmde_core.sdk.adapters import publish
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock

IMPORTS_LOCK = ".imports.lock"
"""Held (shared) by every process that publishes an import, from the intent until the intent is closed."""

UNDONE = "TMDE ended before it was done; nothing changed."


class Intents:
    """Carries out imports and deletions, and closes the intents that a crash left open."""

    def __init__(self, store: AdapterStore, audit: AuditTrail, switch: AdapterSwitcher) -> None:
        self._store = store
        self._audit = audit
        self._switch = switch

    async def admit(self, staging: Path, manifest: Manifest, origin: str, by: ActivationTrigger) -> None:
        """Publish an imported adapter; see `LoraService.publish_import`."""
        with self._importing():
            event = await self._audit.open(manifest.id, self._store.active_id(), by, "import")
            try:
                await run_to_completion(publish, staging, self._store.directory, manifest)
            except BaseException as error:
                # A missing staging directory was renamed to the adapter. If the staging directory still exists, an
                # adapter with this id is another one.
                there = not staging.is_dir() and self._store.path(manifest.id).is_dir()
                await asyncio.shield(self._audit.close(event, there, None if there else describe_error(error), origin))
                raise
            await asyncio.shield(self._audit.close(event, True, note=origin))

    async def remove(self, adapter: LoRAAdapter, by: ActivationTrigger) -> None:
        """Delete an adapter. Call only within `Switch.lock`."""
        event = await self._audit.open(adapter.id, self._store.active_id(), by, "delete")
        freed = f"{adapter.size_bytes:,} bytes freed."
        try:
            await run_to_completion(self._store.take_away, adapter.id)
        except BaseException as error:
            there = self._store.has(adapter.id)
            message = describe_error(error) if there else None
            await asyncio.shield(self._audit.close(event, not there, message, None if there else freed))
            raise
        await asyncio.shield(self._audit.close(event, True, note=freed))

    async def settle(self) -> None:
        """Close the intents of imports, deletions and switches that a crash left open. Call only in `Switch.lock`."""
        importing = self._somebody_imports()
        for event in await self._audit.list_unsettled():
            if event.operation in ("import", "delete"):
                if event.operation == "delete" or not importing:
                    await self._settle_files(event)
            else:
                await self._settle_switch(event)

    async def _settle_files(self, event: LoRAActivationEvent) -> None:
        there = event.adapter_id is not None and self._store.has(event.adapter_id)
        happened = there == (event.operation == "import")
        await self._audit.close(int(event.id), happened, None if happened else UNDONE)

    async def _settle_switch(self, event: LoRAActivationEvent) -> None:
        pointer = self._store.read_pointer()
        if pointer is None or pointer.adapter_id != event.adapter_id or pointer.since < event.timestamp:
            await self._audit.close(int(event.id), False, UNDONE)
            return
        tried = None
        if event.adapter_id is not None:
            with suppress(TmdeError):
                tried = await asyncio.to_thread(self._store.read_manifest, event.adapter_id)
        await self._switch.record_success(int(event.id), pointer, tried)

    @contextmanager
    def _importing(self) -> Iterator[None]:
        """Show other processes that an import is in progress, so that they do not close its intent."""
        with storage_errors(self._store.directory), FileLock.acquire(self._imports_lock, shared=True):
            yield

    def _somebody_imports(self) -> bool:
        lock = FileLock.try_acquire(self._imports_lock)
        if lock is None:
            return True
        lock.release()
        return False

    @property
    def _imports_lock(self) -> Path:
        return self._store.directory / IMPORTS_LOCK
