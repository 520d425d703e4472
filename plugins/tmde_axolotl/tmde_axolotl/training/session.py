"""What TMDE knows of a run while Axolotl trains it. Axolotl creates its plugins itself, so they find the run here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tmde_axolotl.configuration import Device
from tmde_core.sdk.worker import EncodedExample, Measurement, RunWorker, TrainingState


@dataclass
class Session:
    """One attempt of a run."""

    worker: RunWorker
    device: Device
    training: Sequence[EncodedExample]
    validation: Sequence[EncodedExample]
    at: TrainingState
    resumed: Path | None
    """The checkpoint that this attempt goes on from."""
    best: dict[str, Any] = field(default_factory=dict)
    """The weights with the lowest validation loss so far."""
    trainer: Any = None
    """Axolotl's trainer, as soon as it exists."""
    step_loss: torch.Tensor | None = None
    """The sum of the losses of the parts of this step."""
    step_supervised: int = 0
    measurement: Measurement | None = None
    """The measurement of this attempt, as soon as the model is loaded."""
    kept: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps in an epoch."""
        config = self.worker.config
        return math.ceil(len(self.training) / (config.batch_size * config.gradient_accumulation_steps))

    @property
    def total_steps(self) -> int:
        """The number of optimizer steps in the run."""
        return self.steps_per_epoch * self.worker.config.epochs

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the adapter's parameters by name. Only these are trained."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def rows(examples: Sequence[EncodedExample]) -> list[dict[str, list[int]]]:
    """Return examples in the form that Axolotl leaves as it is. Only the answer has labels."""
    return [
        {
            "input_ids": list(one.tokens),
            "attention_mask": [1] * len(one),
            "labels": list(one.labels),
        }
        for one in examples
    ]


_current: ContextVar[Session] = ContextVar("session")


def begin(session: Session) -> None:
    """Make this run the one that the plugin serves."""
    _current.set(session)


def current() -> Session:
    """Return the run of this process."""
    return _current.get()
