"""Save and restore the state of a run without pickles, and decide after a validation. Private: import from `tmde_core.sdk.worker`.

The functions take tensors and optimizers of PyTorch. A checkpoint has four files, and a fifth if the optimizer keeps
plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tmde_core.records.base import Record, from_json, to_json
from tmde_core.sdk.worker.kit import RunWorker, TrainingFailedError
from tmde_core.sdk.worker.schedule import PATIENCE

__all__ = [
    "TrainingState",
    "check_fingerprint",
    "copy_weights",
    "put_weights",
    "read_state",
    "record_validation",
    "restore_optimizer",
    "restore_weights",
    "resume_state",
    "save_state",
]

STATE_FILE, WEIGHTS_FILE, BEST_FILE, MOMENTS_FILE, NUMBERS_FILE = (
    "state.json",
    "adapter.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "optimizer.json",
)


class TrainingState(Record, frozen=True):
    """The state of a training after `step` optimizer steps. The order of the data follows from the seed and the epoch."""

    fingerprint: str
    """A hash of all that the training depends on: see `RunWorker.fingerprint`. Another one refuses the checkpoint."""
    step: int = 0
    """The optimizer steps that are done."""
    best_val_loss: float | None = None
    """The lowest validation loss so far."""
    last_val_loss: float | None = None
    """The newest validation loss."""
    last_train_loss: float | None = None
    """The loss of the last step."""
    without_gain: int = 0
    """The number of consecutive validations that did not lower the best loss."""
    stopped_early: bool = False
    """Whether `PATIENCE` validations in a row did not lower the best loss."""
    supervised_tokens: int = 0
    """The tokens that were trained on, over all attempts."""
    seconds: float = 0.0
    """The time spent in optimizer steps, over all attempts."""
    loss_scale: float | None = None
    """The scale of the loss on cards that train in float16."""


S = TypeVar("S", bound=TrainingState)


def save_state(
    directory: Path, state: TrainingState, weights: Mapping[str, Any], best: Mapping[str, Any], optimizer: Any
) -> None:
    """Write the files of a checkpoint: call this in the function that you give to `RunWorker.checkpoint`.

    Args:
        directory: the directory of the checkpoint.
        state: the state. It may be of a class of yours that inherits `TrainingState`.
        weights: name → parameter of the adapter.
        best: the weights with the lowest validation loss, from `copy_weights`; empty if there are none yet.
        optimizer: the optimizer of these parameters. Any optimizer of PyTorch whose state is tensors and numbers.
    """
    from safetensors.torch import save_file

    (directory / STATE_FILE).write_bytes(to_json(state))
    save_file(copy_weights(weights), directory / WEIGHTS_FILE)
    if best:
        save_file(dict(best), directory / BEST_FILE)
    moments: dict[str, Any] = {}
    numbers: dict[str, dict[str, float]] = {}
    names = _names(weights, optimizer)
    for index, of_parameter in optimizer.state_dict()["state"].items():
        for key, value in of_parameter.items():
            if hasattr(value, "detach"):
                moments[f"{names[index]}/{key}"] = _plain(value)
            elif isinstance(value, int | float):
                numbers.setdefault(names[index], {})[key] = value
    save_file(moments, directory / MOMENTS_FILE)
    if numbers:
        (directory / NUMBERS_FILE).write_bytes(to_json(numbers))


def read_state(directory: Path, kind: type[S]) -> S:
    """Return the state that a checkpoint contains.

    Args:
        directory: the directory of the checkpoint.
        kind: `TrainingState`, or the class of yours that was saved.

    Raises:
        TrainingFailedError: the directory is not a checkpoint of this backend.
    """
    try:
        return from_json((directory / STATE_FILE).read_bytes(), kind)
    except Exception as error:
        raise _unreadable(directory, error) from None


def resume_state(worker: RunWorker, fingerprint: str) -> TrainingState:
    """Return the state that the job goes on from, or that of a new run.

    Raises:
        TrainingFailedError: the checkpoint cannot be read, or belongs to another run.
    """
    if not worker.job.resume_from:
        return TrainingState(fingerprint=fingerprint)
    state = read_state(Path(worker.job.resume_from), TrainingState)
    check_fingerprint(state, fingerprint)
    return state


def check_fingerprint(state: TrainingState, fingerprint: str) -> None:
    """Raise an error if a checkpoint belongs to another run.

    Raises:
        TrainingFailedError: the fingerprints differ.
    """
    if state.fingerprint != fingerprint:
        raise TrainingFailedError(
            "bad-checkpoint", "The checkpoint belongs to other data, settings or another base model."
        )


def restore_weights(directory: Path, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Restore the adapter's weights from a checkpoint, and return the best weights so far; empty if there are none.

    Raises:
        TrainingFailedError: the checkpoint does not fit this adapter.
    """
    from safetensors.torch import load_file

    try:
        put_weights(load_file(directory / WEIGHTS_FILE), weights)
        best = directory / BEST_FILE
        return load_file(best) if best.exists() else {}
    except Exception as error:
        raise _unreadable(directory, error) from error


