"""Exports adapters as a stream, and imports archives, which are never trusted.

An import takes these steps:

1. Receive the archive into an unnamed temporary file.
2. Unpack it (`unpack`) and check its files (`check`).
3. Let a training backend's worker compare the adapter with its base model and create the GGUF form.
4. Publish the adapter in one rename.

Until the last step all files are in one staging directory. The directory is locked during the import, so that a
starting TMDE can tell a running import from the remains of a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, TooLargeError
from tmde_core.lora.archive.check import Checked, check
from tmde_core.lora.archive.layout import MAX_ARCHIVE_BYTES, ArchiveFormat, folder_name
from tmde_core.lora.archive.merged import MergeService
from tmde_core.lora.archive.pack import pack_archive, require_importable, stream_verified
from tmde_core.lora.archive.torch_file import TorchFile
from tmde_core.lora.archive.unpack import Unpacked, unpack
from tmde_core.lora.files.forms import GgufForms, lock_staging
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.service import LoraService
from tmde_core.models.belonging import note_base
from tmde_core.models.service import ModelService
from tmde_core.records.base import Record, utc_now
from tmde_core.records.lora import ActivationTrigger, LoRAAdapter, Manifest
from tmde_core.records.training import ConversionResult, Quantization
from tmde_core.sdk.adapters import GGUF_FILE, WEIGHTS_FILE, staging_directory
from tmde_core.sdk.safetensors_header import SafetensorsError, read_tensors
from tmde_core.storage.durable import storage_errors

log = structlog.get_logger(__name__)

T = TypeVar("T")

WRITE_BYTES = 1024 * 1024
"""Received pieces are collected and written in blocks of this size."""

REASONS_TOLD = 3
"""Number of reasons in the error's message; its field `reasons` has all of them."""


class Export(Record, frozen=True):
    """An exported file whose content is created while it is read."""

    filename: str
    media_type: str
    chunks: AsyncIterator[bytes]
    size_bytes: int | None = None


