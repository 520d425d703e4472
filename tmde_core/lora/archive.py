"""Adapters carried away and brought in: archives written as a stream, and read as if an enemy had made them.

An import is received into a file without a name, taken apart by `unpack`, looked through by `archive_check`, compared with its base
model and given its served form by a training backend's worker, and published in one rename. Everything lies in one staging directory
until then, which is locked while the import lives, so that a start of TMDE knows what a crash has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TypeVar
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.errors import AdapterInvalidError, ConflictError, InsufficientStorageError, TmdeError, TooLargeError
from tmde_core.lora.archive_check import Checked, check
from tmde_core.lora.archive_layout import MAX_ARCHIVE_BYTES, Format, folder_of
from tmde_core.lora.pack import checked_file, packed
from tmde_core.lora.publish import GGUF_FILE, WEIGHTS_FILE, staging_directory
from tmde_core.lora.records import LoRAAdapter, Manifest, Trigger
from tmde_core.lora.safetensors_header import SafetensorsError, read_tensors
from tmde_core.lora.service import LoraService
from tmde_core.lora.torch_file import TorchFile
from tmde_core.lora.unpack import Unpacked, unpack
from tmde_core.plugins import Plugins
from tmde_core.ports import ConvertingBackend, ServedForm, WorkerCommand
from tmde_core.record import Record, from_json, utc_now
from tmde_core.settings import Settings
from tmde_core.storage.durable import storage_errors

log = structlog.get_logger(__name__)

T = TypeVar("T")

WRITE_BYTES = 1024 * 1024
"""Received pieces are written together in blocks of this size."""

CONVERSION_SECONDS = 600.0
"""A second for a small adapter; gigabytes are copied once."""

REASONS_TOLD = 3
"""In the sentence; `reasons` has all of them."""


class Export(Record, frozen=True):
    """A file that is being written while it is read."""

    filename: str
    media_type: str
    chunks: AsyncIterator[bytes]
    size_bytes: int | None = None


class ArchiveService:
    """Export and import of adapters."""

    def __init__(self, settings: Settings, plugins: Plugins, lora: LoraService) -> None:
        self._settings = settings
        self._plugins = plugins
        self._lora = lora

    # ----------------------------------------------------------------------------------- carried away

    async def export(self, adapter_id: UUID, format: Format = "peft") -> Export:  # noqa: A002 - the word for it
        """An adapter as one file, streamed in constant memory.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: its files are damaged, or it has no GGUF form.
            UnprocessableError: too large for adapter_model.bin.
        """
        manifest = await asyncio.to_thread(self._lora.store.verified, adapter_id)
        directory, name = self._lora.store.path(adapter_id), folder_of(adapter_id)
        if format == "gguf":
            if GGUF_FILE not in manifest.files:
                raise AdapterInvalidError(
                    f"The adapter {adapter_id} has no GGUF form. Export it in the format peft.",
                    adapterId=str(adapter_id),
                )
            path = directory / GGUF_FILE
            chunks = checked_file(path, manifest.files[GGUF_FILE])
            return Export(f"{name}.gguf", "application/octet-stream", _threaded(chunks), path.stat().st_size)
        pickle = await asyncio.to_thread(_torch_file, directory / WEIGHTS_FILE) if format == "peft-bin" else None
        suffix = "-bin" if pickle else ""
        return Export(f"{name}{suffix}.tar.gz", "application/gzip", _threaded(packed(directory, manifest, pickle)))

    # ------------------------------------------------------------------------------------ brought in

    async def import_archive(self, chunks: AsyncIterator[bytes], by: Trigger = "user") -> LoRAAdapter:
        """Take in an archive, whole or not at all.

        Raises:
            InvalidInputError: no archive.
            TooLargeError: larger than an adapter may be.
            AdapterInvalidError: hostile or damaged; `reasons` has every reason. Nothing is left behind.
            InsufficientStorageError: no space.
        """
        async with self._staging() as staging:
            with storage_errors(self._lora.store.directory), _unnamed(staging) as file:
                await _receive(chunks, file)
                unpacked, checked = await _finished(lambda stopped: _examine(file, staging, stopped))
            reasons = [*unpacked.reasons, *checked.reasons]
            form = await self._served_form(staging, checked.base_model) if checked.shapes_sound else None
            if form is not None:
                reasons += form.reasons
            if reasons:
                raise refused(reasons)
            return await self._admitted(staging, unpacked, checked, form, by)

    @asynccontextmanager
    async def _staging(self) -> AsyncIterator[Path]:
        """A directory of one's own on the adapters' filesystem; whatever is left in it afterwards goes."""
        path, lock = await asyncio.to_thread(_locked_directory, self._lora.store.directory)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)

    async def _served_form(self, staging: Path, base_model: str) -> ServedForm | None:
        """What the first backend that knows the base model says; None when none does."""
        for descriptor in self._plugins.backends:
            try:
                command = await asyncio.to_thread(self._conversion, descriptor.name, staging, base_model)
            except Exception as error:  # a plugin's own defect must not hide the other backends
                log.warning("archive.backend_failed", backend=descriptor.name, error=f"{type(error).__name__}: {error}")
                continue
            if command is not None:
                self._must_have_room(staging)
                form = await _run(command)
                if form.reasons:  # perhaps because the disk was filled meanwhile
                    self._must_have_room(staging)
                return form
        return None

    def _must_have_room(self, staging: Path) -> None:
        """The form is as large as the weights at most; as much again is left to others."""
        needed = (staging / WEIGHTS_FILE).stat().st_size * 2
        if shutil.disk_usage(staging).free < needed:
            raise InsufficientStorageError(
                f"The disk that holds {self._lora.store.directory} is almost full; this adapter needs {needed:,} bytes more. "
                "Free some space; nothing was lost."
            )

    def _conversion(self, backend: str, staging: Path, base_model: str) -> WorkerCommand | None:
        made = self._plugins.backends.get(backend).create(self._settings.data_path)
        return made.convert(staging, base_model) if isinstance(made, ConvertingBackend) else None

    async def _admitted(
        self, staging: Path, unpacked: Unpacked, checked: Checked, form: ServedForm | None, by: Trigger
    ) -> LoRAAdapter:
        """Publish what has been found sound, under its own id if that is free."""
        told = checked.manifest
        manifest = told or Manifest(id=uuid4(), created_at=utc_now(), base_model=checked.base_model)
        manifest = msgspec.structs.replace(manifest, gate="candidate", files={}, size_bytes=0)
        origin = _origin(unpacked, checked, form, (staging / GGUF_FILE).is_file())
        if not self._is_taken(manifest.id):
            with contextlib.suppress(ConflictError):
                return await self._admit(staging, manifest, origin, by)
        lineage = {**manifest.lineage, "originId": str(manifest.id)}
        renamed = msgspec.structs.replace(manifest, id=uuid4(), lineage=lineage)
        return await self._admit(staging, renamed, f"{origin}; its id {manifest.id} was taken", by)

    async def _admit(self, staging: Path, manifest: Manifest, origin: str, by: Trigger) -> LoRAAdapter:
        adapter = await self._lora.admit(staging, manifest, origin, by)
        log.info("archive.imported", adapter=str(manifest.id), origin=origin, by=by)
        return adapter

    def _is_taken(self, adapter_id: UUID) -> bool:
        """Whether an adapter has the id, or will: a training run builds it."""
        directory = self._lora.store.directory
        return os.path.lexists(directory / str(adapter_id)) or os.path.lexists(staging_directory(directory, adapter_id))


def refused(reasons: list[str]) -> AdapterInvalidError:
    """The error that says why an archive was not taken."""
    shown = " ".join(reasons[:REASONS_TOLD])
    more = f" And {len(reasons) - REASONS_TOLD} more." if len(reasons) > REASONS_TOLD else ""
    return AdapterInvalidError(f"The archive was refused and nothing was kept. {shown}{more}", reasons=reasons)


def _origin(unpacked: Unpacked, checked: Checked, form: ServedForm | None, has_form: bool) -> str:
    """Where it came from and what was left out, for the audit trail."""
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


def _locked_directory(adapters: Path) -> tuple[Path, int]:
    """An empty staging directory and the descriptor whose lock says that somebody lives who uses it."""
    with storage_errors(adapters):
        while True:
            path = staging_directory(adapters, uuid4())
            path.mkdir(parents=True)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                return path, lock
            os.close(lock)  # a start of TMDE swept it away before it was locked


def _unnamed(directory: Path) -> IO[bytes]:
    """A file that is gone when it is closed, however that comes about."""
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
    """Work in a thread that is always waited for: nobody deletes a directory while it still writes there.

    Args:
        work: is given a function that says whether it should stop.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop.is_set))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({task})
        task.exception()  # has been seen: asyncio complains of errors that nobody looks at
        raise


async def _threaded(chunks: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """A blocking iterator without blocking. One piece at a time: who reads slowly lets it wait, who leaves ends it."""
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


async def _run(command: WorkerCommand) -> ServedForm:
    """Run a backend's worker; whatever goes wrong in it is a reason not to take the adapter."""
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        env={**os.environ, **command.env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(CONVERSION_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        return ServedForm(reasons=(f"Making its served form took longer than {CONVERSION_SECONDS:.0f} s.",))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        if process.returncode == 0:
            return from_json(out.strip().splitlines()[-1], ServedForm)
    except (TmdeError, IndexError):
        pass
    said = err.decode("utf-8", "replace").strip().splitlines()
    log.warning("archive.conversion_failed", status=process.returncode, stderr=said[-20:])
    told = said[-1][:300] if said else f"the worker ended with {process.returncode}."
    return ServedForm(reasons=(f"Its served form cannot be made: {told}",))
