"""Save and restore the state of a run, so that a resumed run continues exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tmde_core.sdk.worker import TrainingState, restore_optimizer, restore_weights, save_state

RANDOM_FILE = "random.safetensors"
RANDOM = "random_state"


class State(TrainingState, frozen=True, kw_only=True):
    """The state of the loop after some steps."""

    threads: int
    """The number of threads. With another number, sums are rounded differently."""


def save(
    directory: Path,
    state: State,
    weights: Mapping[str, torch.Tensor],
    best: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint's files."""
    save_state(directory, state, weights, best, optimizer)
    save_file({RANDOM: torch.get_rng_state()}, directory / RANDOM_FILE)


def restore(directory: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore weights, optimizer and random state, and return the best weights so far."""
    best = restore_weights(directory, weights)
    restore_optimizer(directory, weights, optimizer)
    file = directory / RANDOM_FILE
    if file.exists():  # earlier versions kept it elsewhere; nothing draws from it after the adapter was made
        torch.set_rng_state(load_file(file)[RANDOM])
    return best
