"""Exports an adapter and its base model as one GGUF file, which every tool of llama.cpp's family can run.

A training backend's worker writes the file and compares it with base model and adapter, served apart. The notes beside
the file tell the result. A file that lost too much is not handed out unless a person insists.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple
from uuid import UUID

import structlog

from tmde_core.errors import (
    AdapterInvalidError,
    InsufficientStorageError,
    PluginUnavailableError,
    TmdeError,
    UnprocessableError,
    WorkerFailedError,
)
from tmde_core.lora.archive.layout import NOTES_FILE
from tmde_core.lora.archive.notes import render_merged_notes
from tmde_core.lora.files.forms import lock_staging
from tmde_core.lora.files.store import AdapterStore
from tmde_core.lora.service import LoraService
from tmde_core.plugins import create
from tmde_core.records.base import Record, from_json, utc_now
from tmde_core.records.lora import Manifest
from tmde_core.records.training import MergeProgress, MergeResult, Quantization, WorkerCommand
from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, MANIFEST_FILE
from tmde_core.sdk.last_words import describe_status, find_reason
from tmde_core.sdk.training import MergingBackend
from tmde_core.storage.durable import storage_errors
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

SILENCE_SECONDS = 1800.0
"""The longest time without a sign of life. Converting a large base model first takes many minutes."""
KEPT_SECONDS = 3600.0
"""How long a prepared model is kept. It may take many gigabytes of the disk."""
PIECE = 1024 * 1024
MAX_LINE = 1024 * 1024

BETTER: dict[Quantization, Quantization] = {"base": "Q8_0", "Q8_0": "F16"}
"""Quantization → the next one that loses less."""

_QUANTIZED = re.compile(r"[._-](?:I?Q\d\w*|B?F16|F32|fp16|MXFP4)$", re.IGNORECASE)
"""The end of a model's name that tells its quantisation."""

Tell = Callable[[MergeProgress], None]
"""Called for each sign of progress."""


class MergedModel(Record, frozen=True):
    """A merged model that was written."""

    filename: str
    """The name that the file should have."""
    notes: str
    """The text of NOTES.md."""
    result: MergeResult
    """What the worker found."""


class Prepared(NamedTuple):
    """A merged model that waits to be streamed."""

    key: tuple[UUID, Quantization]
    made: MergedModel
    file: IO[bytes]
    """The model. It has no name in the file system."""


class MergeService:
    """Writes merged models, one after the other."""

    def __init__(self, workspace: Workspace, lora: LoraService, store: AdapterStore) -> None:
        self._workspace = workspace
        self._lora = lora
        self._store = store
        self._turn = asyncio.Lock()  # each merge takes all cores while it compares
        self._prepared: Prepared | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def write(
        self,
        adapter_id: UUID,
        target: Path,
        quantization: Quantization = "base",
        *,
        force: bool = False,
        filename: str = "",
        tell: Tell = lambda _: None,
    ) -> MergedModel:
        """Write the merged model of an adapter to `target`. If it fails or is cancelled, no file is left behind.

        Args:
            adapter_id: the adapter.
            target: the new file. An existing file is replaced.
            quantization: how the weights are stored.
            force: keep a file that answers too differently from base model and adapter.
            filename: what the file will be called in the end. Empty: see `name_merged`.
            tell: called for each sign of progress.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is damaged, has no GGUF form, or does not fit its base model.
            UnprocessableError: the merged model lost too much. The context has `proposal`, another quantization.
            PluginUnavailableError: no training backend can merge.
            InsufficientStorageError: no space.
            WorkerFailedError: the worker failed.
        """
        async with self._turn:
            manifest = await asyncio.to_thread(self._store.verify_files, adapter_id)
            manifest = await self._lora.ensure_gguf(manifest)
            if GGUF_FILE not in manifest.files:
                raise self._baseless(manifest)
            try:
                async with lock_staging(self._store.directory) as staging:
                    with storage_errors(self._store.directory):
                        for name in (GGUF_FILE, CONFIG_FILE, MANIFEST_FILE):
                            await asyncio.to_thread(_link, self._store.path(adapter_id) / name, staging / name)
                    command = await self._command(staging, manifest, target, quantization)
                    result = await _run(command, tell)
                    _require_good(manifest, result, quantization, force=force)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
        filename = filename or name_merged(manifest, quantization)
        log.info("lora.merged", adapter=str(adapter_id), quantization=quantization, bytes=result.size_bytes)
        return MergedModel(filename, render_merged_notes(manifest, result, filename), result)

    async def prepare(
        self,
        adapter_id: UUID,
        quantization: Quantization = "base",
        *,
        force: bool = False,
        tell: Tell = lambda _: None,
    ) -> MergedModel:
        """Write the merged model, and keep it for the next `stream` of the same adapter and quantization.

        One prepared model is kept at most, for an hour. Its file has no name, so a crash leaves nothing behind.

        Raises:
            TmdeError: see `write`.
        """
        async with lock_staging(self._store.directory) as directory:
            path = directory / "merged.gguf"
            made = await self.write(adapter_id, path, quantization, force=force, tell=tell)
            file = path.open("rb")
        self._drop_prepared()
        self._prepared = Prepared((adapter_id, quantization), made, file)
        self._expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop_prepared)
        return made

    async def stream(
        self, adapter_id: UUID, quantization: Quantization = "base", *, force: bool = False
    ) -> tuple[str, int, Iterator[bytes]]:
        """Return the name, size and content of a .tar with the merged model and its NOTES.md.

        The model is written before this method returns, unless it is prepared. The kernel deletes it when the content
        has been read or is dropped.

        Raises:
            TmdeError: see `write`.
        """
        if self._prepared is None or self._prepared.key != (adapter_id, quantization):
            await self.prepare(adapter_id, quantization, force=force)
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        self._drop_prepared()
        folder = prepared.made.filename.removesuffix(".gguf")
        content = os.fstat(prepared.file.fileno()).st_size
        head, tail = _frame(folder, prepared.made, content)
        return f"{folder}.tar", len(head) + content + len(tail), _pieces(head, prepared.file, tail)

    def _drop_prepared(self) -> None:
        """Forget the prepared model, so that the kernel deletes it."""
        if self._prepared is not None:
            self._prepared.file.close()
        if self._expiry is not None:
            self._expiry.cancel()
        self._prepared = self._expiry = None

    async def _command(
        self, directory: Path, manifest: Manifest, target: Path, quantization: Quantization
    ) -> WorkerCommand:
        merging = False
        for descriptor in self._workspace.plugins.backends:
            try:
                made = await asyncio.to_thread(create, descriptor, self._workspace.settings)
                if not isinstance(made, MergingBackend):
                    continue
                merging = True
                command = await asyncio.to_thread(made.merge, directory, manifest.base_model, target, quantization)
            except Exception as error:  # a defect in one plugin must not keep the other backends from trying
                log.warning("merge.backend_failed", backend=descriptor.name, error=f"{type(error).__name__}: {error}")
                continue
            if command is not None:
                return command
        if merging:
            raise self._baseless(manifest)
        raise PluginUnavailableError("No training backend that is installed can merge an adapter into its base model.")

    def _baseless(self, manifest: Manifest) -> AdapterInvalidError:
        return AdapterInvalidError(
            f"The base model {manifest.base_model!r} of the adapter {manifest.id} is not here, and a merged model contains "
            "it. Put it into the models directory as a GGUF file, or as a directory of safetensors.",
            adapterId=str(manifest.id),
        )


