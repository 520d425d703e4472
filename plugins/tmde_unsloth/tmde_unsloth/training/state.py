"""Save and restore the state of a run. The files contain no pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.worker import TrainingFailedError

STATE_FILE, WEIGHTS_FILE, BEST_FILE, OPTIMIZER_FILE = (
    "state.json",
    "adapter.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
)
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""AdamW's state of each parameter."""

Weights = dict[str, torch.Tensor]


class State(Record, frozen=True):
    """The state of the loop after `step` optimizer steps. The order of the data follows from the seed and the epoch."""

    fingerprint: str
    """A hash of configuration, dataset and base model. A checkpoint with another fingerprint is refused."""
    step: int = 0
    best_val_loss: float | None = None
    last_val_loss: float | None = None
    last_train_loss: float | None = None
    without_gain: int = 0
    """The number of consecutive validations that did not lower the best loss."""
    stopped_early: bool = False
    supervised_tokens: int = 0
    seconds: float = 0.0
    """The time spent in optimizer steps, over all attempts."""
    loss_scale: float | None = None
    """The scale of the loss on cards that train in float16."""


def save(
    directory: Path, state: State, weights: Mapping[str, torch.Tensor], best: Weights, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint's files."""
    (directory / STATE_FILE).write_bytes(to_json(state))
    save_file({name: _plain(tensor) for name, tensor in weights.items()}, directory / WEIGHTS_FILE)
    if best:
        save_file(best, directory / BEST_FILE)
    moments = {
        f"{name}/{moment}": _plain(optimizer.state[tensor][moment])
        for name, tensor in weights.items()
        if tensor in optimizer.state
        for moment in MOMENTS
    }
    save_file(moments, directory / OPTIMIZER_FILE)


def read(directory: Path) -> State:
    """Return the state that a checkpoint contains.

    Raises:
        TrainingFailedError: the directory is not a checkpoint of this trainer.
    """
    try:
        return from_json((directory / STATE_FILE).read_bytes(), State)
    except Exception as error:
        raise TrainingFailedError("bad-checkpoint", f"The checkpoint {directory} cannot be read: {error}") from None


def restore(directory: Path, weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> Weights:
    """Restore weights and optimizer, and return the best weights so far."""
    with torch.no_grad():
        for name, tensor in load_file(directory / WEIGHTS_FILE).items():
            weights[name].copy_(tensor)
    for key, tensor in load_file(directory / OPTIMIZER_FILE).items():
        name, moment = key.rsplit("/", 1)
        parameter = weights[name]
        # AdamW's fused form keeps the count of steps on the card too.
        optimizer.state[parameter][moment] = tensor.to(parameter.device)
    best = directory / BEST_FILE
    return load_file(best) if best.exists() else {}


def keep(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Return a copy of the weights in main memory."""
    return {name: _plain(tensor) for name, tensor in weights.items()}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
