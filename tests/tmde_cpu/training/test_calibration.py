"""What is remembered of this machine's speed is the machine's own, not that of a busy hour."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.files import FileLock
from tmde_core.sdk.model_shape import Shape
from tmde_cpu.training import calibration

SHAPE = Shape(hidden=64, inner=128, layers=2, attention=64, keys=32, vocabulary=1000, tied=True)


class Clocks:
    """Each pass takes so many seconds, in which the processor works for so many."""

    def __init__(self, wall: float, busy: float) -> None:
        self._wall, self._busy, self._passes = wall, busy, 0

    def step(self, *_: Any) -> None:
        self._passes += 1

    def monotonic(self) -> float:
        return self._passes * self._wall

    def process_time(self) -> float:
        return self._passes * self._busy


@pytest.mark.parametrize(
    ("wall", "busy", "counted"), [(2.0, 3.5, 2.0), (20.0, 3.5, 3.5)], ids=["alone, two threads", "on a busy machine"]
)
def test_a_pass_that_had_to_wait_counts_for_the_work_in_it(monkeypatch, wall, busy, counted):
    clocks = Clocks(wall, busy)
    monkeypatch.setattr(calibration, "time", clocks)
    monkeypatch.setattr(calibration, "optimizer_step", clocks.step)
    trainee: Any = SimpleNamespace(
        weights={"a": torch.zeros(2, requires_grad=True)}, passes=SimpleNamespace(bytes_of=lambda *_, **__: 1000)
    )
    pack: Any = SimpleNamespace(size=10)
    found = calibration.measure(trainee, pack, FineTuneConfig(), SHAPE, "a-model")
    assert found.tokens_per_second == pytest.approx(10 / counted)
    assert (found.trial, found.base_model, found.weights) == (True, "a-model", SHAPE.weights)


@pytest.mark.parametrize("training", [False, True])
def test_a_trainer_at_work_is_seen_by_its_leash(tmp_path, training):
    leash = tmp_path / "runs" / "one" / "leash"
    leash.parent.mkdir(parents=True)
    leash.touch()
    with FileLock.acquire(leash) if training else nullcontext():
        assert calibration.is_training(tmp_path) is training
