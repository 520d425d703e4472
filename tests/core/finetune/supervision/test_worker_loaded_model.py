"""What the libraries fall back to in silence is refused. The model and bitsandbytes' class are stand-ins."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from tmde_core.sdk.worker import TrainingFailedError, check_loaded_model, require_card


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
    assert (
        check_loaded_model(model(q_proj=Linear4bit(2, 2), up_proj=Linear4bit(2, 2)), "mine", "cpu", four_bit=True) == 2
    )


def test_a_single_projection_that_is_not_in_4_bits_is_refused():
    with pytest.raises(
        TrainingFailedError, match=r"1 of 2 projections are not \(v_proj\). Run `tmde backends doctor mine`"
    ) as refused:
        check_loaded_model(model(q_proj=Linear4bit(2, 2), v_proj=torch.nn.Linear(2, 2)), "mine", "cpu", four_bit=True)
    assert refused.value.reason == "not-4-bit"


def test_a_model_without_any_adapted_projection_is_refused():
    with pytest.raises(TrainingFailedError, match="0 of 0"):
        check_loaded_model(torch.nn.Linear(2, 2), "mine", "cpu", four_bit=True)


def test_parts_on_another_device_are_refused():
    with pytest.raises(TrainingFailedError, match="Parts of the model are on meta instead of the cpu"):
        check_loaded_model(model(q_proj=torch.nn.Linear(2, 2, device="meta")), "mine", "cpu", four_bit=False)


def test_a_model_that_is_not_wanted_in_4_bits_is_not_counted():
    assert check_loaded_model(model(q_proj=torch.nn.Linear(2, 2)), "mine", "cpu", four_bit=False) == 0


def test_a_run_that_needs_a_card_is_refused_without_one_unless_the_settings_allow_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    require_card("mine", allow_cpu=True)
    with pytest.raises(TrainingFailedError, match="Run `tmde backends doctor mine`") as refused:
        require_card("mine", allow_cpu=False)
    assert refused.value.reason == "no-card"
