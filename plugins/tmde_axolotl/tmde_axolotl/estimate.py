"""Estimate the memory and the time of a run. The server, the preview and the worker use the same formulas.

If runs were measured on this machine, the figures are corrected with them (`tmde_core.sdk.measured_runs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tmde_axolotl.memory import CONTEXT_BYTES, peak_bytes
from tmde_core.sdk.measured_runs import find_correction
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import FineTuneConfig, ResourceEstimate

BACKEND = "axolotl"
CPU = "CPU"
"""The name of the device if there is no card."""

START_SECONDS = 60.0
"""The time for importing Axolotl, loading the model, and writing the adapter."""
COMPUTE_TOKENS = 9_000.0
"""Tokens that a large card trains in a second, for each billion weights in 4 bits. Plain PEFT and bitsandbytes, which
Axolotl uses, were measured on an H100: 9,136. A consumer card has a fifth to a third of its speed."""
CARD_SHARE = 0.25
CPU_TOKENS = 20.0
"""Tokens that a CPU trains in a second, for each billion weights in 32 bits. Assumed: two cores with 10 each."""
LEAST_BILLIONS = 0.05
"""A smaller model is not faster."""


@dataclass(frozen=True)
class Estimate:
    """An estimate, and what it is based on."""

    resources: ResourceEstimate
    calibrated: bool = False
    """Whether earlier runs corrected it."""
    basis: str = ""
    """Which figures were measured and which were computed, in sentences."""


def weight_bits(device: str, *, four_bit: bool) -> int:
    """Return the bits of a weight of the base model on a device: the name of a card, or `CPU`."""
    if device == CPU:
        return 32
    return 4 if four_bit else 16


def computed_pace(shape: Shape, device: str) -> float:
    """Return the tokens that a device trains in a second, without a correction."""
    tokens = CPU_TOKENS if device == CPU else COMPUTE_TOKENS * CARD_SHARE
    return tokens / max(shape.weights / 1e9, LEAST_BILLIONS)


def computed_peak(shape: Shape, rank: int, tokens: int, bits: int) -> int:
    """Return the largest memory use that can be measured, without a correction: on a CPU with the libraries."""
    return peak_bytes(shape, rank, tokens, bits) + (CONTEXT_BYTES if bits == 32 else 0)


def estimate_run(
    data_dir: Path, shape: Shape, config: FineTuneConfig, device: str, lengths: Sequence[float], *, four_bit: bool
) -> Estimate:
    """Estimate a run whose examples have so many tokens.

    Args:
        data_dir: the data directory, which has the measured runs.
        shape: the base model.
        config: the hyperparameters.
        device: the name of the card, or `CPU`.
        lengths: the tokens of the training examples.
        four_bit: whether a card holds the base model in 4 bits.
    """
    if not lengths:
        return Estimate(ResourceEstimate())
    bits = weight_bits(device, four_bit=four_bit)
    found = find_correction(data_dir, BACKEND, device, f"{bits}-bit", shape.weights)
    tokens = min(config.batch_size, len(lengths)) * int(min(max(lengths), config.max_seq_length))
    peak = int(computed_peak(shape, config.lora_rank, tokens, bits) * found.memory)
    start = START_SECONDS if found.start_seconds is None else found.start_seconds
    seconds = round(start + sum(lengths) * config.epochs / (computed_pace(shape, device) * found.pace), 1)
    if device == CPU:
        resources = ResourceEstimate(ram_bytes=peak, seconds=seconds)
    else:
        resources = ResourceEstimate(vram_bytes=peak + CONTEXT_BYTES, seconds=seconds, device=device)
    return Estimate(resources, found.runs > 0, found.describe(device))
