"""Measure how much time and memory a token of training takes with a model on this machine, and store the result.

`calibration.json` in the data directory has one entry for each combination of model, threads, LoRA rank and version of
PyTorch, because the figures depend on them. The file may be deleted at any time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import torch

from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.files import is_locked, write_atomic
from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.training import FineTuneConfig
from tmde_core.sdk.worker import BaseIdentity
from tmde_cpu.training.packing import Pack
from tmde_cpu.training.step import optimizer_step
from tmde_cpu.training.trainee import Trainee, load_trainee

FILE = "calibration.json"
KEPT = 20
"""The number of entries that are kept. The oldest are removed."""
TURNS = 3
"""The number of timed passes. The quickest counts, because other work on the machine only slows a pass down."""
SECONDS = 10.0
"""The time after which no further pass starts."""


class Calibration(Record):
    """The measured figures of one model."""

    seconds_per_token: float
    """Seconds for one computed token, forward and backward, including its share of the logits and of the optimizer
    step."""
    loaded_bytes: int
    """Resident memory with the model loaded, without activations and adapter."""
    bytes_per_token: float
    """Activations of one token of a pack."""
    adapter_bytes_per_rank: float


class _Remembered(Record):
    entries: dict[str, Calibration]


def load_or_measure(
    data_dir: Path, directory: Path, base: BaseIdentity, config: FineTuneConfig, pack: Pack
) -> Calibration:
    """Return the stored figures of this model, or measure them now with `pack`."""
    key = f"{base.model_sha256} rank {config.lora_rank} threads {torch.get_num_threads()} torch {torch.__version__}"
    file = data_dir / FILE
    known = _read(file)
    if key not in known:
        found = measure(load_trainee(directory, config), pack, config)
        if _is_training(data_dir):  # a trainer shares the processor, so the figures describe no ordinary run
            return found
        known = {**known, key: found}
        write_atomic(file, to_json(_Remembered(entries=dict(list(known.items())[-KEPT:]))))
    return known[key]


def _is_training(data_dir: Path) -> bool:
    """Return whether a training run of this data directory is in progress: its process holds the leash of the run."""
    return any(is_locked(leash) for leash in (data_dir / "runs").glob("*/leash"))


def measure(trainee: Trainee, pack: Pack, config: FineTuneConfig) -> Calibration:
    """Train on one pack a few times. This changes the adapter, so pass a new one that is not used afterwards."""
    adapter = sum(tensor.nbytes for tensor in trainee.weights.values())
    loaded = psutil.Process(os.getpid()).memory_info().rss
    per_token = trainee.passes.bytes_of(1000, recompute=False) / 1000
    optimizer = torch.optim.AdamW(trainee.weights.values(), lr=config.learning_rate, fused=True)
    taken: list[float] = []
    begun = time.monotonic()
    while len(taken) <= TURNS and (len(taken) < 2 or time.monotonic() - begun < SECONDS):
        began, busy = time.monotonic(), time.process_time()
        optimizer_step(trainee, optimizer, [pack], config.learning_rate)
        # Never count more than the processor time of all threads together. A machine that is busy now says little about
        # the next run.
        taken.append(min(time.monotonic() - began, time.process_time() - busy))
    return Calibration(
        seconds_per_token=min(taken[1:]) / pack.size,  # the first pass touches all memory for the first time
        loaded_bytes=loaded - adapter,
        bytes_per_token=per_token,
        adapter_bytes_per_rank=adapter / config.lora_rank,
    )


def _read(file: Path) -> dict[str, Calibration]:
    try:
        return from_json(file.read_bytes(), _Remembered).entries
    except (OSError, TmdeError):  # there is no file yet, or another version wrote it: measure again
        return {}
