"""Estimate the memory and the time of a run. The server, the preview and the worker use the same formulas.

The figures are corrected by what was measured on this machine (`tmde_core.sdk.measured_runs`): by earlier runs, and
before the first run by the preview, which trains for a moment.
"""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.measured_runs import Correction, find_correction
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import ResourceEstimate

BACKEND = "cpu"
DEVICE = "CPU"
QUANTISATION = "32-bit"

LIBRARY_BYTES = 450_000_000
"""The memory that the worker uses before it has loaded a model."""
FLOAT_BYTES = 4
ADAPTER_COPIES = 4
"""Weights, gradients and AdamW's two moments."""
KEPT_SHARE = 1.1
"""The activations of a pass relative to the widths of the layers. Measured: 428 MB for 573 tokens of a model with 135
million weights."""
TOKENS_PER_SECOND_AND_GIGABYTE = 140.0
"""The number of tokens that two cores train in a second, for each gigabyte of float32 weights. Measured; half of this
on a busy machine."""
LEAST_GIGABYTES = 0.02
"""A smaller model is not faster."""
START_SECONDS = 12.0
"""The time for loading libraries and model, and writing the adapter."""


def computed_peak(shape: Shape, rank: int, tokens: int) -> int:
    """Return the largest memory use of a run whose largest pass has `tokens` tokens, without a correction."""
    weights = FLOAT_BYTES * (shape.weights + ADAPTER_COPIES * shape.adapter(rank))
    # What `training.layers` keeps of a layer for the backward pass. A family that it does not know takes three times that.
    layer = 2 * (shape.hidden + shape.attention + shape.keys + shape.inner)
    return LIBRARY_BYTES + weights + int(KEPT_SHARE * FLOAT_BYTES * tokens * layer * shape.layers)


def computed_pace(weights: float, threads: int) -> float:
    """Return the tokens that are trained in a second, without a correction.

    Args:
        weights: the number of weights of the base model.
        threads: the number of threads.
    """
    return TOKENS_PER_SECOND_AND_GIGABYTE / max(weights * FLOAT_BYTES / 1e9, LEAST_GIGABYTES) * threads / 2


def correction_of(data_dir: Path, shape: Shape) -> Correction:
    """Return the correction by what was measured with this model, or with others."""
    return find_correction(data_dir, BACKEND, DEVICE, QUANTISATION, shape.weights)


def estimate_run(
    found: Correction, shape: Shape, rank: int, longest: int, tokens: float, threads: int
) -> ResourceEstimate:
    """Estimate a run.

    Args:
        found: the correction.
        shape: the base model.
        rank: the rank of the adapter.
        longest: the tokens of the largest pass.
        tokens: all tokens that are computed, over all epochs.
        threads: the number of threads.
    """
    start = START_SECONDS if found.start_seconds is None else found.start_seconds
    return ResourceEstimate(
        ram_bytes=int(computed_peak(shape, rank, longest) * found.memory),
        seconds=round(start + tokens / (computed_pace(shape.weights, threads) * found.pace), 1),
    )
