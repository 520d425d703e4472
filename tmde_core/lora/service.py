"""Which adapter answers: activate, roll back, deactivate, and what is there to choose from."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, InvalidInputError, NotFoundError
from tmde_core.lora.activation.audit import AuditTrail, chain
from tmde_core.lora.activation.intents import Intents
from tmde_core.lora.activation.switch import Switch
from tmde_core.lora.compare import compared, training_of
from tmde_core.lora.files.forms import Forms
from tmde_core.lora.files.lease import Lease, is_leased, shared, sole
from tmde_core.lora.files.store import AdapterStore
from tmde_core.observers import Publish
from tmde_core.records.benchmark import RunComparison
from tmde_core.records.chat import AdapterRef
from tmde_core.records.lora import (
    MAX_TAGS,
    STABLE,
    TAG,
    AdapterDetails,
    Comparison,
    Gate,
    LiveAt,
    LoRAActivationEvent,
    LoRAAdapter,
    Manifest,
    Operation,
    StorageFigures,
    Trigger,
    Verification,
)
from tmde_core.sdk.events import AdapterActivated
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

HISTORY = 50
"""Entries of the audit trail that an adapter's details show."""
LEASE_PAUSE_SECONDS = 0.02
"""Between two tries for a lease while somebody asks whether the adapter may be deleted."""

Benchmarks = Callable[[UUID, UUID], Awaitable[RunComparison | None]]
Adapters = list[LoRAAdapter]
Events = list[LoRAActivationEvent]
"""The class below has a method called `list`, which would hide the type."""


