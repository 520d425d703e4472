"""Check that a loaded model is where and as it was wanted. The libraries fall back without an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tmde_core.sdk.worker import TrainingFailedError
from tmde_unsloth.memory import Way

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The modules that the adapter changes: all projections, as in the backend `cpu`."""


def check_held_as_wanted(model: Any, device: torch.device, way: Way) -> int:
    """Return how many projections are held in 4 bits.

    Raises:
        TrainingFailedError: parts of the model are on another device, or not in 4 bits although they were wanted so.
    """
    elsewhere = {str(tensor.device) for tensor in model.parameters() if tensor.device.type != device.type}
    if elsewhere:
        raise TrainingFailedError(
            "wrong-device",
            f"Parts of the model are on {', '.join(sorted(elsewhere))} instead of the {device.type}: the memory of the "
            "card is too small for this base model. Choose a smaller one.",
        )
    if way.weight_bits != 4:
        return 0
    from bitsandbytes.nn import Linear4bit

    wrapped = list(_wrapped(model))
    # By class: PEFT's wrapper has the same name.
    others = [name for name, layer in wrapped if not isinstance(layer, Linear4bit)]
    if others or not wrapped:
        raise TrainingFailedError(
            "not-4-bit",
            f"The base model is not held in 4 bits: {len(others):,} of {len(wrapped):,} projections are not "
            f"({', '.join(others[:2])}). Run `tmde backends doctor unsloth`.",
        )
    return len(wrapped)


def _wrapped(model: Any) -> Iterator[tuple[str, Any]]:
    """Return the frozen layers that the adapter changes, with their names."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TARGET_MODULES and hasattr(module, "base_layer"):
            yield name, module.base_layer