def name_merged(manifest: Manifest, quantization: Quantization) -> str:
    """Return the file name of a merged model: base model, adapter, and the quantisation if it is not the base's own."""
    base = manifest.base_model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
    base = re.sub(r"[^\w.+-]", "_", base, flags=re.ASCII)[:80] or "model"
    short = f"tmde-{str(manifest.id)[:8]}"
    if quantization == "base":
        return f"{base}-{short}.gguf"
    return f"{_QUANTIZED.sub('', base)}-{short}.{quantization}.gguf"


def _require_good(manifest: Manifest, result: MergeResult, quantization: Quantization, *, force: bool) -> None:
    if result.out_of_space:
        raise InsufficientStorageError(" ".join(result.reasons))
    if result.reasons:
        raise AdapterInvalidError(
            f"The adapter {manifest.id} cannot be merged: {' '.join(result.reasons)}", reasons=list(result.reasons)
        )
    if force:
        return
    if result.quality is None:
        raise UnprocessableError(
            f"The merged model was not kept, because nobody knows how good it is. {' '.join(result.notes)} Take it as it is "
            "with force (--force, force=true).",
            flaws=list(result.notes),
        )
    if not result.quality.flaws:
        return
    better = BETTER.get(quantization)
    instead = f"Export it as {better} instead" if better else "Serve the adapter beside its base model instead"
    raise UnprocessableError(
        f"The merged model is too far from what was merged, so it was not kept. {' '.join(result.quality.flaws)} "
        f"{instead}, or take it as it is with force (--force, force=true).",
        flaws=list(result.quality.flaws),
        proposal=better,
    )


# ---------------------------------------------------------------------------------------- the worker


async def _run(command: WorkerCommand, tell: Tell) -> MergeResult:
    """Run a backend's worker to its end and return its result. If this task is cancelled, the worker is killed."""
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        env={**os.environ, **command.env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=MAX_LINE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.create_task(process.stderr.read())
    result: MergeResult | None = None
    try:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                line = await process.stdout.readline()
            if not line:
                break
            with contextlib.suppress(TmdeError):
                progress = from_json(line, MergeProgress)
                result = progress.result or result
                tell(progress)
        status = await process.wait()
        said = (await complaints).decode("utf-8", "replace").strip().splitlines()
    except (TimeoutError, ValueError):
        raise WorkerFailedError("The worker that merges gave no sign of life and was ended.") from None
    finally:
        complaints.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the model server that it may have left behind
        await process.wait()
    if status == 0 and result is not None:
        return result
    log.warning("merge.failed", status=status, stderr=said[-20:])
    told = find_reason(said)[:600] if status > 0 else ""
    raise WorkerFailedError(f"The merge failed: {told or f'the worker {describe_status(status)}.'}")


def _link(file: Path, other: Path) -> None:
    try:
        other.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, other)


# ----------------------------------------------------------------------------------------- the archive


def _frame(folder: str, made: MergedModel, size: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind the model in the .tar."""
    notes = made.notes.encode()
    head = io.BytesIO()
    head.write(_header(folder, 0, tarfile.DIRTYPE) + _header(f"{folder}/{NOTES_FILE}", len(notes), tarfile.REGTYPE))
    head.write(notes + bytes(-len(notes) % tarfile.BLOCKSIZE))
    head.write(_header(f"{folder}/{made.filename}", size, tarfile.REGTYPE))
    return head.getvalue(), bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, int(utc_now().timestamp())
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info.tobuf(tarfile.GNU_FORMAT)  # USTAR ends at 8 GiB, and some models are larger


def _pieces(head: bytes, file: IO[bytes], tail: bytes) -> Iterator[bytes]:
    with file:
        yield head
        while piece := file.read(PIECE):
            yield piece
    yield tail
