"""Define the CPU training backend: whether it can train here, what training needs, and how the worker is started."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil

from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.environments import VARIABLES, Environment
from tmde_core.sdk.measured_runs import rough_lengths
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import FineTuneConfig, Quantization, ResourceEstimate, TrainingJob, WorkerCommand
from tmde_cpu.base_name import resolve_base_model
from tmde_cpu.environment import ENVIRONMENT, CpuSettings
from tmde_cpu.estimate import (
    FLOAT_BYTES,
    LIBRARY_BYTES,
    START_SECONDS,
    computed_pace,
    correction_of,
    estimate_run,
)
from tmde_cpu.gguf.adapter_form import plan_conversion, plan_merge

BYTES_PER_GGUF_BYTE = 5.5
"""A Q4_1 file of 98 MB holds 134.5 million weights, which are 538 MB in float32."""

PASS_SHARE = 0.8
"""The activations of the largest pass, relative to the weights of a small model (135 million: 0.3 GB for 425 tokens).
"""

PASS_TOKENS = 512
"""The tokens of a pass, if no example is longer."""


class CpuBackend:
    """Plans training with transformers and peft in float32 (a `TrainingBackend`)."""

    def __init__(self, context: PluginContext[CpuSettings]) -> None:
        self._data_dir = context.data_dir
        self._environment = Environment.of(context, "cpu", ENVIRONMENT)

    def availability(self) -> Availability:
        """Return whether the packages of training are installed. They are located, not imported."""
        return self._environment.availability()

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        """Estimate from the shape of the base model and the size of the training file, corrected by earlier runs."""
        base = resolve_base_model(self._data_dir, job.base_model)
        config = msgspec.convert(job.config, FineTuneConfig)
        lengths = [min(length, config.max_seq_length) for length in rough_lengths(job.train_file)]
        tokens = sum(lengths) * config.epochs
        shape = Shape.read(base)
        if shape is not None:
            longest = max(PASS_TOKENS, int(max(lengths, default=0.0)))
            found = correction_of(self._data_dir, shape)
            return estimate_run(found, shape, config.lora_rank, longest, tokens, _threads())
        if base.is_dir():
            weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
        else:
            weights = int(base.stat().st_size * BYTES_PER_GGUF_BYTE)
        return ResourceEstimate(
            ram_bytes=int(LIBRARY_BYTES + weights * (1 + PASS_SHARE)),
            seconds=START_SECONDS + tokens / computed_pace(weights / FLOAT_BYTES, _threads()),
        )

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the trainer process, with threads that do not spin.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        resolve_base_model(self._data_dir, job.base_model)
        return self._worker("tmde_cpu.training.trainer", job)

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the preview process. See `tmde_core.sdk.training.PreviewingBackend`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        resolve_base_model(self._data_dir, job.base_model)
        return self._worker("tmde_cpu.training.preview_worker", job)

    def convert(self, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
        """Return the command that creates the GGUF form. See `tmde_core.sdk.training.ConvertingBackend`."""
        return plan_conversion(self._data_dir, adapter_dir, base_model)

    def dequantize(self, gguf: Path) -> WorkerCommand | None:
        """Return the command that converts a GGUF file. See `tmde_core.sdk.training.DequantizingBackend`."""
        if not self.availability().ok:
            return None
        return WorkerCommand(
            argv=self._environment.argv("tmde_cpu.dequantize", str(self._data_dir), str(gguf)),
            env={
                # A worker of another environment starts it, and has emptied these variables.
                **{name: os.environ.get(name, "") for name in VARIABLES},
                **self._environment.variables,
                "OMP_WAIT_POLICY": "passive",
                "HF_HUB_OFFLINE": "1",
                "PYTHONUNBUFFERED": "1",
            },
        )

    def merge(
        self, adapter_dir: Path, base_model: str, target: Path, quantization: Quantization
    ) -> WorkerCommand | None:
        """Return the command that writes a merged model. See `tmde_core.sdk.training.MergingBackend`."""
        return plan_merge(self._data_dir, adapter_dir, base_model, target, quantization)

    def _worker(self, module: str, job: TrainingJob) -> WorkerCommand:
        return WorkerCommand(
            argv=self._environment.argv(module, str(Path(job.run_dir) / "job.json")),
            env={
                **self._environment.variables,
                # Spinning threads slow down each other and everything else when another process is busy.
                "OMP_WAIT_POLICY": "passive",
                "OMP_NUM_THREADS": str(_threads()),
                # Activations are allocated in blocks of half a megabyte and more. Returning them at once avoids
                # fragmentation.
                "MALLOC_MMAP_THRESHOLD_": "262144",
                "MALLOC_TRIM_THRESHOLD_": "262144",
                "MKL_DYNAMIC": "FALSE",
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
                "PYTHONUNBUFFERED": "1",
            },
        )


def _threads() -> int:
    """Return the number of physical cores. Hyper-threads share the unit that multiplies."""
    return psutil.cpu_count(logical=False) or 1
