"""How long a token of training takes on this machine with a model, and how much memory: measured once, then remembered.

`calibration.json` in the data directory has one entry for each combination of what the figures depend on: model, threads, LoRA
rank and version of PyTorch. It may be deleted at any time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import torch

from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.files import write_whole
from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.training import FineTuneConfig
from tmde_core.sdk.worker import BaseIdentity
from tmde_cpu.training.packing import Pack
from tmde_cpu.training.step import optimizer_step
from tmde_cpu.training.trainee import Trainee, load_trainee

FILE = "calibration.json"
KEPT = 20
"""Entries; the oldest go."""
TURNS = 3
"""Passes that are timed, of which the quickest counts: whatever else the machine does only ever slows them."""
SECONDS = 10.0
"""After which no further pass begins."""


class Calibration(Record):
    """What was measured."""

    seconds_per_token: float
    """Of a token that is computed, forward and backward, its share of the logits and of the optimizer step included."""
    loaded_bytes: int
    """Resident memory with the model loaded, without activations and adapter."""
    bytes_per_token: float
    """Activations of one token of a pack."""
    adapter_bytes_per_rank: float


class _Remembered(Record):
    entries: dict[str, Calibration]


def calibrated(data_dir: Path, directory: Path, base: BaseIdentity, config: FineTuneConfig, pack: Pack) -> Calibration:
    """What is remembered of this model here, or else what is measured now with `pack`."""
    key = f"{base.model_sha256} rank {config.lora_rank} threads {torch.get_num_threads()} torch {torch.__version__}"
    file = data_dir / FILE
    known = _read(file)
    if key not in known:
        known = {**known, key: measured(load_trainee(directory, config), pack, config)}
        write_whole(file, to_json(_Remembered(entries=dict(list(known.items())[-KEPT:]))))
    return known[key]


def measured(trainee: Trainee, pack: Pack, config: FineTuneConfig) -> Calibration:
    """Train on one pack a few times. The adapter is spoilt, so it must be a fresh one that nobody needs."""
    adapter = sum(tensor.nbytes for tensor in trainee.weights.values())
    loaded = psutil.Process(os.getpid()).memory_info().rss
    per_token = trainee.passes.bytes_of(1000, recompute=False) / 1000
    optimizer = torch.optim.AdamW(trainee.weights.values(), lr=config.learning_rate, fused=True)
    taken: list[float] = []
    begun = time.monotonic()
    while len(taken) <= TURNS and (len(taken) < 2 or time.monotonic() - begun < SECONDS):
        began, busy = time.monotonic(), time.process_time()
        optimizer_step(trainee, optimizer, [pack], config.learning_rate)
        # Never more than the processor worked at it, all threads together: a busy machine at this hour says little of the next run.
        taken.append(min(time.monotonic() - began, time.process_time() - busy))
    return Calibration(
        seconds_per_token=min(taken[1:]) / pack.size,  # the first touches all memory for the first time
        loaded_bytes=loaded - adapter,
        bytes_per_token=per_token,
        adapter_bytes_per_rank=adapter / config.lora_rank,
    )


def _read(file: Path) -> dict[str, Calibration]:
    try:
        return from_json(file.read_bytes(), _Remembered).entries
    except (OSError, TmdeError):  # none yet, or of another version: it is measured again
        return {}
