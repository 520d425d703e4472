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
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from tmde_core.errors import ConflictError, InsufficientStorageError, InsufficientTracesError, PluginUnavailableError
from tmde_core.finetune.dataset.selection import TRAIN_FILE, VAL_FILE, Selection, freeze, require_enough
from tmde_core.finetune.preview.fit import Memory, Wanted, describe_fits
from tmde_core.finetune.preview.process import SECONDS, Failure, Partial, look
from tmde_core.finetune.service import FineTuneService
from tmde_core.finetune.supervision.launch import plan_on_base
from tmde_core.models.service import TrainingBase
from tmde_core.records.base import to_json
from tmde_core.records.finetune import FineTuneConfig, FineTunePreview, LeftOut, TokenBucket
from tmde_core.records.training import (
    PREVIEW_FILE,
    ExampleTokens,
    PreviewReport,
    ResourceEstimate,
    TrainingJob,
    UnusableExample,
)
from tmde_core.resources import read_usable_gpus
from tmde_core.sdk.training import PreviewingBackend, TrainingBackend
from tmde_core.sdk.worker.run_files import JOB_FILE
from tmde_core.sdk.worker.vitals import measure_memory
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


NO_PACKAGES = (
    "Lengths, steps, time and memory can be looked at once the packages of training are installed. The first run "
    "installs them and waits for them."
)
WAITS = "Waiting for the packages of training"
"""How the note of a preview begins that waits for packages."""
PACKAGES_SECONDS = 1.0
"""How often an installation is looked after."""

LOOKING = "Lengths, steps, time and memory are being looked at …"
"""The note of a preview that goes on."""

MEASURING = "Time and memory are being measured …"
"""The note of a preview whose worker has counted the tokens and goes on."""

MEASURED = "Time and memory follow from a measurement of this model on this machine."
COMPUTED = "Time and memory are computed, not measured: expect an error of up to a factor of two."
ELSEWHERE = "Lengths, steps, time and memory are not known yet: only the worker has what this backend needs."

NOT_LOOKED_AT = "Lengths, steps, time and memory were not asked for."


