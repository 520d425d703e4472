"""Training backends: the protocol and its optional parts, the descriptor, and the values of a training job."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tmde_core.records.finetune import Dataset, FineTuneConfig, FineTuneMetrics
from tmde_core.records.runtimes import Availability
from tmde_core.records.training import (
    PREVIEW_FILE,
    ConversionResult,
    ExampleTokens,
    MaskedPiece,
    MemoryParts,
    MergeProgress,
    MergeQuality,
    MergeResult,
    PreviewReport,
    Quantization,
    ResourceEstimate,
    TrainingExample,
    TrainingJob,
    UnusableExample,
    WorkerCommand,
)
from tmde_core.sdk.context import MakingDescriptor, PluginContext
from tmde_core.sdk.environments import EnvironmentSpec

__all__ = [
    "PREVIEW_FILE",
    "Availability",
    "BackendDescriptor",
    "ConversionResult",
    "ConvertingBackend",
    "Dataset",
    "DequantizingBackend",
    "ExampleTokens",
    "FineTuneConfig",
    "FineTuneMetrics",
    "MaskedPiece",
    "MemoryParts",
    "MergeProgress",
    "MergeQuality",
    "MergeResult",
    "MergingBackend",
    "PreviewReport",
    "PreviewingBackend",
    "Quantization",
    "RecommendingBackend",
    "ResourceEstimate",
    "TrainingBackend",
    "TrainingExample",
    "TrainingJob",
    "UnusableExample",
    "WorkerCommand",
]


@runtime_checkable
class TrainingBackend(Protocol):
    """Plans training but does not train. TMDE runs the plan in a separate process."""

    def availability(self) -> Availability:
        """Return whether the backend can train on this machine now, without importing a training library."""

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        """Return the resources that the job will need. Unknown values are None."""

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of a process that trains.

        The process uses `tmde_core.sdk.worker.RunWorker`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """


@runtime_checkable
class PreviewingBackend(Protocol):
    """A training backend that can also analyse a dataset before the run.

    This protocol is optional. Without it, a preview counts no tokens.
    """

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of a process that writes a `PreviewReport` as `preview.json` into `job.run_dir`.

        The process does not train. It may measure for some seconds and keep the result. It may write the report twice:
        what the tokens say is shown while it measures. It is ended after 90 seconds, and when a training run begins. If
        it fails, it writes one sentence to stderr and exits with 1.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """


@runtime_checkable
class ConvertingBackend(Protocol):
    """A training backend that can also create the GGUF form of an adapter that it did not train.

    This protocol is optional. Without such a backend, a runtime that needs the GGUF form cannot serve imported
    adapters.
    """

    def convert(self, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
        """Return the command of a process that creates the GGUF form; None if the base model is unknown here.

        The process compares the adapter with its base model, writes `adapter.gguf` beside the weights, and prints a
        `ConversionResult`. If it fails, it writes one sentence to stderr and exits with 1.

        Args:
            adapter_dir: contains `adapter_model.safetensors` and `adapter_config.json`. Each file was checked on its
                own.
            base_model: the unchecked name in the adapter's configuration.
        """


@runtime_checkable
class DequantizingBackend(Protocol):
    """A training backend that can also convert the weights of a GGUF file, so that every backend can train them.

    This protocol is optional. Without such a backend, only the backends that read GGUF files can train a base model
    that has no safetensors here.
    """

    def dequantize(self, gguf: Path) -> WorkerCommand | None:
        """Return the command of a process that converts the file to safetensors; None if that is impossible here.

        The process writes a directory with config.json, safetensors and the tokenizer, and prints its path as the last
        line of standard output. It keeps the directory, so a second call is quick. If it fails, it writes one sentence
        to stderr and exits with 1.

        Args:
            gguf: an existing GGUF file.
        """


@runtime_checkable
class MergingBackend(Protocol):
    """A training backend that can also write an adapter and its base model as one GGUF file.

    This protocol is optional. Without such a backend, adapters cannot be exported as `merged-gguf`.
    """

    def merge(
        self, adapter_dir: Path, base_model: str, target: Path, quantization: Quantization
    ) -> WorkerCommand | None:
        """Return the command of a process that writes the merged model; None if the base model is unknown here.

        The process writes the file `target`, compares it with the base model and the adapter, and prints a
        `MergeProgress` for each step that takes time. The last line has the result. If it fails, it writes one sentence
        to stderr and exits with 1.

        Args:
            adapter_dir: contains `adapter.gguf` and `adapter_config.json`, both verified.
            base_model: the name of the base model in the adapter's manifest.
            target: the new file. The directory exists.
            quantization: how the weights are stored.
        """


@runtime_checkable
class RecommendingBackend(Protocol):
    """A training backend that is not the best choice on every machine where it can train.

    This protocol is optional. Without it, `auto` may select the backend wherever it is available.
    """

    def recommendation(self) -> Availability:
        """Return whether `auto` should select the backend on this machine, and why or why not."""


class BackendDescriptor(MakingDescriptor, frozen=True, kw_only=True):
    """A training backend that a plugin offers. Its settings table is `[backends.NAME]`."""

    create: Callable[[PluginContext[Any]], TrainingBackend]
    """Creates the backend."""
    uses_card: bool = False
    """Whether it trains on a graphics card if there is one."""
    environment: str = sys.prefix
    """The directory of the Python environment for its workers. The default is TMDE's own environment."""
    environment_spec: EnvironmentSpec | None = None
    """The Python environment that `tmde backends install` builds for its workers. None: the workers need none."""
    preference: int = 0
    """`auto` selects the available backend with the highest preference. See `RecommendingBackend`."""
