"""Defines named sets of hyperparameters to start from. Values that a preset does not name stay unchanged."""

from __future__ import annotations

from typing import Any

import msgspec

from tmde_core.records.base import Record


class Preset(Record):
    """A set of hyperparameters that fit together."""

    name: str
    about: str
    """When to use the preset, in a sentence."""
    values: dict[str, Any] = msgspec.field(default_factory=dict)
    """The values by their JSON names."""


PRESETS = (
    Preset(
        name="Balanced",
        about="What TMDE ships with; for a mixed bag of good debates.",
        values={
            "epochs": 3, "learningRate": 2e-4, "loraRank": 16, "loraAlpha": 32, "batchSize": 4, "gradientAccumulationSteps": 4,
        },
    ),
    Preset(
        name="Narrow task",
        about="Short answers of one kind. What the measured loop trains with; needs checking on other questions.",
        values={
            "epochs": 3, "learningRate": 5e-4, "loraRank": 16, "loraAlpha": 32, "batchSize": 8, "gradientAccumulationSteps": 1,
        },
    ),
    Preset(
        name="Quick look",
        about="One gentle pass, to see that it runs and what it costs before a whole night is spent.",
        values={
            "epochs": 1, "learningRate": 1e-4, "loraRank": 8, "loraAlpha": 16, "batchSize": 4, "gradientAccumulationSteps": 4,
        },
    ),
)  # fmt: skip
