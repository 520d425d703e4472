"""A checkpoint gives back the state, the weights and the optimizer to the bit, whatever the optimizer keeps."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tmde_core.sdk.worker import (
    PATIENCE,
    TrainingFailedError,
    TrainingState,
    check_fingerprint,
    copy_weights,
    put_weights,
    read_state,
    record_validation,
    restore_optimizer,
    restore_weights,
    resume_state,
    save_state,
)


def adapter(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn(4, 3, requires_grad=True) for name in ("layer.0.lora_A", "layer.0.lora_B")}


class Counting(torch.optim.SGD):
    """An optimizer that keeps a plain number, too."""

    def step(self, closure: Any = None) -> Any:
        done = super().step(closure)
        for group in self.param_groups:
            for tensor in group["params"]:
                self.state[tensor]["rate"] = 0.25
        return done


def adamw(weights: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights.values(), lr=0.1, fused=True)


def backwards(weights: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    """Return an optimizer whose groups have another order than the names, as those of some trainers."""
    first, second = weights.values()
    return torch.optim.AdamW([{"params": [second]}, {"params": [first]}], lr=0.1)


def counting(weights: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    return Counting(weights.values(), lr=0.1, momentum=0.9)


def steps(weights: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, *numbers: int) -> None:
    for number in numbers:
        torch.manual_seed(number)
        for tensor in weights.values():
            tensor.grad = torch.randn_like(tensor)
        optimizer.step()


@pytest.mark.parametrize("make", [adamw, backwards, counting])
def test_a_resumed_optimizer_goes_on_to_the_same_bits(tmp_path: Path, make: Any):
    weights = adapter(1)
    optimizer = make(weights)
    steps(weights, optimizer, 1, 2)
    best = copy_weights(weights)
    save_state(tmp_path, TrainingState(fingerprint="a", step=2), weights, best, optimizer)
    steps(weights, optimizer, 3)

    others = adapter(2)
    resumed = make(others)
    found = restore_weights(tmp_path, others)
    restore_optimizer(tmp_path, others, resumed)
    steps(others, resumed, 3)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(best[name], found[name]) for name in weights)
    assert read_state(tmp_path, TrainingState) == TrainingState(fingerprint="a", step=2)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}, "no pickles"


def test_a_checkpoint_before_the_first_step_has_no_moments_and_no_best_weights(tmp_path):
    weights = adapter(1)
    save_state(tmp_path, TrainingState(fingerprint="a"), weights, {}, adamw(weights))
    others = adapter(2)
    assert restore_weights(tmp_path, others) == {}
    restore_optimizer(tmp_path, others, adamw(others))
    assert torch.equal(weights["layer.0.lora_A"], others["layer.0.lora_A"])


def test_a_copy_of_the_weights_stays_as_it_is(tmp_path):
    weights = adapter(1)
    copy = copy_weights(weights)
    before = copy["layer.0.lora_A"].clone()
    steps(weights, adamw(weights), 1)
    assert torch.equal(copy["layer.0.lora_A"], before)
    put_weights(copy, weights)
    assert torch.equal(weights["layer.0.lora_A"], before)


@pytest.mark.parametrize("damage", ["absent", "cut", "of another adapter"])
def test_a_checkpoint_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path, damage: str):
    weights = adapter(1)
    save_state(tmp_path, TrainingState(fingerprint="a"), weights, {}, adamw(weights))
    file = tmp_path / "adapter.safetensors"
    if damage == "absent":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:20])
    others = {"other": torch.zeros(1, requires_grad=True)} if damage == "of another adapter" else adapter(1)
    with pytest.raises(TrainingFailedError, match="cannot be read") as refused:
        restore_weights(tmp_path, others)
    assert refused.value.reason == "bad-checkpoint"
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(TrainingFailedError, match="cannot be read"):
        read_state(tmp_path, TrainingState)


class Run:
    """Stands for a worker."""

    def __init__(self, resume_from: str = "") -> None:
        self.job = SimpleNamespace(resume_from=resume_from)
        self.told: list[Any] = []
        self.events = SimpleNamespace(
            eval=lambda step, loss, **more: self.told.append((step, loss, more)), log=self.told.append
        )


def test_a_run_goes_on_only_from_a_checkpoint_of_its_own(tmp_path):
    state = TrainingState(fingerprint="a", step=7)
    weights = adapter(1)
    save_state(tmp_path, state, weights, {}, adamw(weights))
    new: Any = Run()
    resumed: Any = Run(str(tmp_path))
    assert resume_state(new, "a") == TrainingState(fingerprint="a")
    assert resume_state(resumed, "a") == state
    with pytest.raises(TrainingFailedError, match="belongs to other data"):
        resume_state(resumed, "b")
    check_fingerprint(state, "a")


def test_training_stops_after_validations_without_a_lower_loss():
    run: Any = Run()
    state, better = record_validation(run, TrainingState(fingerprint="a", step=3), 2.0, 1)
    assert (better, state.best_val_loss) == (True, 2.0)
    for _ in range(PATIENCE):
        assert not state.stopped_early
        state, better = record_validation(run, state, 2.5, 1)
        assert not better
    assert (state.stopped_early, state.best_val_loss, state.last_val_loss) == (True, 2.0, 2.5)
    assert run.told[0] == (3, 2.0, {"epoch": 1, "best": True})
    assert run.told[-1] == f"Stopped early: the validation loss has not fallen {PATIENCE} times in a row."


def test_a_loss_that_is_no_number_ends_the_run():
    run: Any = Run()
    with pytest.raises(TrainingFailedError, match="The validation loss after step 3 is nan"):
        record_validation(run, TrainingState(fingerprint="a", step=3), math.nan, 1)
