"""Which adapter answers: activate, roll back, deactivate, and what is there to choose from."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, InvalidInputError, TmdeError
from tmde_core.lora.audit import AuditTrail, chain
from tmde_core.lora.base_match import require_same_base, served_model
from tmde_core.lora.compare import compared, training_of
from tmde_core.lora.probe import Answer, base_answer, probe
from tmde_core.lora.publish import publish
from tmde_core.lora.records import (
    ActivePointer,
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

TAG = re.compile(r"[A-Za-z0-9._-]{1,40}")
STABLE = "stable"
"""The tag that protects from deletion."""
MAX_TAGS = 20
HISTORY = 50
"""Entries of the audit trail that an adapter's details show."""

Benchmarks = Callable[[UUID, UUID], Awaitable[Any]]
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
        self.benchmarks: Benchmarks = _none
        """Compares the benchmark runs of two adapters; whoever has some puts it here."""
        self._probed: dict[tuple[str, str, str, int], Answer] = {}

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
        if not adapter.is_valid:
            return AdapterDetails(**known, history=history)
        manifest = await asyncio.to_thread(self.store.manifest, adapter_id)
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
        of_a, of_b = [await asyncio.to_thread(self.store.manifest, one) for one in (a, b)]
        trained = [await asyncio.to_thread(training_of, Path(one.path)) for one in (first, second)]
        found = compared(first, second, of_a, of_b, *trained)
        return msgspec.structs.replace(found, benchmark=await self.benchmarks(a, b))

    async def storage(self) -> StorageFigures:
        """What the adapters take of the disk."""
        adapters = await self.list()
        directory = self.store.directory if self.store.directory.is_dir() else self._settings.data_path
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
        version = self.store.version(adapter_id)
        reasons, size = await asyncio.to_thread(self.store.flaws, adapter_id)
        if reasons and version is not None and size:
            self.store.damaged[adapter_id] = (version, " ".join(reasons))
        else:
            self.store.damaged.pop(adapter_id, None)
        adapter = await self.get(adapter_id)
        files = len((await self.details(adapter_id)).files) if adapter.is_valid else 0
        return Verification(
            adapter_id=adapter_id,
            is_valid=not reasons,
            reasons=tuple(reasons),
            files=files,
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

        await asyncio.to_thread(self.store.edit, adapter_id, change)
        return await self.get(adapter_id)

    async def set_gate(self, adapter_id: UUID, gate: Gate, note: str = "") -> LoRAAdapter:
        """Record what the benchmark made of an adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound.
        """
        await asyncio.to_thread(
            self.store.edit, adapter_id, lambda manifest: msgspec.structs.replace(manifest, gate=gate)
        )
        log.info("lora.gate", adapter=str(adapter_id), gate=gate, note=note)
        return await self.get(adapter_id)

    async def delete(self, adapter_id: UUID, by: Trigger = "user") -> None:
        """Remove an adapter from the disk, at once and completely; what was done with it stays in the audit trail.

        Raises:
            NotFoundError: no such adapter.
            ConflictError: it is active, tagged `stable`, or a switch is under way.
            InsufficientStorageError: the disk is read-only.
        """
        async with self._switching():
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
            event = await self._audit.open(adapter_id, self.store.active_id(), by, "delete")
            try:
                await asyncio.shield(asyncio.to_thread(self.store.take_away, adapter_id))
            except BaseException as error:
                gone = not os.path.lexists(self.store.path(adapter_id))
                await asyncio.shield(self._audit.close(event, gone, None if gone else _reason(error)))
                raise
            await asyncio.shield(self._audit.close(event, True, note=f"{adapter.size_bytes:,} bytes freed."))
        await self._forget(str(adapter_id))
        log.info("lora.deleted", adapter=str(adapter_id), by=by)

    async def prune(self, keep: int, by: Trigger = "user", dry_run: bool = False) -> Adapters:
        """Delete all but the newest `keep` adapters; never the active one, the one before it, or one tagged `stable`.

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
        if not dry_run:
            for adapter in doomed:
                await self.delete(adapter.id, by)
        return doomed

    async def _kept(self) -> set[UUID]:
        """What pruning never touches: what answers, and what a rollback would go to."""
        pointer = None if self._pointer_is_damaged() else self.store.active()
        safe = {self.store.active_id(), pointer.previous_adapter_id if pointer else None}
        with suppress(ConflictError):
            safe.add(await self._previous())
        return {one for one in safe if one is not None}

    async def admit(self, staging: Path, manifest: Manifest, origin: str, by: Trigger = "user") -> LoRAAdapter:
        """Make what an import has built an adapter of this directory, with a row in the audit trail.

        Args:
            staging: a finished directory (see `publish`); it is gone afterwards.
            origin: where it came from, for the trail.

        Raises:
            AdapterInvalidError, ConflictError, InsufficientStorageError: see `publish`.
        """
        event = await self._audit.open(manifest.id, self.store.active_id(), by, "import")
        try:
            await asyncio.shield(asyncio.to_thread(publish, staging, self.store.directory, manifest))
        except BaseException as error:
            there = self.store.path(manifest.id).is_dir()
            await asyncio.shield(self._audit.close(event, there, None if there else _reason(error), origin))
            raise
        await asyncio.shield(self._audit.close(event, True, note=origin))
        return await self.get(manifest.id)

    async def _forget(self, adapter_id: str) -> None:
        """Let the runtime go of an adapter that is not there any more, if it is running."""
        role = self._settings.roles.proposer
        try:
            runtime = self._runtimes.made(role.runtime)
            if (await runtime.status()).state == "ready":
                await _unload(runtime, adapter_id)
        except TmdeError as error:
            log.info("lora.not_unloaded", adapter=adapter_id, error=error.detail)

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
            await self._switch(adapter_id, by, force, "activate")
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
            await self._switch(target, by, True, "rollback")
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
        async with self._switching():
            if self.store.active_id() is not None or self._pointer_is_damaged():
                await self._switch(None, by, False, "deactivate")

    async def settle(self) -> None:
        """Close the intents that a crash left open; whether they happened is read from the pointer.

        Does nothing while another process is switching: its intent is not abandoned.
        """
        if not self.store.directory.is_dir():
            return
        try:
            async with self._switching():
                for event in await self._audit.unsettled():
                    happened = self._happened(event)
                    message = None if happened else "TMDE ended before it was done; nothing changed."
                    await self._audit.close(event.id, happened, message)
                await asyncio.to_thread(self.store.sweep)
        except ConflictError:
            log.info("lora.settle_skipped", reason="another process is switching adapters")

    def _happened(self, event: LoRAActivationEvent) -> bool:
        """Whether an intent that a crash left open was carried out, by what is on the disk."""
        if event.operation in ("import", "delete") and event.adapter_id is not None:
            there = os.path.lexists(self.store.path(event.adapter_id))
            return there == (event.operation == "import")
        pointer = None if self._pointer_is_damaged() else self.store.active()
        return pointer is not None and pointer.adapter_id == event.adapter_id and pointer.since >= event.timestamp

    async def _switch(self, target: UUID | None, by: Trigger, force: bool, operation: Operation) -> None:
        """Intent, trial, pointer, success; or intent, failure and its reason, with everything as before."""
        before = self.store.active_id()
        event = await self._audit.open(target, before, by, operation)
        try:
            note = await self._try(target, force) if target is not None else None
            pointer = ActivePointer(adapter_id=target, previous_adapter_id=before, since=utc_now())
            await asyncio.to_thread(self.store.point_at, pointer)
        except BaseException as error:
            await asyncio.shield(self._audit.close(event, False, _reason(error)))
            raise
        await asyncio.shield(self._audit.close(event, True, note=note))
        log.info("lora.switched", adapter=str(target), previous=str(before), by=by)

    async def _try(self, adapter_id: UUID, force: bool) -> str | None:
        """Verify, load and probe; returns what is worth a note in the audit trail."""
        manifest = await asyncio.to_thread(self.store.manifest, adapter_id)
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
        # While the bytes are read, the base model gives the answer that the adapter's is compared with.
        await together(asyncio.to_thread(self.store.verified, adapter_id), self._base_answer(runtime, role.model))
        await self._trial(runtime, adapter_id, role.model)
        return await self._forced(adapter_id) if held_back else None

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
        reference = AdapterRef(id=str(adapter_id), directory=str(self.store.path(adapter_id)))
        try:
            await runtime.load_adapter(reference, model)
            await probe(runtime, reference, model, await self._base_answer(runtime, model))
        except BaseException as error:
            if adapter_id != self.store.active_id():
                await asyncio.shield(_unload(runtime, reference.id))
            if isinstance(error, AdapterInvalidError) or not isinstance(error, TmdeError):
                raise
            raise AdapterInvalidError(
                f"The adapter {adapter_id} could not be tried: {error.detail}", adapterId=str(adapter_id)
            ) from error

    async def _forced(self, adapter_id: UUID) -> str:
        await self.set_gate(adapter_id, "forced")
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


async def _none(_a: UUID, _b: UUID) -> None:
    return None


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


async def together(*work: Coroutine[Any, Any, Any]) -> None:
    """Do several things at once; when one fails the others are ended first, then its error is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
