"""Check what a library really loaded, and seed a run. Private: import from `tmde_core.sdk.worker`.

The libraries fall back without an error: to the CPU where there is no card, and to 16 bits where they cannot quantise.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

from tmde_core.sdk.worker.kit import RunWorker, TrainingFailedError

__all__ = ["TARGET_MODULES", "check_loaded_model", "describe_no_card", "log_no_card", "require_card", "seed_run"]

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The modules that TMDE's backends adapt: all projections. Attention alone learns less at the same rank (Biderman et
al. 2024, "LoRA Learns Less and Forgets Less")."""


def require_card(backend: str, *, allow_cpu: bool) -> None:
    """Raise an error if PyTorch finds no card and nobody allowed to train without one. Call this early in a worker.

    Args:
        backend: the name of the backend.
        allow_cpu: whether the settings allow to train without a card.

    Raises:
        TrainingFailedError: there is no card.
    """
    import torch

    if not allow_cpu and not torch.cuda.is_available():
        raise TrainingFailedError(
            "no-card",
            f"PyTorch finds no NVIDIA card. Run `tmde backends doctor {backend}`, or train with the backend `cpu`.",
        )


def log_no_card(worker: RunWorker) -> None:
    """Write a warning into the log of a run that trains without a card."""
    worker.events.log(
        "WARNING: there is no NVIDIA card, so this run trains on the CPU because allow_cpu is set. It is much slower, "
        "and the base model is held in 32 bits. The backend `cpu` is faster here."
    )


def describe_no_card(title: str) -> str:
    """Return the warning of a preview on a machine without a card.

    Args:
        title: the name of the library, such as `Unsloth`.
    """
    return (
        f"There is no NVIDIA card that PyTorch can use. {title} will train on the CPU because allow_cpu is set: much "
        "slower, and not in 4 bits. The backend `cpu` is faster here."
    )


def seed_run(seed: int) -> None:
    """Fix what can be fixed: the seeds, and on the CPU the threads. On a card, sums are still rounded differently."""
    import torch

    random.seed(seed)
    torch.manual_seed(seed)  # of every card, too
    if not torch.cuda.is_available():
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1))


def check_loaded_model(
    model: Any, backend: str, device: str, modules: Sequence[str] = TARGET_MODULES, *, four_bit: bool
) -> int:
    """Return how many modules are held in 4 bits, after PEFT has wrapped the model.

    Args:
        model: the model with its adapter.
        backend: the name of the backend.
        device: `cuda` or `cpu`: where the whole model must be.
        modules: the names of the modules that the adapter changes.
        four_bit: whether these modules must be in 4 bits (bitsandbytes).

    Raises:
        TrainingFailedError: parts of the model are on another device, or not in 4 bits although they must be.
    """
    elsewhere = {str(tensor.device) for tensor in model.parameters() if tensor.device.type != device}
    if elsewhere:
        raise TrainingFailedError(
            "wrong-device",
            f"Parts of the model are on {', '.join(sorted(elsewhere))} instead of the {device}: the memory of the card is "
            "too small for this base model. Choose a smaller one.",
        )
    if not four_bit:
        return 0
    from bitsandbytes.nn import Linear4bit

    wrapped = list(_wrapped(model, modules))
    # By class: PEFT's wrapper has the same name.
    others = [name for name, layer in wrapped if not isinstance(layer, Linear4bit)]
    if others or not wrapped:
        raise TrainingFailedError(
            "not-4-bit",
            f"The base model is not held in 4 bits: {len(others):,} of {len(wrapped):,} projections are not "
            f"({', '.join(others[:2])}). Run `tmde backends doctor {backend}`.",
        )
    return len(wrapped)


def _wrapped(model: Any, modules: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Return the frozen layers that the adapter changes, with their names."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in modules and hasattr(module, "base_layer"):
            yield name, module.base_layer