class LoraService:
    """The adapters of one data directory and the one that is active."""

    def __init__(
        self,
        store: AdapterStore,
        audit: AuditTrail,
        forms: Forms,
        workspace: Workspace,
        benchmarks: Benchmarks,
        publish: Publish,
    ) -> None:
        """Build it on its stores.

        Args:
            benchmarks: compares the newest benchmark runs of two adapters.
            publish: tells of each switch that this process makes.
        """
        self._store = store
        self._audit = audit
        self._forms = forms
        self._workspace = workspace
        self._benchmarks = benchmarks
        self._publish = publish
        self._switch = Switch(workspace, store, audit, forms)
        self._intents = Intents(store, audit, self._switch)

    # ------------------------------------------------------------------------------------- reading

    async def list(self, tag: str | None = None, valid: bool | None = None) -> Adapters:
        """Every adapter, newest first.

        Args:
            tag: only those that carry it.
            valid: only the sound ones, or only the others.
        """
        found = await asyncio.to_thread(self._store.list)
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
        return await asyncio.to_thread(self._store.get, adapter_id)

    async def manifest(self, adapter_id: UUID) -> Manifest:
        """The manifest of a sound adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound; says why.
        """
        return await asyncio.to_thread(self._store.manifest, adapter_id)

    async def verified(self, adapter_id: UUID) -> Manifest:
        """The manifest, after every file was read and its SHA-256 found as the manifest has it.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound; says which files and why.
        """
        return await asyncio.to_thread(self._store.verified, adapter_id)

    def reference(self, adapter_id: UUID) -> AdapterRef:
        """How runtimes are told of an adapter."""
        return AdapterRef(id=str(adapter_id), directory=str(self._store.path(adapter_id)))

    async def active(self) -> LoRAAdapter | None:
        """The adapter that answers; None when the base model does."""
        active = self._store.active_id()
        return await self.get(active) if active else None

    async def pinned(self) -> tuple[AdapterRef | None, Lease]:
        """What answers now, and the lease that keeps it on the disk until what begins with it has ended."""
        while True:
            reference = self.active_ref()
            with suppress(NotFoundError):  # it was switched off and deleted in this moment: something else answers
                return reference, await self.lease(reference)

    async def lease(self, reference: AdapterRef | None) -> Lease:
        """Keep an adapter from being deleted, in whatever process, until the lease is released; None is the base model.

        Raises:
            NotFoundError: there is no such adapter any more.
        """
        if reference is None:
            return Lease()
        while True:
            if (lease := shared(Path(reference.directory))) is not None:
                return lease
            await asyncio.sleep(LEASE_PAUSE_SECONDS)

    def active_ref(self) -> AdapterRef | None:
        """What answers now. A look at one file's time stamp, no more."""
        active = self._store.active_id()
        return self.reference(active) if active else None

    async def events(self, limit: int = 50, offset: int = 0) -> Events:
        """The audit trail, newest first."""
        return await self._audit.events(limit, offset)

    async def count_events(self) -> int:
        """How many entries the audit trail has."""
        return await self._audit.count()

    async def live_at(self, moment: datetime) -> LiveAt:
        """What answered at a moment."""
        return await self._audit.live_at(moment)

    async def details(self, adapter_id: UUID) -> AdapterDetails:
        """One adapter, sound or not, with lineage, training configuration and what was done with it.

        Raises:
            NotFoundError: there is none with that id.
        """
        adapter = await self.get(adapter_id)
        history = tuple(await self._audit.events(HISTORY, adapter_id=adapter_id))
        known = msgspec.structs.asdict(adapter)
        try:
            manifest = await asyncio.to_thread(self._store.manifest, adapter_id)
        except AdapterInvalidError:
            return AdapterDetails(**known, history=history)
        return AdapterDetails(
            **known,
            base_model_sha256=manifest.base_model_sha256,
            tokenizer_sha256=manifest.tokenizer_sha256,
            chat_template_sha256=manifest.chat_template_sha256,
            dataset_sha256=manifest.dataset_sha256,
            lineage=manifest.lineage,
            training=await asyncio.to_thread(training_of, Path(adapter.path)),
            files=manifest.files,
            history=history,
        )

    async def compare(self, a: UUID, b: UUID) -> Comparison:
        """What changed from A to B: configuration, data, metrics, benchmark.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: one of them is not sound.
        """
        first, second = await self.get(a), await self.get(b)
        of_a, of_b = [await asyncio.to_thread(self._store.manifest, one) for one in (a, b)]
        trained = [await asyncio.to_thread(training_of, Path(one.path)) for one in (first, second)]
        found = compared(first, second, of_a, of_b, *trained)
        return msgspec.structs.replace(found, benchmark=await self._benchmarks(a, b))

    async def storage(self) -> StorageFigures:
        """What the adapters take of the disk."""
        adapters = await self.list()
        directory = self._store.directory if self._store.directory.is_dir() else self._workspace.settings.data_path
        free = await asyncio.to_thread(shutil.disk_usage, directory)
        return StorageFigures(
            adapters=len(adapters),
            invalid=sum(not adapter.is_valid for adapter in adapters),
            bytes=sum(adapter.size_bytes for adapter in adapters),
            free_bytes=free.free,
        )

    async def verify(self, adapter_id: UUID) -> Verification:
        """Read every byte of an adapter and compare it with its manifest.

        Raises:
            NotFoundError: no such adapter.
        """
        began = time.perf_counter()
        reasons, size = await asyncio.to_thread(self._store.flaws, adapter_id)
        adapter = await self.details(adapter_id)
        return Verification(
            adapter_id=adapter_id,
            is_valid=not reasons,
            reasons=tuple(reasons),
            files=len(adapter.files),
            bytes=size,
            ms=round((time.perf_counter() - began) * 1000, 3),
        )

    # ------------------------------------------------------------------------------------ changing

    async def tag(self, adapter_id: UUID, add: Sequence[str] = (), remove: Sequence[str] = ()) -> LoRAAdapter:
        """Put tags on an adapter and take tags off it. `stable` protects it from deletion.

        Raises:
            NotFoundError: no such adapter.
            InvalidInputError: a tag is not 1–40 of letters, digits, `-`, `_` and `.`, or there would be too many.
            AdapterInvalidError: it is not sound.
        """
        for name in (*add, *remove):
            if not TAG.fullmatch(name):
                raise InvalidInputError(
                    f"tags: {name[:60]!r} is no tag; it has 1 to 40 of letters, digits, `-`, `_` and `.`.", field="tags"
                )
        await self.get(adapter_id)

        def change(manifest: Manifest) -> Manifest:
            tags = dict.fromkeys((*manifest.tags, *add))
            kept = tuple(name for name in tags if name not in remove)
            if len(kept) > MAX_TAGS:
                raise InvalidInputError(f"tags: an adapter has {MAX_TAGS} at most.", field="tags")
            return msgspec.structs.replace(manifest, tags=kept)

        await asyncio.to_thread(self._store.edit, adapter_id, change)
        return await self.get(adapter_id)

    async def set_gate(self, adapter_id: UUID, gate: Gate, note: str = "") -> LoRAAdapter:
        """Record what the benchmark made of an adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound.
        """
        await asyncio.to_thread(
            self._store.edit, adapter_id, lambda manifest: msgspec.structs.replace(manifest, gate=gate)
        )
        log.info("lora.gate", adapter=str(adapter_id), gate=gate, note=note)
        return await self.get(adapter_id)

    async def delete(self, adapter_id: UUID, by: Trigger = "user") -> None:
        """Remove an adapter from the disk, at once and completely; what was done with it stays in the audit trail.

        Raises:
            NotFoundError: no such adapter.
            ConflictError: it is active, tagged `stable`, answers something under way in any process, or a switch is under way.
            InsufficientStorageError: the disk is read-only.
        """
        async with self._switch.alone():
            adapter = await self.get(adapter_id)
            if adapter.is_active:
                raise ConflictError(
                    f"The adapter {adapter_id} answers now. Roll back, deactivate or activate another one, then delete it."
                )
            if STABLE in adapter.tags:
                raise ConflictError(
                    f"The adapter {adapter_id} is tagged `{STABLE}`, which protects it. Remove that tag first.",
                    tag=STABLE,
                )
            with sole(Path(adapter.path)):
                await self._intents.remove(adapter, by)
        await self._switch.unload(str(adapter_id))
        log.info("lora.deleted", adapter=str(adapter_id), by=by)

    async def prune(self, keep: int, by: Trigger = "user", dry_run: bool = False) -> Adapters:
        """Delete all but the newest `keep` adapters; never the active one, the one before it, one tagged `stable` or in use.

        Args:
            dry_run: only say which.

        Returns:
            What was deleted, or would be, newest first.

        Raises:
            InvalidInputError: `keep` is negative.
            ConflictError: a switch is under way.
        """
        if keep < 0:
            raise InvalidInputError("keep: must be 0 or more.", field="keep", minimum=0)
        safe = await self._kept()
        sound = await self.list(valid=True)
        doomed = [one for one in sound[keep:] if one.id not in safe and STABLE not in one.tags]
        doomed = [one for one in doomed if not is_leased(Path(one.path))]
        if not dry_run:
            for adapter in doomed:
                await self.delete(adapter.id, by)
        return doomed

    async def _kept(self) -> set[UUID]:
        """What pruning never touches: what answers, and what a rollback would go to."""
        pointer = self._store.pointer()
        safe = {self._store.active_id(), pointer.previous_adapter_id if pointer else None}
        with suppress(ConflictError):
            safe.add(await self._previous())
        return {one for one in safe if one is not None}

    async def completed(self, manifest: Manifest) -> Manifest:
        """The manifest of an adapter after it was given the form that runtimes serve, if it had none.

        It has none when its base model was not here at its import, and stays so while that has not come.

        Raises:
            AdapterInvalidError: it is damaged, does not fit its base model, or the form cannot be made.
            InsufficientStorageError: no space.
        """
        await self._forms.complete(manifest)
        return await asyncio.to_thread(self._store.manifest, manifest.id)

    async def admit(self, staging: Path, manifest: Manifest, origin: str, by: Trigger = "user") -> LoRAAdapter:
        """Make what an import has built an adapter of this directory, with a row in the audit trail.

        Args:
            staging: a finished directory (see `publish`); it is gone afterwards.
            origin: where it came from, for the trail.

        Raises:
            AdapterInvalidError, ConflictError, InsufficientStorageError: see `publish`.
        """
        await self._intents.admit(staging, manifest, origin, by)
        return await self.get(manifest.id)

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
        async with self._switch.alone():
            await self.get(adapter_id)
            await self._switch_to(adapter_id, by, force, "activate")
        return await self.get(adapter_id)

    async def rollback(self, adapter_id: UUID | None = None, by: Trigger = "rollback") -> LoRAAdapter | None:
        """Go back to what answered before, or to the adapter named; None in return is the base model.

        Raises:
            NotFoundError: the adapter named does not exist.
            ConflictError: nothing answered before, or another switch is under way.
            AdapterInvalidError: the earlier adapter can no longer be used. Nothing has changed.
        """
        async with self._switch.alone():
            if adapter_id is not None:
                await self.get(adapter_id)
                target: UUID | None = adapter_id
            else:
                target = await self._previous()
            # The gate does not matter: what has answered before may answer again.
            await self._switch_to(target, by, True, "rollback")
        return await self.active()

    async def rollback_target(self) -> UUID | None:
        """What a rollback would go to; None is the base model.

        Raises:
            ConflictError: there is nothing to roll back to.
        """
        return await self._previous()

    async def deactivate(self, by: Trigger = "user") -> None:
        """Let the base model answer from the next debate on.

        Raises:
            ConflictError: another switch is under way.
        """
        async with self._switch.alone():
            if self._store.active_id() is not None or self._store.points_nowhere():
                await self._switch_to(None, by, False, "deactivate")

    async def _switch_to(self, target: UUID | None, by: Trigger, force: bool, operation: Operation) -> None:
        """Let `target` answer and tell of it; None is the base model. Within `alone` only."""
        before = self._store.active_id()
        await self._switch.to(target, by, force, operation)
        self._publish(AdapterActivated(adapter_id=target, previous_adapter_id=before, triggered_by=by))

    async def settle(self) -> None:
        """Close the intents that a crash left open; whether they happened is read from the disk.

        Does nothing while another process is switching: its intent is not abandoned.
        """
        if not self._store.directory.is_dir():
            return
        try:
            async with self._switch.alone():
                await self._intents.settle()
                await asyncio.to_thread(self._store.sweep)
        except ConflictError:
            log.info("lora.settle_skipped", reason="another process is switching adapters")

    async def _previous(self) -> UUID | None:
        """What answered before what answers now, without adapters that are gone."""
        stack = chain(await self._audit.history())
        pointer = self._store.pointer()
        now = self._store.active_id()
        if pointer is not None and stack[-1] != pointer.adapter_id:
            # The pointer is the truth; a trail that disagrees (another database) is not followed.
            stack = [None, pointer.previous_adapter_id, pointer.adapter_id]
        below = [target for target in stack[:-1] if target is None or self._store.path(target).is_dir()]
        while below and below[-1] == now:
            below.pop()
        if not below:
            raise ConflictError("There is nothing to roll back: the base model answers and nothing answered before it.")
        return below[-1]
