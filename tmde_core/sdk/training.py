"""Training backends: the port and its optional parts, its descriptor, and the values they exchange."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tmde_core.records.finetune import Dataset, FineTuneConfig, FineTuneMetrics
from tmde_core.records.runtimes import Availability
from tmde_core.records.training import (
    PREVIEW_FILE,
    ExampleTokens,
    MaskedPiece,
    PreviewReport,
    ResourceEstimate,
    ServedForm,
    TrainingExample,
    TrainingJob,
    WorkerCommand,
)
from tmde_core.sdk.context import MakingDescriptor, PluginContext

__all__ = [
    "PREVIEW_FILE",
    "Availability",
    "BackendDescriptor",
    "ConvertingBackend",
    "Dataset",
    "ExampleTokens",
    "FineTuneConfig",
    "FineTuneMetrics",
    "MaskedPiece",
    "PreviewReport",
    "PreviewingBackend",
    "ResourceEstimate",
    "ServedForm",
    "TrainingBackend",
    "TrainingExample",
    "TrainingJob",
    "WorkerCommand",
]


@runtime_checkable
class TrainingBackend(Protocol):
    """Plans training; never trains. The supervisor runs the plan in a detached process."""

    def availability(self) -> Availability: ...

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        """What the job will need; unknown figures are None."""

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """The command whose process trains, logs with `tmde_core.sdk.worker.kit` and fills `output_dir`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """


@runtime_checkable
class PreviewingBackend(Protocol):
    """A training backend that can also look at a dataset before the run. Optional: others are previewed without tokens."""

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """The command whose process writes a `PreviewReport` as `preview.json` into `job.run_dir`, and trains nothing.

        It may measure for some seconds and remember what it measured. A failure is one sentence on stderr and exit status 1.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """


@runtime_checkable
class ConvertingBackend(Protocol):
    """A training backend that can also make the served form of an adapter that it has not trained. Optional: without one, an
    adapter from an archive can be kept, listed and exported, but not be served by a runtime that wants another form.
    """

    def convert(self, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
        """The command whose process compares the adapter with its base model, writes `adapter.gguf` beside the weights, and prints
        a `ServedForm`; None when this backend does not know the base model. A failure is one sentence on stderr and exit status 1.

        Args:
            adapter_dir: holds `adapter_model.safetensors` and `adapter_config.json`, both checked for themselves.
            base_model: as the adapter names it; nobody has checked it.
        """


class BackendDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A training backend that a plugin offers. Its settings table is `[backends.NAME]`."""

    create: Callable[[PluginContext[Any]], TrainingBackend]
    environment: str = sys.prefix
    """The directory of the Python environment that its workers run in; left out, TMDE's own."""
