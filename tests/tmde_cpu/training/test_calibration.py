"""What is remembered of this machine's speed is the machine's own, not that of a busy hour."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.files import FileLock
from tmde_cpu.training import calibration
from tmde_cpu.training.calibration import Calibration


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
    assert calibration.measure(trainee, pack, FineTuneConfig()).seconds_per_token == pytest.approx(counted / 10)


@pytest.mark.parametrize("training", [False, True])
def test_figures_taken_beside_a_trainer_are_not_remembered(monkeypatch, tmp_path, training):
    taken = Calibration(seconds_per_token=1.0, loaded_bytes=1, bytes_per_token=1.0, adapter_bytes_per_rank=1.0)
    monkeypatch.setattr(calibration, "load_trainee", lambda *_: None)
    monkeypatch.setattr(calibration, "measure", lambda *_: taken)
    leash = tmp_path / "runs" / "one" / "leash"
    leash.parent.mkdir(parents=True)
    leash.touch()
    base: Any = SimpleNamespace(model_sha256="0" * 64)
    with FileLock.acquire(leash) if training else nullcontext():
        assert calibration.load_or_measure(tmp_path, tmp_path, base, FineTuneConfig(), Any) == taken  # type: ignore[arg-type]
    assert (tmp_path / calibration.FILE).exists() is not training
