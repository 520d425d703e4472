"""What hyperparameters are called, and how their values and losses are written."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "loraRank": "LoRA rank",
    "loraAlpha": "LoRA alpha",
    "learningRate": "Learning rate",
    "batchSize": "Batch size",
    "gradientAccumulationSteps": "Accumulation steps",
    "epochs": "Epochs",
    "maxSeqLength": "Longest example, tokens",
    "warmupRatio": "Warm-up",
    "evalSteps": "Validate every … steps",
    "weightDecay": "Weight decay",
    "lrScheduler": "Schedule of the rate",
    "minQualityScore": "Lowest score",
    "minTraces": "Fewest examples",
    "baseModel": "Base model",
    "backend": "Backend",
    "seed": "Seed",
}
"""Hyperparameter on the wire → its name on the page. One that is missing goes by its name on the wire."""


def figure_of(value: object) -> str:
    """A hyperparameter's value as a person would type it."""
    if not isinstance(value, float):
        return str(value)
    plain = f"{value:g}"
    return plain if "e" not in plain else f"{value:.12f}".rstrip("0")


def loss(value: float | None) -> str:
    """A loss to three decimals; a dash where it was never measured."""
    return "–" if value is None else f"{value:.3f}"