class ArchiveService:
    """Exports and imports adapters."""

    def __init__(
        self, lora: LoraService, store: AdapterStore, forms: GgufForms, merges: MergeService, models: ModelService
    ) -> None:
        self._lora = lora
        self._store = store
        self._forms = forms
        self._models = models
        self.merges = merges
        """Writes merged models to a place of the caller's choice."""

    # ----------------------------------------------------------------------------------------- export

    async def export(
        self,
        adapter_id: UUID,
        format: ArchiveFormat = "peft",  # noqa: A002 - the word for it
        *,
        quantization: Quantization = "base",
        force: bool = False,
    ) -> Export:
        """Return an adapter as one file, streamed in constant memory.

        Args:
            adapter_id: the adapter.
            format: what the file is. `merged-gguf` is a .tar with the merged model and its notes; the method returns
                when the model is written and compared, which takes a minute or more.
            quantization: how a merged model's weights are stored.
            force: export a merged model that lost too much.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is damaged, or its GGUF form is missing and cannot be created.
            UnprocessableError: the weights are too large for adapter_model.bin.
            TooLargeError: the archive would be larger than an import allows.
            TmdeError: a merged model cannot be made, see `MergeService.write`.
        """
        if format == "merged-gguf":
            filename, size, pieces = await self.merges.stream(adapter_id, quantization, force=force)
            return Export(filename, "application/x-tar", _threaded(pieces), size)
        manifest = await asyncio.to_thread(self._store.verify_files, adapter_id)
        directory, name = self._store.path(adapter_id), folder_name(adapter_id)
        if format == "gguf":
            manifest = await self._lora.ensure_gguf(manifest)
            if GGUF_FILE not in manifest.files:
                raise AdapterInvalidError(
                    f"The adapter {adapter_id} has no GGUF form, and its base model {manifest.base_model!r}, which making one needs, "
                    "is not here. Export it in the format peft, or put the base model into the models directory.",
                    adapterId=str(adapter_id),
                )
            path = directory / GGUF_FILE
            chunks = stream_verified(path, manifest.files[GGUF_FILE])
            return Export(f"{name}.gguf", "application/octet-stream", _threaded(chunks), path.stat().st_size)
        if format == "peft":
            require_importable(directory, manifest)
        pickle = await asyncio.to_thread(_torch_file, directory / WEIGHTS_FILE) if format == "peft-bin" else None
        suffix = "-bin" if pickle else ""
        return Export(
            f"{name}{suffix}.tar.gz", "application/gzip", _threaded(pack_archive(directory, manifest, pickle))
        )

    # ----------------------------------------------------------------------------------------- import

    async def import_archive(
        self,
        chunks: AsyncIterator[bytes],
        by: ActivationTrigger = "user",
        *,
        again: bool = True,
        base: str | None = None,
    ) -> LoRAAdapter:
        """Import an archive. If the import fails, no file of the archive is kept.

        Args:
            chunks: the content of the archive.
            by: who asked for it, for the audit trail.
            again: import the adapter also if it is here already. The result's `twin_of` then names the first one.
            base: the base model to which a person says that the adapter belongs; None: what the archive says.

        Raises:
            NotFoundError: there is no base model called `base`.
            ConflictError: the adapter is here already, and `again` is False. The context has `twinOf`.
            InvalidInputError: the file is not a gzipped tar archive.
            TooLargeError: the archive is larger than an adapter may be.
            AdapterInvalidError: the archive is malicious, damaged or unsupported; `reasons` has every reason.
            InsufficientStorageError: no space.
        """
        said = (await self._models.find(base)).name if base is not None else None
        async with lock_staging(self._store.directory) as staging:
            with storage_errors(self._store.directory), _unnamed(staging) as file:
                await _receive(chunks, file)
                unpacked, checked = await _finished(lambda stopped: _examine(file, staging, stopped))
            reasons = [*unpacked.reasons, *checked.reasons]
            form = await self._forms.make(staging, said or checked.base_model) if checked.shapes_sound else None
            if form is not None:
                reasons += form.reasons
            if reasons:
                raise make_refusal(reasons)
            twin = await asyncio.to_thread(self._store.find_twin, staging)
            if twin is not None and not again:
                raise ConflictError(
                    f"This adapter is here already: {twin.id} has the same weights (SHA-256 {twin.sha256[:12]}…) and the same "
                    "configuration. Nothing was imported.",
                    twinOf=str(twin.id),
                )
            adapter = await self._admitted(staging, unpacked, checked, form, by, said)
            return adapter if twin is None else msgspec.structs.replace(adapter, twin_of=twin.id)

    async def _admitted(
        self,
        staging: Path,
        unpacked: Unpacked,
        checked: Checked,
        form: ConversionResult | None,
        by: ActivationTrigger,
        said: str | None,
    ) -> LoRAAdapter:
        """Publish a valid adapter under its own id, or under a new id if its own id is taken."""
        told = checked.manifest
        manifest = told or Manifest(id=uuid4(), created_at=utc_now(), base_model=checked.base_model)
        manifest = msgspec.structs.replace(manifest, gate="candidate", files={}, size_bytes=0)
        if said is not None:
            manifest = note_base(manifest, said)
        origin = _origin(unpacked, checked, form, (staging / GGUF_FILE).is_file())
        if not self._is_taken(manifest.id):
            with contextlib.suppress(ConflictError):
                return await self._admit(staging, manifest, origin, by)
        lineage = {**manifest.lineage, "originId": str(manifest.id)}
        renamed = msgspec.structs.replace(manifest, id=uuid4(), lineage=lineage)
        return await self._admit(staging, renamed, f"{origin}; its id {manifest.id} was taken", by)

    async def _admit(self, staging: Path, manifest: Manifest, origin: str, by: ActivationTrigger) -> LoRAAdapter:
        adapter = await self._lora.publish_import(staging, manifest, origin, by)
        log.info("archive.imported", adapter=str(manifest.id), origin=origin, by=by)
        return adapter

    def _is_taken(self, adapter_id: UUID) -> bool:
        """Return whether an adapter has the id, or a training run is building an adapter with the id."""
        directory = self._store.directory
        return os.path.lexists(directory / str(adapter_id)) or os.path.lexists(staging_directory(directory, adapter_id))


