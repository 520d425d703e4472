"""What the libraries fall back to in silence is refused. The model and bitsandbytes' class are stand-ins."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from tmde_core.sdk.worker import TrainingFailedError
from tmde_unsloth.memory import ON_CARD, ON_CPU
from tmde_unsloth.training.checks import check_held_as_wanted

CPU = torch.device("cpu")


class Linear4bit(torch.nn.Linear):
    """Stands for bitsandbytes' class."""


class Wrapper(torch.nn.Module):
    """Stands for PEFT's wrapper, which has the same name as the layer in it."""

    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer


Wrapper.__name__ = "Linear4bit"


@pytest.fixture(autouse=True)
def bitsandbytes(monkeypatch):
    module = ModuleType("bitsandbytes.nn")
    module.Linear4bit = Linear4bit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", module)


def model(**layers: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.ModuleDict({name: Wrapper(layer) for name, layer in layers.items()})


def test_projections_in_4_bits_are_counted_by_class():
    assert check_held_as_wanted(model(q_proj=Linear4bit(2, 2), up_proj=Linear4bit(2, 2)), CPU, ON_CARD) == 2


def test_a_single_projection_that_is_not_in_4_bits_is_refused():
    with pytest.raises(TrainingFailedError, match=r"1 of 2 projections are not \(v_proj\)") as refused:
        check_held_as_wanted(model(q_proj=Linear4bit(2, 2), v_proj=torch.nn.Linear(2, 2)), CPU, ON_CARD)
    assert refused.value.reason == "not-4-bit"


def test_a_model_without_any_adapted_projection_is_refused():
    with pytest.raises(TrainingFailedError, match="0 of 0"):
        check_held_as_wanted(torch.nn.Linear(2, 2), CPU, ON_CARD)


def test_parts_on_another_device_are_refused():
    with pytest.raises(TrainingFailedError, match="Parts of the model are on meta instead of the cpu"):
        check_held_as_wanted(model(q_proj=torch.nn.Linear(2, 2, device="meta")), CPU, ON_CPU)


def test_a_model_that_is_not_wanted_in_4_bits_is_not_counted():
    assert check_held_as_wanted(model(q_proj=torch.nn.Linear(2, 2)), CPU, ON_CPU) == 0
