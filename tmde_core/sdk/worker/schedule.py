"""Compute the order of examples and the learning rate from seed and step. Private: import from `tmde_core.sdk.worker`.

These values need not be saved or restored, because they follow from the configuration and the step. Every backend that follows these rules sees the same examples in the same order, at the same learning rates.
"""

from __future__ import annotations

import math
import random

__all__ = ["PATIENCE", "learning_rate", "order_examples"]

PATIENCE = 3
"""The number of validations without a lower loss before training stops."""


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float, kind: str) -> float:
    """Return the rate of optimizer step `step` (from 0): a linear warm-up, then a cosine or a line down towards 0."""
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done)


def order_examples(examples: int, seed: int, epoch: int) -> list[int]:
    """Return the order of an epoch: a shuffle that depends only on seed and epoch."""
    order = list(range(examples))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order