def restore_optimizer(directory: Path, weights: Mapping[str, Any], optimizer: Any) -> None:
    """Restore the optimizer's moments from a checkpoint. Its settings, such as the rates, stay those of this attempt.

    Raises:
        TrainingFailedError: the checkpoint does not fit this optimizer.
    """
    from safetensors.torch import load_file

    try:
        index = {name: place for place, name in enumerate(_names(weights, optimizer))}
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in load_file(directory / MOMENTS_FILE).items():
            name, _, moment = key.rpartition("/")
            if name in index:
                state.setdefault(index[name], {})[moment] = tensor
        file = directory / NUMBERS_FILE
        if file.exists():
            for name, numbers in msgspec.json.decode(file.read_bytes(), type=dict[str, dict[str, float]]).items():
                state.setdefault(index[name], {}).update(numbers)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:
        raise _unreadable(directory, error) from error


def put_weights(found: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Copy tensors into the parameters of the same names."""
    import torch

    with torch.no_grad():
        for name, tensor in found.items():
            weights[name].copy_(tensor)


def copy_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the weights in main memory, which further steps do not change."""
    return {name: _plain(tensor) for name, tensor in weights.items()}


def record_validation(worker: RunWorker, state: S, loss: float, epoch: int) -> tuple[S, bool]:
    """Report a validation, and return the new state and whether the loss is the lowest so far.

    The caller keeps the weights if the loss is the lowest, and ends the training if the state is `stopped_early`.

    Args:
        worker: the run.
        state: the state before the validation.
        loss: the mean loss of a supervised token of the validation examples.
        epoch: the epoch, from 1.

    Raises:
        TrainingFailedError: the loss is not finite.
    """
    if not math.isfinite(loss):
        raise TrainingFailedError(
            "nan-loss", f"The validation loss after step {state.step} is {loss}. Lower the learning rate."
        )
    best = state.best_val_loss
    better = best is None or loss < best
    worker.events.eval(state.step, loss, epoch=epoch, best=better)
    without_gain = 0 if better else state.without_gain + 1
    if without_gain >= PATIENCE:
        worker.events.log(f"Stopped early: the validation loss has not fallen {PATIENCE} times in a row.")
    after = msgspec.structs.replace(
        state,
        last_val_loss=loss,
        best_val_loss=loss if better else best,
        without_gain=without_gain,
        stopped_early=without_gain >= PATIENCE,
    )
    return after, better


def _names(weights: Mapping[str, Any], optimizer: Any) -> list[str]:
    """Return the names of an optimizer's parameters, in the order of the numbers in its state."""
    named = {id(tensor): name for name, tensor in weights.items()}
    return [named[id(tensor)] for group in optimizer.param_groups for tensor in group["params"]]


def _plain(tensor: Any) -> Any:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _unreadable(directory: Path, error: Exception) -> TrainingFailedError:
    return TrainingFailedError("bad-checkpoint", f"The checkpoint {directory} cannot be read: {error}")
