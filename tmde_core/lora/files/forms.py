"""Creates the GGUF form of imported adapters, at import time or when the GGUF form is first needed.

A training backend's worker converts the adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import structlog

from tmde_core.errors import AdapterInvalidError, InsufficientStorageError, TmdeError
from tmde_core.lora.files.store import AdapterStore
from tmde_core.plugins import create
from tmde_core.records.base import from_json
from tmde_core.records.lora import Manifest
from tmde_core.records.training import ConversionResult, WorkerCommand
from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, WEIGHTS_FILE, staging_directory
from tmde_core.sdk.last_words import describe_status, find_reason
from tmde_core.sdk.training import ConvertingBackend
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

CONVERSION_SECONDS = 600.0
"""Time limit for one conversion. A small adapter takes about one second; several GB take as long as copying them."""


class GgufForms:
    """Asks the training backends for the GGUF form that llama.cpp serves."""

    def __init__(self, workspace: Workspace, store: AdapterStore) -> None:
        self._workspace = workspace
        self._store = store

    async def ensure_gguf(self, manifest: Manifest, base_path: str | None = None) -> None:
        """Create the GGUF form of a published adapter if the GGUF form is missing.

        The GGUF form is missing if the base model was not installed at import time. Do nothing if no training backend
        knows the base model yet.

        Args:
            manifest: the adapter's manifest.
            base_path: the files of its base model; None: found by the name in the manifest.

        Raises:
            AdapterInvalidError: the adapter is damaged, does not fit its base model, or cannot be converted. Nothing
                has changed.
            InsufficientStorageError: no space. Nothing has changed.
        """
        if GGUF_FILE in manifest.files:
            return
        await asyncio.to_thread(self._store.verify_files, manifest.id)
        async with lock_staging(self._store.directory) as directory:
            with storage_errors(self._store.directory):
                for name in (WEIGHTS_FILE, CONFIG_FILE):
                    await asyncio.to_thread(_linked, self._store.path(manifest.id) / name, directory / name)
            form = await self.make(directory, base_path or manifest.base_model)
            if form is not None and form.reasons:
                raise AdapterInvalidError(
                    f"The adapter {manifest.id} cannot be served: {' '.join(form.reasons)}", reasons=list(form.reasons)
                )
            if (directory / GGUF_FILE).is_file():
                await asyncio.to_thread(self._store.add_file, manifest.id, directory / GGUF_FILE)
                log.info("lora.completed", adapter=str(manifest.id), file=GGUF_FILE)

    async def make(self, directory: Path, base_model: str) -> ConversionResult | None:
        """Write the GGUF form into a directory that holds an adapter's weights and configuration.

        Args:
            directory: the directory.
            base_model: the name of the base model, or the absolute path of its files.

        Returns:
            The result of the first training backend that knows the base model, or None if no backend knows it.

        Raises:
            InsufficientStorageError: no space.
        """
        if not Path(base_model).is_absolute():
            base_model = await self._workspace.models.find_weights_path(base_model) or base_model
        for descriptor in self._workspace.plugins.backends:
            try:
                command = await asyncio.to_thread(self._conversion, descriptor.name, directory, base_model)
            except Exception as error:  # a defect in one plugin must not keep the other backends from trying
                log.warning("forms.backend_failed", backend=descriptor.name, error=f"{type(error).__name__}: {error}")
                continue
            if command is not None:
                self._must_have_room(directory)
                form = await _run(command)
                if form.reasons:  # the cause may be a full disk; then report that instead
                    self._must_have_room(directory)
                return form
        return None

    def _must_have_room(self, directory: Path) -> None:
        """Raise an error unless twice the size of the weights is free.

        The GGUF form is at most as large as the weights. The second half is a reserve for other processes.
        """
        needed = (directory / WEIGHTS_FILE).stat().st_size * 2
        if shutil.disk_usage(directory).free < needed:
            raise InsufficientStorageError(
                f"The disk that holds {self._store.directory} is almost full; this adapter needs {needed:,} bytes more. "
                "Free some space; nothing was lost."
            )

    def _conversion(self, backend: str, directory: Path, base_model: str) -> WorkerCommand | None:
        descriptor = self._workspace.plugins.backends.get(backend)
        made = create(descriptor, self._workspace.settings)
        return made.convert(directory, base_model) if isinstance(made, ConvertingBackend) else None


def _linked(file: Path, other: Path) -> None:
    """Create a hard link `other` to a file, or a copy if the filesystem has no hard links."""
    try:
        other.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, other)


@asynccontextmanager
async def lock_staging(adapters: Path) -> AsyncIterator[Path]:
    """Create a locked staging directory on the adapters' filesystem, and delete it after the block."""
    path, lock = await asyncio.to_thread(_locked_directory, adapters)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _locked_directory(adapters: Path) -> tuple[Path, FileLock]:
    """Create an empty staging directory, and lock it to show other processes that it is in use."""
    with storage_errors(adapters):
        while True:
            path = staging_directory(adapters, uuid4())
            path.mkdir(parents=True)
            lock = FileLock.acquire(path, create=False)
            if lock.is_current():
                return path, lock
            lock.release()  # a starting TMDE deleted the directory before it was locked: try again


async def _run(command: WorkerCommand) -> ConversionResult:
    """Run a backend's worker and return its result; if the worker fails, the result holds the reason."""
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
        return ConversionResult(reasons=(f"Making its served form took longer than {CONVERSION_SECONDS:.0f} s.",))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    try:
        if process.returncode == 0:
            return from_json(out.strip().splitlines()[-1], ConversionResult)
    except (TmdeError, IndexError):
        pass
    said = err.decode("utf-8", "replace").strip().splitlines()
    log.warning("forms.conversion_failed", status=process.returncode, stderr=said[-20:])
    told = find_reason(said)[:300] if (process.returncode or 0) > 0 else ""
    told = told or f"the worker {describe_status(process.returncode)}."
    return ConversionResult(reasons=(f"Its served form cannot be made: {told}",))
