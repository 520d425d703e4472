"""Examine a dataset before training: `python -m tmde_cpu.training.preview_worker RUN_DIR/job.json`.

The worker writes a `PreviewReport`. Lengths and loss mask come from the model's own tokenizer and template. Time and
memory are corrected by what runs with this model needed on this machine. Before the first run, the worker trains for
some seconds and keeps what it has measured (`tmde_cpu.training.calibration`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from tmde_core.sdk.measured_runs import Correction, keep_measured_model
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import FineTuneConfig, PreviewReport, TrainingJob
from tmde_core.sdk.worker import EncodedExample, examine_dataset, load_tokenizer, order_examples, write_preview
from tmde_cpu.base_model import base_name, ensure_base_model
from tmde_cpu.estimate import DEVICE, START_SECONDS, correction_of, estimate_run
from tmde_cpu.training.calibration import is_training, measure
from tmde_cpu.training.packing import Pack, pack_all
from tmde_cpu.training.trainee import load_trainee
from tmde_cpu.training.trainer import pack_limit

VALIDATION_SHARE = 0.35
"""The cost of validation relative to a training pass, because validation runs forward only."""


def preview(job: TrainingJob, early: Callable[[PreviewReport], object] = lambda _: None) -> PreviewReport:
    """Return the report on the job's dataset.

    Args:
        job: the job.
        early: is called with what the tokens say, before the measurement begins.
    """
    config = msgspec.convert(job.config, FineTuneConfig)
    data_dir = Path(job.data_dir)
    directory = ensure_base_model(data_dir, job.base_model)
    found = examine_dataset(job, load_tokenizer(directory))
    shape = Shape.read(directory)
    if not found.training or shape is None:
        return found.report
    tokens, longest = _work(found.training, found.validation, config)
    correction = correction_of(data_dir, shape)
    if not correction.same_model:
        early(found.report)
        measured = measure(load_trainee(directory, config), longest, config, shape, base_name(job) or directory.name)
        correction = Correction(
            measured.memory_ratio, measured.pace_ratio, START_SECONDS, runs=1, same_model=True, trial=True
        )
        if not is_training(data_dir):  # a trainer shares the processor, so the figures describe no ordinary run
            keep_measured_model(data_dir, measured)
    threads = torch.get_num_threads()
    estimate = estimate_run(correction, shape, config.lora_rank, longest.size, tokens, threads)
    return msgspec.structs.replace(found.report, estimate=estimate, calibrated=True, basis=correction.describe(DEVICE))


def _work(train: Sequence[EncodedExample], val: Sequence[EncodedExample], config: FineTuneConfig) -> tuple[float, Pack]:
    """Return the tokens that a run computes, including validation at equal cost, and the run's longest pack."""
    limit = pack_limit(config)
    step = config.batch_size * config.gradient_accumulation_steps
    packs: list[Pack] = []
    order = order_examples(len(train), config.seed, 0)
    for first in range(0, len(order), step):
        packs += pack_all([train[index] for index in order[first : first + step]], limit)
    validation = sum(pack.size for pack in pack_all(val, limit)) * VALIDATION_SHARE
    steps = -(-len(train) // step)
    validations = 1 + (steps // config.eval_steps if config.eval_steps else 0)
    tokens = config.epochs * (sum(pack.size for pack in packs) + validation * validations)
    return tokens, max(packs, key=lambda pack: pack.size)


def main(job_path: Path) -> int:
    """Write the report, and return the exit code of the process."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    return write_preview(job_path, preview)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
