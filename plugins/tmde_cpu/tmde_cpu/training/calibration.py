"""Measure how much time and memory training takes with a model on this machine, before its first run.

The measurement is kept like that of a run, so the figures of real runs take its place.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import torch

from tmde_core.sdk.files import is_locked
from tmde_core.sdk.measured_runs import MeasuredRun
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.records import utc_now
from tmde_core.sdk.training import FineTuneConfig
from tmde_cpu.estimate import (
    ADAPTER_COPIES,
    BACKEND,
    DEVICE,
    QUANTISATION,
    START_SECONDS,
    computed_pace,
    computed_peak,
)
from tmde_cpu.training.packing import Pack
from tmde_cpu.training.step import optimizer_step
from tmde_cpu.training.trainee import Trainee

TURNS = 3
"""The number of timed passes. The quickest counts, because other work on the machine only slows a pass down."""
SECONDS = 10.0
"""The time after which no further pass starts."""


def measure(trainee: Trainee, pack: Pack, config: FineTuneConfig, shape: Shape, name: str) -> MeasuredRun:
    """Train on one pack a few times. This changes the adapter, so pass a new one that is not used afterwards.

    Args:
        trainee: the model with its adapter.
        pack: the largest pack of the run.
        config: the hyperparameters of the run.
        shape: the base model.
        name: the name of the base model.
    """
    adapter = sum(tensor.nbytes for tensor in trainee.weights.values())
    loaded = psutil.Process(os.getpid()).memory_info().rss - adapter
    activations = trainee.passes.bytes_of(pack.size, recompute=False)
    optimizer = torch.optim.AdamW(trainee.weights.values(), lr=config.learning_rate, fused=True)
    taken: list[float] = []
    begun = time.monotonic()
    while len(taken) <= TURNS and (len(taken) < 2 or time.monotonic() - begun < SECONDS):
        began, busy = time.monotonic(), time.process_time()
        optimizer_step(trainee, optimizer, [pack], config.learning_rate)
        # Never count more than the processor time of all threads together. A machine that is busy now says little about
        # the next run.
        taken.append(min(time.monotonic() - began, time.process_time() - busy))
    return MeasuredRun(
        backend=BACKEND,
        device=DEVICE,
        base_model=name,
        weights=shape.weights,
        quantisation=QUANTISATION,
        lora_rank=config.lora_rank,
        micro_batch=1,
        longest=pack.size,
        computed_bytes=computed_peak(shape, config.lora_rank, pack.size),
        peak_bytes=loaded + activations + ADAPTER_COPIES * adapter,
        computed_tokens_per_second=computed_pace(shape.weights, torch.get_num_threads()),
        # The first pass touches all memory for the first time.
        tokens_per_second=pack.size / max(min(taken[1:]), 1e-6),
        start_seconds=START_SECONDS,
        measured_at=utc_now(),
        trial=True,
    )


def is_training(data_dir: Path) -> bool:
    """Return whether a training run of this data directory is in progress: its process holds the leash of the run."""
    return any(is_locked(leash) for leash in (data_dir / "runs").glob("*/leash"))