class PreviewService:
    """Previews datasets, one at a time, because each preview loads a model."""

    def __init__(self, settings: Settings, finetune: FineTuneService, traces: TraceService) -> None:
        self._settings = settings
        self._finetune = finetune
        self._traces = traces
        self._one = asyncio.Lock()

    async def preview(self, config: FineTuneConfig | None = None, *, counts_only: bool = False) -> FineTunePreview:
        """Return a preview of a run with this configuration.

        Args:
            config: the configuration; None: the configured one.
            counts_only: return at once what needs no model: the counts and what is left out.

        Raises:
            InvalidInputError: a value is out of its range, the backend does not exist, or the base model does not
                exist.
            PluginUnavailableError: the backend cannot work here.
            InsufficientStorageError: there is no space for the dataset.
        """
        async with aclosing(self.parts(config)) as parts:
            seen = await anext(parts)
            if not counts_only:
                seen = ([seen] + [part async for part in parts])[-1]
        return msgspec.structs.replace(seen, note=NOT_LOOKED_AT) if seen.note == LOOKING else seen

    async def parts(self, config: FineTuneConfig | None = None) -> AsyncGenerator[FineTunePreview, None]:
        """Yield a preview as it becomes known: the counts at once, then the tokens, then time and memory.

        Closing the iterator ends the worker. See `preview` for the errors.
        """
        config = self._finetune.resolve(config or self._finetune.config())
        backend = await self._backend(config.backend)
        base = await self._finetune.resolve_base(config)
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
            yield seen
            return
        if backend is None:
            yield msgspec.structs.replace(seen, note=ELSEWHERE)
            return
        if await self._is_training():
            # A second model in memory could make the run fail for lack of memory.
            yield msgspec.structs.replace(seen, note=BUSY)
            return
        async with aclosing(self._packages(config.backend)) as notes:
            async for note in notes:
                yield msgspec.structs.replace(seen, note=note)
        if await asyncio.to_thread(self._finetune.awaits_packages, config.backend):
            return
        yield msgspec.structs.replace(seen, note=LOOKING)
        async with self._one:
            with storage_errors(self._settings.data_path), self._directory() as directory:
                async with aclosing(self._looked_into(seen, selection, backend, base, directory)) as found:
                    async for part in found:
                        yield part

    async def _backend(self, name: str) -> TrainingBackend | None:
        """Return the backend; None if it works only where the worker is."""
        try:
            return await self._finetune.require_backend(name)
        except PluginUnavailableError:
            if self._finetune.trains_elsewhere:
                return None
            raise

    async def _packages(self, backend: str) -> AsyncGenerator[str, None]:
        """Yield what the preview waits for while the packages of the backend are being installed.

        A preview installs nothing: the last note then says that a run does.
        """
        told = ""
        while await asyncio.to_thread(self._finetune.awaits_packages, backend):
            found = await asyncio.to_thread(self._finetune.find_installation, backend)
            if found is None:
                yield NO_PACKAGES
                return
            if (note := f"{WAITS}: {found.place}.") != told:
                told = note
                yield note
            await asyncio.sleep(PACKAGES_SECONDS)

    async def _is_training(self) -> bool:
        return await self._finetune.get_current() is not None

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
        self,
        seen: FineTunePreview,
        selection: Selection,
        backend: TrainingBackend,
        base: TrainingBase,
        directory: Path,
    ) -> AsyncGenerator[FineTunePreview, None]:
        await asyncio.to_thread(freeze, selection, directory)
        job = self._job(directory, seen.config, base)
        if not isinstance(backend, PreviewingBackend):
            estimate = await asyncio.to_thread(backend.estimate, job)
            shown = msgspec.structs.replace(
                add_estimate(seen, PreviewReport(examples=(), estimate=estimate)), note=NO_TOKENS
            )
            yield await self._with_fits(shown, estimate)
            return
        command = await asyncio.to_thread(plan_on_base, backend.preview, job, base)
        shown = seen
        # A person waits for the answer, so the worker has the priority of other programs, unlike a trainer.
        reports = look(command, directory / PREVIEW_FILE, self._is_training)
        async with aclosing(reports):
            async for found in reports:
                if isinstance(found, Failure):
                    refusal = found.sentence if found.refuses else None
                    shown = msgspec.structs.replace(shown, refusal=shown.refusal or refusal, note=found.sentence)
                elif isinstance(found, Partial):
                    shown = add_token_counts(seen, found.report)
                    shown = msgspec.structs.replace(shown, note=f"{shown.note} {MEASURING}".strip())
                else:
                    shown = add_token_counts(seen, found)
                    shown = await self._with_fits(shown, found.estimate, found.examples)
                yield shown

    async def _with_fits(
        self, seen: FineTunePreview, estimate: ResourceEstimate, examples: Sequence[ExampleTokens] = ()
    ) -> FineTunePreview:
        """Return the preview with what the run means for the memory of this machine as it is now."""
        needs_card = bool(estimate.vram_bytes)
        total, free = measure_memory()
        memory = Memory(
            ram_total=total,
            ram_free=free,
            gpus=await asyncio.to_thread(read_usable_gpus) if needs_card else (),
            given_back=await self._finetune.count_given_back(estimate),
        )
        others = await self._finetune.list_processor_backends(seen.config.backend) if needs_card else []
        return msgspec.structs.replace(
            seen,
            pause=await self._finetune.describe_pause(estimate),
            fits=describe_fits(Wanted(seen.config, estimate, examples, others), memory),
        )

    def _job(self, directory: Path, config: FineTuneConfig, base: TrainingBase) -> TrainingJob:
        job = TrainingJob(
            run_id=str(uuid4()),
            run_dir=str(directory),
            train_file=str(directory / TRAIN_FILE),
            val_file=str(directory / VAL_FILE),
            output_dir=str(directory / "adapter"),
            base_model=base.weights,
            base_model_name=base.name,
            base_model_source=base.source,
            data_dir=self._settings.data_dir,
            dequantize=self._finetune.find_dequantizer(base),
            config=msgspec.to_builtins(config),
        )
        (directory / JOB_FILE).write_bytes(to_json(job))
        return job


