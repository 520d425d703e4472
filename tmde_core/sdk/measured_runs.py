"""What training runs really needed on this machine. A backend corrects its next estimate with it.

A worker computes with the backend's own formula what its run should have needed, measures what the run did need, and
keeps both in the run's directory. The next estimate is multiplied by the measured share of the computed figure.

    keep_measured_run(worker.run_dir, MeasuredRun(backend="mine", device="NVIDIA GeForce RTX 3090", ...))
    correction = find_correction(data_dir, "mine", "NVIDIA GeForce RTX 3090", "4-bit", weights=1_070_000_000)
    needed = computed * correction.memory
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from tmde_core.errors import TmdeError
from tmde_core.records.base import Record, from_json, to_json
from tmde_core.storage.durable import write_atomic

__all__ = [
    "MEASURED_FILE",
    "Correction",
    "MeasuredRun",
    "find_correction",
    "keep_measured_model",
    "keep_measured_run",
    "read_measured_runs",
    "rough_lengths",
]

MEASURED_FILE = "measured.json"
"""The file in a run's directory that holds a `MeasuredRun`."""

RUNS_DIR = "runs"
MEASURED_DIR = "measured"
"""The directory of measurements before a first run, in the data directory."""

LAST_RUNS = 5
"""The correction is the median of so many runs. One odd run, beside a game or another training, then changes little."""
MOST_FILES = 200
"""The newest files that are read in search of runs that match."""
MEMORY_BOUNDS = (0.5, 2.0)
"""The correction of memory stays within these bounds. A figure outside of them says that something else was measured."""
PACE_BOUNDS = (0.02, 50.0)
"""The bounds for the pace. A backend assumes the pace of an unknown card, so a correction may be large."""


BYTES_PER_TOKEN = 3.5
"""The approximate number of characters of English, punctuation and JSON in one token."""


class MeasuredRun(Record, frozen=True, kw_only=True):
    """What one run needed, and the conditions that this depends on."""

    backend: str
    """The name of the backend."""
    device: str
    """The name of the card, or `CPU`."""
    base_model: str
    """The name of the base model."""
    weights: int
    """The number of weights of the base model."""
    quantisation: str
    """How the base model was held, and whether activations were computed twice, such as `4-bit` or `16-bit, all
    activations kept`. Runs are compared only with runs of the same quantisation."""
    lora_rank: int
    """The rank of the adapter."""
    micro_batch: int
    """Examples that were computed at the same time."""
    longest: int
    """Tokens of the longest example."""
    computed_bytes: int
    """What the backend's formula gives for `peak_bytes` under these conditions, without a correction."""
    peak_bytes: int
    """The largest memory use: of the card what PyTorch reserved, else of main memory."""
    allocated_bytes: int | None = None
    """The part of the reserved memory that was in use. None without a card."""
    computed_tokens_per_second: float
    """The pace that the backend's formula gives under these conditions, without a correction."""
    tokens_per_second: float
    """All tokens that were trained on, prompts included, divided by the time of the steps."""
    start_seconds: float
    """From the start of the process to the first step, with what the first step takes more than a later one."""
    measured_at: datetime
    """When the run ended."""
    trial: bool = False
    """Whether it was a short measurement before a first run: see `keep_measured_model`."""

    @property
    def memory_ratio(self) -> float:
        """What the run needed, relative to what was computed."""
        return self.peak_bytes / self.computed_bytes

    @property
    def pace_ratio(self) -> float:
        """How fast the run was, relative to what was computed."""
        return self.tokens_per_second / self.computed_tokens_per_second

    @property
    def is_sound(self) -> bool:
        """Whether all figures are positive and finite, so that the run can correct an estimate."""
        figures = (self.computed_bytes, self.peak_bytes, self.computed_tokens_per_second, self.tokens_per_second)
        return all(0 < one < math.inf for one in figures) and 0 <= self.start_seconds < math.inf


class Correction(Record, frozen=True):
    """How much the runs of this machine differ from the formula of a backend."""

    memory: float = 1.0
    """Multiply a computed number of bytes by this."""
    pace: float = 1.0
    """Multiply a computed number of tokens a second by this."""
    start_seconds: float | None = None
    """How long a run takes until its first step; None: not measured yet."""
    runs: int = 0
    """The number of runs that this is the median of; 0: there is no such run yet."""
    same_model: bool = False
    """Whether these runs trained a model with the same number of weights."""
    trial: bool = False
    """Whether no run, but a short measurement with this model says this."""

    def describe(self, device: str) -> str:
        """Return a sentence for people that says whether memory and time are computed or measured.

        Args:
            device: the name of the card, or `CPU`.
        """
        if self.trial:
            return "Time and memory follow from a measurement of this model on this machine."
        if not self.runs:
            return f"Memory and time are computed, not measured: no run has ended on {device} yet."
        runs = "one earlier run" if self.runs == 1 else f"the last {self.runs} runs"
        of = "of this base model's size" if self.same_model else "of other base models"
        return f"Memory and time are computed and corrected by what was measured in {runs} {of} on {device}."


