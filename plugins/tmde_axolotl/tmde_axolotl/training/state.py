"""Save and restore the state of a run. The files contain no pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file

from tmde_core.sdk.records import Record, from_json, to_json
from tmde_core.sdk.worker import TrainingFailedError

STATE_FILE, WEIGHTS_FILE, BEST_FILE, MOMENTS_FILE, NUMBERS_FILE = (
    "state.json",
    "adapter.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "optimizer.json",
)

Weights = dict[str, torch.Tensor]


class State(Record, frozen=True):
    """The state of the training after `step` optimizer steps. The order of the data follows from the seed and the epoch."""

    fingerprint: str
    """A hash of configuration, dataset, base model and the person's own YAML. A checkpoint with another is refused."""
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


def save(directory: Path, state: State, weights: Mapping[str, torch.Tensor], best: Weights, optimizer: Any) -> None:
    """Write a checkpoint's files."""
    (directory / STATE_FILE).write_bytes(to_json(state))
    save_file(keep(weights), directory / WEIGHTS_FILE)
    if best:
        save_file(best, directory / BEST_FILE)
    moments: Weights = {}
    numbers: dict[str, dict[str, float]] = {}
    for index, of_parameter in optimizer.state_dict()["state"].items():
        for name, value in of_parameter.items():
            if isinstance(value, torch.Tensor):
                moments[f"{index}/{name}"] = _plain(value)
            elif isinstance(value, int | float):
                numbers.setdefault(str(index), {})[name] = value
    save_file(moments, directory / MOMENTS_FILE)
    (directory / NUMBERS_FILE).write_bytes(to_json(numbers))


def read(directory: Path) -> State:
    """Return the state that a checkpoint contains.

    Raises:
        TrainingFailedError: the directory is not a checkpoint of this trainer.
    """
    try:
        return from_json((directory / STATE_FILE).read_bytes(), State)
    except Exception as error:
        raise TrainingFailedError("bad-checkpoint", f"The checkpoint {directory} cannot be read: {error}") from None


def restore_weights(directory: Path, weights: Mapping[str, torch.Tensor]) -> Weights:
    """Restore the adapter's weights, and return the best weights so far."""
    put(load_file(directory / WEIGHTS_FILE), weights)
    best = directory / BEST_FILE
    return load_file(best) if best.exists() else {}


def restore_optimizer(directory: Path, optimizer: Any) -> None:
    """Restore the optimizer's moments. Its settings, such as the rates, stay those of this attempt."""
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in load_file(directory / MOMENTS_FILE).items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = tensor
    numbers = msgspec.json.decode((directory / NUMBERS_FILE).read_bytes(), type=dict[str, dict[str, float]])
    for key, of_parameter in numbers.items():
        state.setdefault(int(key), {}).update(of_parameter)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def put(found: Weights, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into the parameters of the same names."""
    with torch.no_grad():
        for name, tensor in found.items():
            weights[name].copy_(tensor)


def keep(weights: Mapping[str, torch.Tensor]) -> Weights:
    """Return a copy of the weights in main memory."""
    return {name: _plain(tensor) for name, tensor in weights.items()}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