def add_token_counts(seen: FineTunePreview, report: PreviewReport) -> FineTunePreview:
    """Return the preview with the backend's information about each example."""
    limit = seen.config.max_seq_length
    fitting = [one for one in report.examples if one.total <= limit]
    too_long = [
        UnusableExample(
            trace_id=one.trace_id,
            split=one.split,
            reason="too-long",
            detail=f"It has {one.total:,} tokens; maxSeqLength is {limit:,}.",
        )
        for one in report.examples
        if one.total > limit
    ]
    unusable = [*too_long, *report.left_out]
    # A line of the dataset that cannot be read may name no trace. It is counted all the same.
    left_out = [
        LeftOut(trace_id=UUID(one.trace_id), reason=one.reason, detail=one.detail) for one in unusable if one.trace_id
    ]
    train = [one for one in fitting if one.split == "train"]
    per_step = seen.config.batch_size * seen.config.gradient_accumulation_steps
    return msgspec.structs.replace(
        add_estimate(seen, report),
        examples=len(fitting),
        train_examples=len(train),
        val_examples=len(fitting) - len(train),
        refusal=seen.refusal or _nothing_to_learn(train, unusable, limit) or _too_few(len(fitting), seen, unusable),
        left_out=_some(left_out) + seen.left_out,
        left_out_by_reason=dict(Counter(one.reason for one in unusable) + Counter(seen.left_out_by_reason)),
        total_tokens=sum(one.total for one in train),
        supervised_tokens=sum(one.supervised for one in train),
        longest=max((one.total for one in report.examples), default=None),
        histogram=histogram([one.total for one in fitting]),
        first_example=report.first_example,
        note=report.note or seen.note,
        total_steps=math.ceil(len(train) / per_step) * seen.config.epochs,
    )


def add_estimate(seen: FineTunePreview, report: PreviewReport) -> FineTunePreview:
    """Return the preview with the time and the memory that the backend estimates, and what they are based on."""
    estimate = report.estimate
    is_known = any((estimate.seconds, estimate.ram_bytes, estimate.vram_bytes))
    return msgspec.structs.replace(
        seen,
        estimated_seconds=estimate.seconds,
        estimated_ram_bytes=estimate.ram_bytes,
        estimated_vram_bytes=estimate.vram_bytes,
        calibrated=report.calibrated,
        basis=(report.basis or (MEASURED if report.calibrated else COMPUTED)) if is_known else "",
    )


def _too_few(left: int, seen: FineTunePreview, unusable: Sequence[UnusableExample]) -> str | None:
    """Return why a run would end at once if too few examples are left.

    Only the backend knows which examples cannot be trained on. `start` does not know them, so the preview tells.
    """
    if left >= seen.required or seen.examples < seen.required:
        return None
    return (
        f"Of {seen.examples:,} examples {left:,} can be trained on, fewer than the {seen.required:,} that a run needs. "
        f"{_remedy(unusable, seen.config.max_seq_length)}"
    )


def _nothing_to_learn(train: Sequence[ExampleTokens], unusable: Sequence[UnusableExample], limit: int) -> str | None:
    if sum(one.supervised for one in train):
        return None
    if unusable and not train:
        return f"Not one example can be trained on, so there is nothing to learn. {_remedy(unusable, limit)}"
    return (
        "Not a single token would be learned: the loss mask covers nothing. Look at the first example and its answer."
    )


def _remedy(unusable: Sequence[UnusableExample], limit: int) -> str:
    """Return what is wrong with most of the examples that are left out, and what to do."""
    ((most, count),) = Counter(one.reason for one in unusable).most_common(1)
    if most == "too-long":
        return f"{count:,} {'is' if count == 1 else 'are'} longer than maxSeqLength ({limit:,} tokens). Raise it, or debate some more."
    example = next(one for one in unusable if one.reason == most)
    return f"{count:,} cannot be used, for example: {example.detail}"


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