def make_refusal(reasons: list[str]) -> AdapterInvalidError:
    """Return the error for a rejected archive, with all reasons."""
    shown = " ".join(reasons[:REASONS_TOLD])
    more = f" And {len(reasons) - REASONS_TOLD} more." if len(reasons) > REASONS_TOLD else ""
    return AdapterInvalidError(f"The archive was refused and nothing was kept. {shown}{more}", reasons=reasons)


def _origin(unpacked: Unpacked, checked: Checked, form: ConversionResult | None, has_form: bool) -> str:
    """Return the origin of an import and what was left out, as a sentence for the audit trail."""
    parts = ["from an archive of TMDE" if checked.manifest else "from an archive of another tool"]
    if unpacked.ignored:
        shown = ", ".join(name[:60] for name in unpacked.ignored[:5])
        more = f" and {len(unpacked.ignored) - 5} more" if len(unpacked.ignored) > 5 else ""
        parts.append(f"passed over {shown}{more}")
    if checked.manifest and checked.manifest.gate != "candidate":
        parts.append(f"its gate was {checked.manifest.gate!r} there")
    if not has_form:
        why = form.note if form else f"its base model {checked.base_model!r} is not here"
        parts.append(f"without GGUF form: {why}")
    return "; ".join(parts)


def _torch_file(weights: Path) -> TorchFile:
    try:
        return TorchFile(weights, read_tensors(weights))
    except SafetensorsError as error:
        raise AdapterInvalidError(f"{WEIGHTS_FILE} cannot be read: {error}.") from None


# ---------------------------------------------------------------------------------- files and threads


def _unnamed(directory: Path) -> IO[bytes]:
    """Open a temporary file without a name. The kernel deletes it when it is closed, even after a crash."""
    return tempfile.TemporaryFile(dir=directory)


async def _receive(chunks: AsyncIterator[bytes], file: IO[bytes]) -> None:
    size, ready = 0, bytearray()
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_ARCHIVE_BYTES:
            raise TooLargeError(
                f"The archive has more than {MAX_ARCHIVE_BYTES // 1024**3} GiB, which no adapter has.",
                limit=MAX_ARCHIVE_BYTES,
            )
        ready += chunk
        if len(ready) >= WRITE_BYTES:
            await asyncio.to_thread(file.write, bytes(ready))
            ready.clear()
    await asyncio.to_thread(file.write, bytes(ready))
    file.seek(0)


def _examine(file: IO[bytes], staging: Path, stopped: Callable[[], bool]) -> tuple[Unpacked, Checked]:
    unpacked = unpack(file, staging, stopped)
    return unpacked, check(staging, unpacked)


async def _finished(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run a function in a thread, and wait until it has finished even if this task is cancelled.

    The wait ensures that the staging directory is not deleted while the thread still writes to it.

    Args:
        work: the function. Its argument is a function that returns whether the work should stop.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop.is_set))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({task})
        task.exception()  # retrieve the error, or asyncio logs "exception was never retrieved"
        raise


async def _threaded(chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a blocking iterator, without blocking the event loop.

    Each piece is read in a thread when the consumer asks for it, so a slow consumer slows the iterator down. When the
    consumer stops, the iterator is closed.
    """
    step: asyncio.Future[bytes] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, chunks, b""))
            piece = await asyncio.shield(step)
            if not piece:
                return
            yield piece
    finally:
        if step is not None:
            await asyncio.wait({step})
            step.exception()
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
