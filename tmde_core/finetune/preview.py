"""What a run would train on, how long it would take, and what it would need; nothing is started.

The dataset is chosen and frozen as for a run, into a directory that is gone afterwards. What only the model's own tokenizer
can tell comes from the backend's preview worker, a process of its own; a backend that has none is previewed without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.errors import ConflictError, InsufficientStorageError, InsufficientTracesError, TmdeError
from tmde_core.finetune.dataset import TRAIN_FILE, VAL_FILE, Selection, freeze, require_enough
from tmde_core.finetune.ranges import checked
from tmde_core.finetune.records import FineTuneConfig, FineTunePreview, LeftOut, TokenBucket
from tmde_core.finetune.run_files import JOB_FILE
from tmde_core.finetune.service import FineTuneService
from tmde_core.ports import (
    PREVIEW_FILE,
    ExampleTokens,
    PreviewingBackend,
    PreviewReport,
    TrainingBackend,
    TrainingJob,
    WorkerCommand,
)
from tmde_core.record import from_json, to_json
from tmde_core.settings import Settings
from tmde_core.storage.durable import storage_errors

log = structlog.get_logger(__name__)

PREFIX = ".preview-"
SECONDS = 300.0
"""After which a preview worker is ended; a model is loaded and measured in less."""
MAX_REPORT_BYTES = 64 * 1024**2
BUCKETS = 12
"""Bars of the histogram, at most."""
NARROWEST = 8
"""Tokens that a bar spans, at least."""
NO_TOKENS = "This backend cannot look at tokens beforehand, so lengths, steps and the loss mask are not known yet."


class PreviewService:
    """Looks at a dataset before time is spent on it. One at a time: a preview loads a model."""

    def __init__(self, settings: Settings, finetune: FineTuneService) -> None:
        self._settings = settings
        self._finetune = finetune
        self._one = asyncio.Lock()

    async def preview(self, config: FineTuneConfig | None = None) -> FineTunePreview:
        """What a run with this configuration would do.

        Raises:
            InvalidInputError: a value is out of its range, or the base model does not exist.
            PluginUnavailableError: no such backend, or it cannot work here.
            InsufficientStorageError: no space for the dataset.
        """
        config = checked(config or self._finetune.config())
        backend = await self._finetune.ready_backend(config.backend)
        selection = await self._finetune.selection(config)
        seen = FineTunePreview(
            config=config,
            examples=len(selection),
            train_examples=len(selection.train),
            val_examples=len(selection.val),
            required=config.min_traces,
            refusal=await self._refusal(selection, config),
            left_out=selection.left_out,
            left_out_by_reason=_counted(selection.left_out),
        )
        if not selection.train:
            return seen
        async with self._one:
            with storage_errors(self._settings.data_path), self._directory() as directory:
                return await self._looked_into(seen, selection, backend, directory)

    def sweep(self) -> None:
        """Remove what previews left behind whose process was killed: directories older than any preview takes."""
        for path in self._settings.data_path.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - 2 * SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    async def _refusal(self, selection: Selection, config: FineTuneConfig) -> str | None:
        """What `start` would answer now."""
        try:
            require_enough(selection, config)
            await self._finetune.require_free()
        except (InsufficientTracesError, InsufficientStorageError, ConflictError) as error:
            return error.detail
        return None

    @contextlib.contextmanager
    def _directory(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._settings.data_path))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    async def _looked_into(
        self, seen: FineTunePreview, selection: Selection, backend: TrainingBackend, directory: Path
    ) -> FineTunePreview:
        await asyncio.to_thread(freeze, selection, directory)
        job = self._job(directory, seen.config)
        if not isinstance(backend, PreviewingBackend):
            estimate = await asyncio.to_thread(backend.estimate, job)
            return msgspec.structs.replace(
                seen,
                estimated_seconds=estimate.seconds,
                estimated_ram_bytes=estimate.ram_bytes,
                estimated_vram_bytes=estimate.vram_bytes,
                note=NO_TOKENS,
            )
        command = await asyncio.to_thread(backend.preview, job)
        problem = await _run(command)
        if problem is None:
            try:
                report = await asyncio.to_thread(_read, directory / PREVIEW_FILE)
            except TmdeError as error:
                problem = error.detail
        if problem is not None:
            return msgspec.structs.replace(seen, refusal=seen.refusal or problem, note=problem)
        return with_tokens(seen, report)

    def _job(self, directory: Path, config: FineTuneConfig) -> TrainingJob:
        job = TrainingJob(
            run_id=str(uuid4()),
            run_dir=str(directory),
            train_file=str(directory / TRAIN_FILE),
            val_file=str(directory / VAL_FILE),
            output_dir=str(directory / "adapter"),
            base_model=config.base_model,
            data_dir=self._settings.data_dir,
            config=msgspec.to_builtins(config),
        )
        (directory / JOB_FILE).write_bytes(to_json(job))
        return job


def with_tokens(seen: FineTunePreview, report: PreviewReport) -> FineTunePreview:
    """The preview with what the backend found out about each example."""
    limit = seen.config.max_seq_length
    fitting = [one for one in report.examples if one.total <= limit]
    too_long = [
        LeftOut(
            trace_id=UUID(one.trace_id),
            reason="too-long",
            detail=f"It has {one.total:,} tokens; maxSeqLength is {limit:,}.",
        )
        for one in report.examples
        if one.total > limit
    ]
    train = [one for one in fitting if one.split == "train"]
    left_out = (*seen.left_out, *too_long)
    per_step = seen.config.batch_size * seen.config.gradient_accumulation_steps
    return msgspec.structs.replace(
        seen,
        examples=len(fitting),
        train_examples=len(train),
        val_examples=len(fitting) - len(train),
        refusal=seen.refusal or _nothing_to_learn(train, bool(too_long), limit),
        left_out=left_out,
        left_out_by_reason=_counted(left_out),
        total_tokens=sum(one.total for one in train),
        supervised_tokens=sum(one.supervised for one in train),
        longest=max((one.total for one in report.examples), default=None),
        histogram=histogram([one.total for one in fitting]),
        first_example=report.first_example,
        total_steps=math.ceil(len(train) / per_step) * seen.config.epochs,
        estimated_seconds=report.estimate.seconds,
        estimated_ram_bytes=report.estimate.ram_bytes,
        estimated_vram_bytes=report.estimate.vram_bytes,
        calibrated=report.calibrated,
    )


def _nothing_to_learn(train: Sequence[ExampleTokens], any_too_long: bool, limit: int) -> str | None:
    if sum(one.supervised for one in train):
        return None
    if any_too_long and not train:
        return f"Every example is longer than maxSeqLength ({limit:,} tokens), so there is nothing to learn. Raise it."
    return (
        "Not a single token would be learned: the loss mask covers nothing. Look at the first example and its answer."
    )


def histogram(lengths: Sequence[int]) -> tuple[TokenBucket, ...]:
    """At most a dozen bars of equal width from the shortest to the longest; widths are powers of two."""
    if not lengths:
        return ()
    low, high, width = min(lengths), max(lengths), NARROWEST
    while high // width - low // width >= BUCKETS:
        width *= 2
    counts = Counter(length // width for length in lengths)
    return tuple(
        TokenBucket(low=bar * width, high=(bar + 1) * width, examples=counts[bar])
        for bar in range(low // width, high // width + 1)
    )


def _counted(left_out: Sequence[LeftOut]) -> dict[str, int]:
    return dict(Counter(one.reason for one in left_out))


def _read(file: Path) -> PreviewReport:
    with file.open("rb") as opened:
        return from_json(opened.read(MAX_REPORT_BYTES), PreviewReport)


async def _run(command: WorkerCommand) -> str | None:
    """Run a preview worker; returns why it failed, in its own last words, or None."""
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        env={**os.environ, **command.env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(SECONDS):
            _, err = await process.communicate()
    except TimeoutError:
        return f"Looking at the tokens took longer than {SECONDS:.0f} s and was ended. The run itself is not affected."
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode == 0:
        return None
    said = err.decode("utf-8", "replace").strip().splitlines()
    log.warning("finetune.preview_failed", status=process.returncode, stderr=said[-20:])
    return said[-1][:500] if said else f"The preview's process ended with {process.returncode} and said nothing."