def keep_measured_run(run_dir: Path, run: MeasuredRun) -> None:
    """Store what a run needed in the run's directory. A run whose figures cannot be used is not stored.

    Raises:
        InsufficientStorageError: the file cannot be written.
    """
    if run.is_sound:
        write_atomic(run_dir / MEASURED_FILE, to_json(run))


def keep_measured_model(data_dir: Path, run: MeasuredRun) -> None:
    """Store what a short measurement before the first run found, in the place of the last one with the same model.

    `find_correction` uses it until a run with this model has ended. Measure only where training for some seconds says
    enough, and not beside another training.

    Args:
        data_dir: the data directory.
        run: what was measured. Set `trial`.

    Raises:
        InsufficientStorageError: the file cannot be written.
    """
    if run.is_sound:
        directory = data_dir / MEASURED_DIR
        directory.mkdir(exist_ok=True)
        name = hashlib.sha256(f"{run.backend} {run.device} {run.quantisation} {run.weights}".encode()).hexdigest()[:16]
        write_atomic(directory / f"{run.backend}-{name}.json", to_json(run))


def read_measured_runs(data_dir: Path) -> Iterator[MeasuredRun]:
    """Yield the measured runs of this data directory, the newest first. Files that cannot be read are skipped."""
    dated: list[tuple[float, Path]] = []
    files = (*(data_dir / RUNS_DIR).glob(f"*/{MEASURED_FILE}"), *(data_dir / MEASURED_DIR).glob("*.json"))
    for file in files:
        with contextlib.suppress(OSError):  # the run is deleted at this moment
            dated.append((file.stat().st_mtime, file))
    for _, file in sorted(dated, reverse=True)[:MOST_FILES]:
        with contextlib.suppress(OSError, TmdeError):
            run = from_json(file.read_bytes(), MeasuredRun)
            if run.is_sound:
                yield run


def find_correction(data_dir: Path, backend: str, device: str, quantisation: str, weights: int) -> Correction:
    """Return the correction for a run of a backend on a device.

    Runs of a model with the same number of weights count alone if there are any, else all runs of the same
    quantisation. The time until the first step is that of all runs on the device.

    Args:
        data_dir: the data directory.
        backend: the backend's name.
        device: the name of the card, or `CPU`.
        quantisation: see `MeasuredRun.quantisation`.
        weights: the number of weights of the base model.
    """
    found = [run for run in read_measured_runs(data_dir) if (run.backend, run.device) == (backend, device)]
    runs = [run for run in found if not run.trial]
    alike = [run for run in runs if run.quantisation == quantisation]
    same = [run for run in alike if run.weights == weights]
    trials = [run for run in found if run.trial and (run.quantisation, run.weights) == (quantisation, weights)]
    chosen = (same or trials or alike)[:LAST_RUNS]
    return Correction(
        memory=_median((run.memory_ratio for run in chosen), MEMORY_BOUNDS),
        pace=_median((run.pace_ratio for run in chosen), PACE_BOUNDS),
        start_seconds=_median_start((same or trials or runs)[:LAST_RUNS]),
        runs=len(chosen),
        same_model=bool(same or trials),
        trial=bool(trials) and not same,
    )


def rough_lengths(file: str | Path) -> list[float]:
    """Return the approximate tokens of each example of a training file. No tokenizer is needed. A missing file has none.

    Use it in `TrainingBackend.estimate`, which must be quick. A preview counts the real tokens.
    """
    path = Path(file)
    # Each line contains the text twice: as instruction, input and output, and as messages.
    return [len(line) / 2 / BYTES_PER_TOKEN for line in path.read_bytes().splitlines()] if path.exists() else []


def _median(ratios: Iterable[float], bounds: tuple[float, float]) -> float:
    found = list(ratios)
    low, high = bounds
    return min(high, max(low, statistics.median(found))) if found else 1.0


def _median_start(runs: Sequence[MeasuredRun]) -> float | None:
    return round(statistics.median(run.start_seconds for run in runs), 1) if runs else None
