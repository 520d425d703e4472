"""The served form of adapters that were not trained here: made by a training backend's worker, at the import or when it is first needed."""

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
from tmde_core.plugins import context_for
from tmde_core.records.base import from_json
from tmde_core.records.lora import Manifest
from tmde_core.records.training import ServedForm, WorkerCommand
from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, WEIGHTS_FILE, staging_directory
from tmde_core.sdk.training import ConvertingBackend
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

CONVERSION_SECONDS = 600.0
"""A second for a small adapter; gigabytes are copied once."""


class Forms:
    """Asks the backends for the form that llama.cpp serves."""

    def __init__(self, workspace: Workspace, store: AdapterStore) -> None:
        self._workspace = workspace
        self._store = store

    async def complete(self, manifest: Manifest) -> None:
        """Give a published adapter the form that it lacks because its base model was not here when it was brought in.

        Nothing happens where it has one, or no backend knows the base model yet.

        Raises:
            AdapterInvalidError: it is damaged, does not fit its base model, or the form cannot be made. Nothing has changed.
            InsufficientStorageError: no space. Nothing has changed.
        """
        if GGUF_FILE in manifest.files:
            return
        await asyncio.to_thread(self._store.verified, manifest.id)
        async with locked_staging(self._store.directory) as directory:
            with storage_errors(self._store.directory):
                for name in (WEIGHTS_FILE, CONFIG_FILE):
                    await asyncio.to_thread(_linked, self._store.path(manifest.id) / name, directory / name)
            form = await self.make(directory, manifest.base_model)
            if form is not None and form.reasons:
                raise AdapterInvalidError(
                    f"The adapter {manifest.id} cannot be served: {' '.join(form.reasons)}", reasons=list(form.reasons)
                )
            if (directory / GGUF_FILE).is_file():
                await asyncio.to_thread(self._store.add_file, manifest.id, directory / GGUF_FILE)
                log.info("lora.completed", adapter=str(manifest.id), file=GGUF_FILE)

    async def make(self, directory: Path, base_model: str) -> ServedForm | None:
        """Have the form written into a directory with an adapter's weights and configuration.

        Returns:
            What the first backend that knows the base model says; None when none does.

        Raises:
            InsufficientStorageError: no space.
        """
        for descriptor in self._workspace.plugins.backends:
            try:
                command = await asyncio.to_thread(self._conversion, descriptor.name, directory, base_model)
            except Exception as error:  # a plugin's own defect must not hide the other backends
                log.warning("forms.backend_failed", backend=descriptor.name, error=f"{type(error).__name__}: {error}")
                continue
            if command is not None:
                self._must_have_room(directory)
                form = await _run(command)
                if form.reasons:  # perhaps because the disk was filled meanwhile
                    self._must_have_room(directory)
                return form
        return None

    def _must_have_room(self, directory: Path) -> None:
        """The form is as large as the weights at most; as much again is left to others."""
        needed = (directory / WEIGHTS_FILE).stat().st_size * 2
        if shutil.disk_usage(directory).free < needed:
            raise InsufficientStorageError(
                f"The disk that holds {self._store.directory} is almost full; this adapter needs {needed:,} bytes more. "
                "Free some space; nothing was lost."
            )

    def _conversion(self, backend: str, directory: Path, base_model: str) -> WorkerCommand | None:
        descriptor = self._workspace.plugins.backends.get(backend)
        made = descriptor.create(context_for(descriptor, self._workspace.settings))
        return made.convert(directory, base_model) if isinstance(made, ConvertingBackend) else None


def _linked(file: Path, other: Path) -> None:
    """The same content under another name; a copy where the filesystem has no links."""
    try:
        other.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, other)


@asynccontextmanager
async def locked_staging(adapters: Path) -> AsyncIterator[Path]:
    """A directory of one's own on the adapters' filesystem; whatever is left in it afterwards goes."""
    path, lock = await asyncio.to_thread(_locked_directory, adapters)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        lock.release()


def _locked_directory(adapters: Path) -> tuple[Path, FileLock]:
    """An empty staging directory and the lock that says that somebody lives who uses it."""
    with storage_errors(adapters):
        while True:
            path = staging_directory(adapters, uuid4())
            path.mkdir(parents=True)
            lock = FileLock.acquire(path, create=False)
            if lock.is_current():
                return path, lock
            lock.release()  # a start of TMDE swept it away before it was locked


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
    log.warning("forms.conversion_failed", status=process.returncode, stderr=said[-20:])
    told = said[-1][:300] if said else f"the worker ended with {process.returncode}."
    return ServedForm(reasons=(f"Its served form cannot be made: {told}",))
