"""Lists, compares, tags, deletes, activates and rolls back adapters."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, InvalidInputError, NotFoundError
from tmde_core.lora.activation.audit import AuditTrail, build_rollback_chain
from tmde_core.lora.activation.intents import Intents
from tmde_core.lora.activation.switch import AdapterSwitcher
from tmde_core.lora.compare import compare_adapters, read_training_args
from tmde_core.lora.files.forms import GgufForms
from tmde_core.lora.files.lease import Lease, acquire_lease, is_leased, lock_for_deletion
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.naming import check_name, make_name
from tmde_core.models.belonging import note_base
from tmde_core.models.service import find_served_model
from tmde_core.observers import Publish
from tmde_core.records.benchmark import RunComparison
from tmde_core.records.chat import AdapterRef
from tmde_core.records.lora import (
    MAX_TAGS,
    STABLE,
    TAG,
    ActivationTrigger,
    AdapterBenchmark,
    AdapterComparison,
    AdapterDetails,
    GateStatus,
    LiveAt,
    LoRAActivationEvent,
    LoRAAdapter,
    Manifest,
    Operation,
    StorageFigures,
    Verification,
    full_name,
)
from tmde_core.sdk.events import AdapterActivated, AdapterDamaged
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

HISTORY = 50
"""Number of audit trail entries in an adapter's details."""
LEASE_PAUSE_SECONDS = 0.02
"""Pause between two attempts to get a lease while a process checks whether the adapter may be deleted."""

Names = Callable[[], Awaitable[dict[UUID, str]]]
Scores = Callable[[], Awaitable[dict[UUID, AdapterBenchmark]]]
Benchmarks = Callable[[UUID, UUID], Awaitable[RunComparison | None]]
Adapters = list[LoRAAdapter]
Events = list[LoRAActivationEvent]
"""Aliases, because the method `list` of the class below hides the type `list`."""


