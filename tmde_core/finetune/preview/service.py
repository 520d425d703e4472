"""Previews a run: which traces it would use, how long it would take, and what it would need. No run is started.

The dataset is selected and frozen as for a run, in a directory that is deleted afterwards. The backend's preview
worker, a separate process, provides the information that needs the model's own tokenizer. A backend without such a
worker is previewed without this information.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from tmde_core.errors import ConflictError, InsufficientStorageError, InsufficientTracesError
from tmde_core.finetune.dataset.selection import TRAIN_FILE, VAL_FILE, Selection, freeze, require_enough
from tmde_core.finetune.preview.process import SECONDS, Failure, look
from tmde_core.finetune.service import FineTuneService
from tmde_core.records.base import to_json
from tmde_core.records.finetune import FineTuneConfig, FineTunePreview, LeftOut, TokenBucket
from tmde_core.records.training import PREVIEW_FILE, ExampleTokens, PreviewReport, TrainingJob
from tmde_core.sdk.training import PreviewingBackend, TrainingBackend
from tmde_core.sdk.worker.run_files import JOB_FILE
from tmde_core.settings import Settings
from tmde_core.storage.durable import storage_errors
from tmde_core.traces.service import TraceService

PREFIX = ".preview-"
BUCKETS = 12
"""The most bars of the histogram."""
LISTED = 100
"""The most traces left out that are listed for each reason. All are counted."""
NARROWEST = 8
"""The fewest tokens that a bar covers."""
NO_TOKENS = "This backend cannot look at tokens beforehand, so lengths, steps and the loss mask are not known yet."

CUT = "Its answer was cut off, and you have not rated or corrected it."

BUSY = "Lengths, memory and time are looked at when no training run is in progress: that takes a model in memory."


class PreviewService:
    """Previews datasets, one at a time, because each preview loads a model."""

    def __init__(self, settings: Settings, finetune: FineTuneService, traces: TraceService) -> None:
        self._settings = settings
        self._finetune = finetune
        self._traces = traces
        self._one = asyncio.Lock()

    async def preview(self, config: FineTuneConfig | None = None) -> FineTunePreview:
        """Return a preview of a run with this configuration.

        Raises:
            InvalidInputError: a value is out of its range, the backend does not exist, or the base model does not
                exist.
            PluginUnavailableError: the backend cannot work here.
            InsufficientStorageError: there is no space for the dataset.
        """
        config = self._finetune.resolve(config or self._finetune.config())
        backend = await self._finetune.require_backend(config.backend)
        selection = await self._finetune.select_examples(config)
        others, counted = await self._passed_over(config)
        seen = FineTunePreview(
            config=config,
            examples=len(selection),
            train_examples=len(selection.train),
            val_examples=len(selection.val),
            required=config.min_traces,
            refusal=await self._refusal(selection, config),
            left_out=_some(selection.left_out) + others,
            left_out_by_reason=dict(_counted(selection.left_out) + counted),
        )
        if not selection.train:
            return seen
        if await self._finetune.get_current() is not None:
            # A second model in memory could make the run fail for lack of memory.
            return msgspec.structs.replace(seen, note=BUSY)
        async with self._one:
            with storage_errors(self._settings.data_path), self._directory() as directory:
                return await self._looked_into(seen, selection, backend, directory)

    def sweep(self) -> None:
        """Remove directories of previews whose process was killed: those older than any preview can take."""
        for path in self._settings.data_path.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - 2 * SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    async def _passed_over(self, config: FineTuneConfig) -> tuple[tuple[LeftOut, ...], Counter[str]]:
        """Return the traces that were never candidates: a score too low, asked by a benchmark, or a cut answer."""
        least = config.min_quality_score
        benchmark, asked = await self._traces.count_ineligible("benchmark", least, LISTED)
        low, scored = await self._traces.count_ineligible("low-score", least, LISTED)
        leaves_out = config.cut_answers == "leave-out"
        cut, pieces = await self._traces.count_ineligible("cut", least, LISTED) if leaves_out else (0, ())
        found = [LeftOut(trace_id=one, reason="benchmark", detail="A benchmark asked for it.") for one, _ in asked]
        found += [LeftOut(trace_id=one, reason="low-score", detail=_low(score, least)) for one, score in scored]
        found += [LeftOut(trace_id=one, reason="cut", detail=CUT) for one, _ in pieces]
        return tuple(found), +Counter({"benchmark": benchmark, "low-score": low, "cut": cut})

    async def _refusal(self, selection: Selection, config: FineTuneConfig) -> str | None:
        """Return why `start` would refuse a run now; None if it would begin."""
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
        found = await look(command, directory / PREVIEW_FILE, self._settings.supervisor.niceness)
        if isinstance(found, Failure):
            refusal = found.sentence if found.refuses else None
            return msgspec.structs.replace(seen, refusal=seen.refusal or refusal, note=found.sentence)
        return add_token_counts(seen, found)

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


def add_token_counts(seen: FineTunePreview, report: PreviewReport) -> FineTunePreview:
    """Return the preview with the backend's information about each example."""
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
    per_step = seen.config.batch_size * seen.config.gradient_accumulation_steps
    return msgspec.structs.replace(
        seen,
        examples=len(fitting),
        train_examples=len(train),
        val_examples=len(fitting) - len(train),
        refusal=seen.refusal or _nothing_to_learn(train, bool(too_long), limit),
        left_out=_some(too_long) + seen.left_out,
        left_out_by_reason=dict(_counted(too_long) + Counter(seen.left_out_by_reason)),
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
        note=_too_few(len(fitting), seen),
    )


def _too_few(fitting: int, seen: FineTunePreview) -> str:
    """Return a warning if too few examples fit into the maximum length.

    Only the tokens show that examples are too long. `start` does not know this, so the preview warns about it.
    """
    if fitting >= seen.required or seen.examples < seen.required:
        return ""
    limit = seen.config.max_seq_length
    return (
        f"Of {seen.examples:,} examples {fitting:,} fit into maxSeqLength ({limit:,} tokens), fewer than the {seen.required:,} "
        "that a run should have. Raise it, or debate some more."
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
    """Return at most twelve bars of equal width from the shortest to the longest; widths are powers of two."""
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


def _low(score: float | None, least: float) -> str:
    return "It has no score." if score is None else f"Its score is {score:g}; {least:g} is the least."


def _counted(left_out: Sequence[LeftOut]) -> Counter[str]:
    return Counter(one.reason for one in left_out)


def _some(left_out: Sequence[LeftOut]) -> tuple[LeftOut, ...]:
    """Return the first hundred traces of each reason."""
    listed: Counter[str] = Counter()
    found = []
    for one in left_out:
        listed[one.reason] += 1
        if listed[one.reason] <= LISTED:
            found.append(one)
    return tuple(found)
