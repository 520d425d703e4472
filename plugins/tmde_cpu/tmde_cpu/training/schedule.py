"""Compute the learning rate as a function of the step, so that no state needs to be saved or restored."""

from __future__ import annotations

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float, kind: str) -> float:
    """Return the rate of optimizer step `step` (from 0): a linear warm-up, then a cosine or a line down towards 0."""
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done)