class LoraService:
    """Manages the adapters of one data directory and selects the active one."""

    def __init__(
        self,
        store: AdapterStore,
        audit: AuditTrail,
        forms: GgufForms,
        workspace: Workspace,
        benchmarks: Benchmarks,
        publish: Publish,
        run_names: Names,
        scores: Scores,
    ) -> None:
        """Create the service.

        Args:
            store: the adapters on disk.
            audit: the audit trail.
            forms: creates missing GGUF forms.
            workspace: the settings and the runtimes.
            benchmarks: compares the newest benchmark runs of two adapters.
            publish: publishes an event for each switch that this process makes.
            run_names: returns the names of training runs, which their adapters have too.
            scores: returns what the benchmark says about each adapter.
        """
        self._store = store
        self._audit = audit
        self._forms = forms
        self._workspace = workspace
        self._benchmarks = benchmarks
        self._publish = publish
        self._run_names = run_names
        self._scores = scores
        self._switch = AdapterSwitcher(workspace, store, audit, forms)
        self._intents = Intents(store, audit, self._switch)
        self._noted: dict[UUID, tuple[bool, str]] = {}
        """Adapter → whether it was active, and the damage that was published."""

    # ------------------------------------------------------------------------------------- reading

    async def list(self, tag: str | None = None, valid: bool | None = None) -> Adapters:
        """Return all adapters, newest first.

        Args:
            tag: return only adapters with this tag.
            valid: return only valid adapters (True) or only invalid ones (False).
        """
        found = await self._described(await asyncio.to_thread(self._store.list))
        return [
            adapter
            for adapter in found
            if (tag is None or tag in adapter.tags) and (valid is None or adapter.is_valid == valid)
        ]

    async def get(self, adapter_id: UUID) -> LoRAAdapter:
        """Return one adapter, valid or not.

        Raises:
            NotFoundError: no adapter has this id.
        """
        (found,) = await self._described([await asyncio.to_thread(self._store.get, adapter_id)])
        return found

    async def find_full_names(self, adapter_ids: Iterable[UUID]) -> dict[UUID, str]:
        """Return `Fractions (1a2b3c4d)` for each id: the name of the adapter, or of the run that was to create it.

        An id without a name gets the short id, so this works for deleted adapters, too.
        """
        wanted = set(adapter_ids)
        if not wanted:
            return {}
        names = await self._run_names()
        adapters = await asyncio.to_thread(self._find, wanted)
        names |= {one.id: _name(one, names) for one in adapters}
        return {one: full_name(one, names.get(one)) for one in wanted}

    async def find_full_name(self, adapter_id: UUID) -> str:
        """Return `Fractions (1a2b3c4d)`; see `find_full_names`."""
        return (await self.find_full_names((adapter_id,)))[adapter_id]

    def _find(self, wanted: Iterable[UUID]) -> Adapters:
        found = []
        for one in wanted:
            with suppress(NotFoundError):
                found.append(self._store.get(one))
        return found

    async def _described(self, adapters: Adapters) -> Adapters:
        """Return the adapters with their names, what the benchmark says about them, and whether they can answer."""
        if not adapters:
            return adapters
        names, scores = await self._run_names(), await self._scores()
        if (active := self.get_active_ref()) is not None:
            await self._workspace.examine_base(active)
        idle = self._workspace.find_why_idle(active) is not None
        return [
            msgspec.structs.replace(
                one,
                name=_name(one, names),
                benchmark=scores.get(one.id),
                is_answering=one.is_answering and not idle,
            )
            for one in adapters
        ]

    async def rename(self, adapter_id: UUID, name: str) -> LoRAAdapter:
        """Give an adapter a name of its own.

        Raises:
            NotFoundError: no such adapter.
            InvalidInputError: the name is empty, too long, or has control characters.
            AdapterInvalidError: the adapter is invalid.
        """
        plain = check_name(name)
        await asyncio.to_thread(
            self._store.edit, adapter_id, lambda manifest: msgspec.structs.replace(manifest, name=plain)
        )
        return await self.get(adapter_id)

    async def manifest(self, adapter_id: UUID) -> Manifest:
        """Return the manifest of a valid adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid; the message gives the reason.
        """
        return await asyncio.to_thread(self._store.read_manifest, adapter_id)

    async def verified(self, adapter_id: UUID) -> Manifest:
        """Read every file, compare its SHA-256 with the manifest, and return the manifest.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid; the message names the files and the reasons.
        """
        return await asyncio.to_thread(self._store.verify_files, adapter_id)

    def reference(self, adapter_id: UUID) -> AdapterRef:
        """Return the reference by which runtimes load an adapter."""
        return AdapterRef(id=str(adapter_id), directory=str(self._store.path(adapter_id)))

    async def get_active(self) -> LoRAAdapter | None:
        """Return the active adapter, or None if there is none.

        The base model answers also if the active adapter is damaged, or if the Proposer's runtime serves no adapters: then
        `is_answering` is False.
        """
        active = self._store.active_id()
        return await self.get(active) if active else None

    def find_active_flaw(self) -> str | None:
        """Return why the active adapter cannot answer, so that the base model does; None if it can, or if there is none.

        The call is cheap: it looks at the sizes of a few files. The first call for a flaw publishes `AdapterDamaged`.
        """
        active = self._store.active_id()
        try:
            adapter = self._store.get(active) if active else None
        except NotFoundError:
            return None
        if adapter is None or adapter.is_valid:
            return None
        if (damage := self.note_damage(adapter)) is not None:
            self._publish(damage)
        return adapter.invalid_reason

    def note_damage(self, adapter: LoRAAdapter) -> AdapterDamaged | None:
        """Return the event to publish for a damaged adapter; None if this process has noted the damage before."""
        reason = adapter.invalid_reason or ""
        if self._noted.get(adapter.id) == (adapter.is_active, reason):
            return None
        self._noted[adapter.id] = (adapter.is_active, reason)
        log.error("lora.damaged", adapter=str(adapter.id), reason=reason)
        return AdapterDamaged(adapter_id=adapter.id, is_active=adapter.is_active, reason=reason)

    async def acquire_active(self) -> tuple[AdapterRef | None, Lease]:
        """Return a reference to the active adapter (None: the base model) and a lease that prevents its deletion.

        If the adapter is damaged, the lease's `flaw` says why it cannot answer.
        """
        while True:
            reference = self.get_active_ref()
            with suppress(NotFoundError):  # the adapter was just deactivated and deleted: read the pointer again
                lease = await self.acquire_lease(reference)
                lease.flaw = self.find_active_flaw() if reference else None
                return reference, lease

    async def acquire_lease(self, reference: AdapterRef | None) -> Lease:
        """Prevent every process from deleting an adapter until the returned lease is released.

        Args:
            reference: the adapter. Pass None for the base model; its lease does nothing.

        Raises:
            NotFoundError: the adapter does not exist any more.
        """
        if reference is None:
            return Lease()
        while True:
            if (lease := acquire_lease(Path(reference.directory))) is not None:
                return lease
            await asyncio.sleep(LEASE_PAUSE_SECONDS)

    def get_active_ref(self) -> AdapterRef | None:
        """Return a reference to the active adapter, or None if the base model answers.

        The call is cheap: it reads one file only if the file has changed.
        """
        active = self._store.active_id()
        return self.reference(active) if active else None

    def get_answering_ref(self) -> AdapterRef | None:
        """Return a reference to the adapter that answers, or None if the base model does: see `find_active_flaw`."""
        return None if self.find_active_flaw() else self.get_active_ref()

    async def list_events(self, limit: int = 50, offset: int = 0) -> Events:
        """Return entries of the audit trail, newest first."""
        return await self._audit.events(limit, offset)

    async def count_events(self) -> int:
        """Return the number of entries in the audit trail."""
        return await self._audit.count()

    async def find_active_at(self, moment: datetime) -> LiveAt:
        """Return the adapter that was active at a moment."""
        return await self._audit.live_at(moment)

    async def get_details(self, adapter_id: UUID) -> AdapterDetails:
        """Return one adapter, valid or not, with its lineage, training configuration and audit trail entries.

        Raises:
            NotFoundError: no adapter has this id.
        """
        adapter = await self.get(adapter_id)
        history = tuple(await self._audit.events(HISTORY, adapter_id=adapter_id))
        twins = {one.id: one.twin_of for one in await self.list()}
        known = msgspec.structs.asdict(msgspec.structs.replace(adapter, twin_of=twins.get(adapter_id)))
        try:
            manifest = await asyncio.to_thread(self._store.read_manifest, adapter_id)
        except AdapterInvalidError:
            return AdapterDetails(**known, history=history)
        return AdapterDetails(
            **known,
            base_model_sha256=manifest.base_model_sha256,
            tokenizer_sha256=manifest.tokenizer_sha256,
            chat_template_sha256=manifest.chat_template_sha256,
            dataset_sha256=manifest.dataset_sha256,
            lineage=manifest.lineage,
            training=await asyncio.to_thread(read_training_args, Path(adapter.path)),
            files=manifest.files,
            history=history,
        )

    async def compare(self, a: UUID, b: UUID) -> AdapterComparison:
        """Return what changed from adapter A to adapter B: configuration, data, metrics and benchmark results.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: one of the two adapters is invalid.
        """
        first, second = await self.get(a), await self.get(b)
        of_a, of_b = [await asyncio.to_thread(self._store.read_manifest, one) for one in (a, b)]
        trained = [await asyncio.to_thread(read_training_args, Path(one.path)) for one in (first, second)]
        found = compare_adapters(first, second, of_a, of_b, *trained)
        return msgspec.structs.replace(found, benchmark=await self._benchmarks(a, b))

    async def measure_storage(self) -> StorageFigures:
        """Return how much disk space the adapters use and how much is free."""
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
        reasons, size = await asyncio.to_thread(self._store.find_flaws, adapter_id)
        adapter = await self.get_details(adapter_id)
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
        """Add tags to an adapter and remove tags from it. The tag `stable` protects the adapter from deletion.

        Raises:
            NotFoundError: no such adapter.
            InvalidInputError: a tag is not 1–40 characters out of letters, digits, `-`, `_` and `.`, or the adapter
                would have more than 20 tags.
            AdapterInvalidError: the adapter is invalid.
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

    async def set_gate(self, adapter_id: UUID, gate: GateStatus, note: str = "") -> LoRAAdapter:
        """Store the benchmark's decision about an adapter in its manifest.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid.
        """
        await asyncio.to_thread(
            self._store.edit, adapter_id, lambda manifest: msgspec.structs.replace(manifest, gate=gate)
        )
        log.info("lora.gate", adapter=str(adapter_id), gate=gate, note=note)
        return await self.get(adapter_id)

    async def delete(self, adapter_id: UUID, by: ActivationTrigger = "user") -> None:
        """Delete an adapter from the disk. Its entries in the audit trail remain.

        Raises:
            NotFoundError: no such adapter.
            ConflictError: the adapter is active, tagged `stable` or leased by a process, or a switch is in progress.
            InsufficientStorageError: the disk is read-only.
        """
        async with self._switch.lock():
            adapter = await self.get(adapter_id)
            if adapter.is_active:
                now = "is active" if adapter.is_valid else "is the active one, although it is damaged"
                raise ConflictError(
                    f"The adapter {adapter_id} {now}. Roll back, deactivate or activate another one, then delete it."
                )
            if STABLE in adapter.tags and adapter.is_valid:  # the tag of a damaged adapter cannot be removed
                raise ConflictError(
                    f"The adapter {adapter_id} is tagged `{STABLE}`, which protects it. Remove that tag first.",
                    tag=STABLE,
                )
            with lock_for_deletion(Path(adapter.path)):
                await self._intents.remove(adapter, by)
        await self._switch.unload(str(adapter_id))
        log.info("lora.deleted", adapter=str(adapter_id), by=by)

    async def prune(self, keep: int, by: ActivationTrigger = "user", dry_run: bool = False) -> Adapters:
        """Delete all valid adapters except the newest `keep`.

        These adapters are never deleted: the active one, the target of a rollback, those tagged `stable`, and those
        in use.

        Args:
            keep: how many of the newest valid adapters to keep.
            by: who asked for it, for the audit trail.
            dry_run: return the adapters without deleting them.

        Returns:
            The adapters that were deleted (or would be, with `dry_run`), newest first.

        Raises:
            InvalidInputError: `keep` is negative.
            ConflictError: a switch is in progress.
        """
        if keep < 0:
            raise InvalidInputError("keep: must be 0 or more.", field="keep", minimum=0)
        safe = await self._list_protected()
        sound = await self.list(valid=True)
        doomed = [one for one in sound[keep:] if one.id not in safe and STABLE not in one.tags]
        doomed = [one for one in doomed if not is_leased(Path(one.path))]
        if not dry_run:
            for adapter in doomed:
                await self.delete(adapter.id, by)
        return doomed

    async def _list_protected(self) -> set[UUID]:
        """Return the ids that pruning never deletes: the active adapter and the targets of a rollback."""
        pointer = self._store.read_pointer()
        safe = {self._store.active_id(), pointer.previous_adapter_id if pointer else None}
        with suppress(ConflictError):
            safe.add(await self._find_previous())
        return {one for one in safe if one is not None}

    async def ensure_gguf(self, manifest: Manifest, base_path: str | None = None) -> Manifest:
        """Create the adapter's GGUF form if it is missing, and return the manifest.

        The GGUF form is missing if the base model was not installed at import time. It is created once the base model
        is available; until then the manifest is returned without it.

        Raises:
            AdapterInvalidError: the adapter is damaged, does not fit its base model, or cannot be converted.
            InsufficientStorageError: no space.
        """
        await self._forms.ensure_gguf(manifest, base_path)
        return await asyncio.to_thread(self._store.read_manifest, manifest.id)

    async def publish_import(
        self, staging: Path, manifest: Manifest, origin: str, by: ActivationTrigger = "user"
    ) -> LoRAAdapter:
        """Publish an imported adapter and write an entry to the audit trail.

        Args:
            staging: the finished directory (see `publish`). It does not exist any more after the call.
            manifest: the manifest of the new adapter.
            origin: where the adapter came from, for the audit trail.
            by: who asked for the import.

        Raises:
            AdapterInvalidError: see `publish`.
            ConflictError: see `publish`.
            InsufficientStorageError: see `publish`.
        """
        await self._intents.admit(staging, manifest, origin, by)
        return await self.get(manifest.id)

    # ----------------------------------------------------------------------------------- switching

    async def activate(
        self, adapter_id: UUID, by: ActivationTrigger = "user", force: bool = False, base: str | None = None
    ) -> LoRAAdapter:
        """Activate an adapter from the next debate on. If activation fails, nothing has changed.

        Args:
            adapter_id: the adapter.
            by: who asked for it, for the audit trail.
            force: activate the adapter even if the gate holds it back. The audit trail records this.
            base: the base model to which a person says that the adapter belongs. It is noted if the sizes fit.

        Raises:
            NotFoundError: no such adapter, or no base model of that name.
            ConflictError: its base model differs, the gate holds it back, or another switch is in progress.
            AdapterInvalidError: its files are damaged, the runtime rejects it, or the probe failed.
        """
        async with self._switch.lock():
            await self.get(adapter_id)
            if base is not None:
                await self._note_base(adapter_id, base)
            await self._switch_to(adapter_id, by, force, "activate")
        return await self.get(adapter_id)

    async def _note_base(self, adapter_id: UUID, base: str) -> None:
        """Note in an adapter's manifest that a person says to which base model it belongs."""
        found = await self._workspace.models.find(base)
        manifest = note_base(await self.manifest(adapter_id), found.name)
        role = self._workspace.settings.roles.proposer
        runtime = await self._workspace.runtimes.get(role.runtime)
        served = find_served_model(await runtime.models(), role.model, role.runtime)
        await self._workspace.models.require_same_base(self._store.path(adapter_id), manifest, served)
        await asyncio.to_thread(self._store.edit, adapter_id, lambda before: note_base(before, found.name))

    async def rollback(self, adapter_id: UUID | None = None, by: ActivationTrigger = "rollback") -> LoRAAdapter | None:
        """Switch back to the previously active adapter, or to `adapter_id` if it is given.

        Returns:
            The adapter that is active now; None is the base model.

        Raises:
            NotFoundError: no adapter has the id `adapter_id`.
            ConflictError: there is no earlier adapter, or another switch is in progress.
            AdapterInvalidError: the target cannot be used any more. Nothing has changed.
        """
        async with self._switch.lock():
            if adapter_id is not None:
                await self.get(adapter_id)
                target: UUID | None = adapter_id
            else:
                target = await self._find_previous()
            # The gate is ignored: an adapter that was active before may be activated again.
            await self._switch_to(target, by, True, "rollback")
        return await self.get_active()

    async def find_rollback_target(self) -> UUID | None:
        """Return the id of the adapter that a rollback would activate; None is the base model.

        Raises:
            ConflictError: there is nothing to roll back to.
        """
        return await self._find_previous()

    async def deactivate(self, by: ActivationTrigger = "user") -> None:
        """Deactivate the active adapter. The base model answers from the next debate on.

        Raises:
            ConflictError: another switch is in progress.
        """
        async with self._switch.lock():
            if self._store.active_id() is not None or self._store.is_pointer_broken():
                await self._switch_to(None, by, False, "deactivate")

    async def _switch_to(self, target: UUID | None, by: ActivationTrigger, force: bool, operation: Operation) -> None:
        """Activate `target` (None: the base model) and publish an event. Call only within `Switch.lock`."""
        before = self._store.active_id()
        await self._switch.switch_to(target, by, force, operation)
        self._publish(AdapterActivated(adapter_id=target, previous_adapter_id=before, triggered_by=by))

    async def settle(self) -> None:
        """Close the intents that a crash left open, and delete unfinished files.

        The files on disk show whether an intent was carried out. Skip if another process is switching adapters; its
        intent is still open.
        """
        if not self._store.directory.is_dir():
            return
        try:
            async with self._switch.lock():
                await self._intents.settle()
                await self._switch.refresh_copies(wait=False)
                await asyncio.to_thread(self._store.sweep)
        except ConflictError:
            log.info("lora.settle_skipped", reason="another process is switching adapters")

    async def _find_previous(self) -> UUID | None:
        """Return the adapter that was active before the current one; skip adapters that were deleted."""
        stack = build_rollback_chain(await self._audit.history())
        pointer = self._store.read_pointer()
        now = self._store.active_id()
        if pointer is not None and stack[-1] != pointer.adapter_id:
            # The pointer decides. The audit trail differs if the database was replaced; then use the pointer alone.
            stack = [None, pointer.previous_adapter_id, pointer.adapter_id]
        below = [target for target in stack[:-1] if target is None or self._store.path(target).is_dir()]
        while below and below[-1] == now:
            below.pop()
        if not below:
            raise ConflictError(await self._describe_bottom(now))
        return below[-1]

    async def _describe_bottom(self, now: UUID | None) -> str:
        """Return why there is nothing to roll back to, and which adapter answered last, if any."""
        who = "the base model" if now is None else f"the adapter {await self.find_full_name(now)}"
        before = [one.adapter_id for one in await self._audit.history() if one.adapter_id not in (None, now)]
        if not before:
            return f"There is nothing to roll back: {who} answers, and no other version ever answered."
        there = [one for one in before if self._store.path(one).is_dir()]
        last = ""
        if there:
            last = f" The adapter {await self.find_full_name(there[-1])} answered last; activate it to use it again."
        return f"There is nothing to roll back any further: {who} answers, and every activation has been undone.{last}"


def _name(adapter: LoRAAdapter, runs: Mapping[UUID, str]) -> str:
    """Return what people call the adapter: its own name, that of its training run, or one made from the date."""
    return adapter.name or runs.get(adapter.id) or make_name(adapter)
