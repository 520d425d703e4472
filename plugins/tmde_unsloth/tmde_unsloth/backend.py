"""Define the Unsloth training backend: whether it can train here, what training needs, and how workers are started."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil

from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.environments import VARIABLES, Environment
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import FineTuneConfig, ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.worker import find_weights
from tmde_unsloth.environment import ENVIRONMENT
from tmde_unsloth.estimate import BACKEND, CPU, Device, Lengths, estimate_run
from tmde_unsloth.options import UnslothSettings

BYTES_PER_TOKEN = 3.5
"""The approximate number of characters of English, punctuation and JSON in one token."""


class UnslothBackend:
    """Plans training with Unsloth (a `TrainingBackend`). The workers run in an environment of their own."""

    def __init__(self, context: PluginContext[UnslothSettings]) -> None:
        self._data_dir = context.data_dir
        self._settings = context.settings
        self._environment = Environment.of(context, BACKEND, ENVIRONMENT)

    def availability(self) -> Availability:
        """Return whether the environment is complete and has a card, from what its probe found."""
        found = self._environment.availability()
        report = self._environment.report()
        if not found.ok or report is None:
            return found
        if report.device != "cuda" and not self._settings.allow_cpu:
            return Availability(
                ok=False,
                reason=(
                    "There is no NVIDIA card that PyTorch can use. Train with the backend `cpu`, or set allow_cpu = true "
                    "in [backends.unsloth] to train here without a card, which is much slower."
                ),
            )
        return Availability(ok=True)

    def recommendation(self) -> Availability:
        """Return whether `auto` should choose this backend: only with a card."""
        found = self.availability()
        report = self._environment.report()
        if not found.ok or report is None:
            return found
        if report.device != "cuda":
            return Availability(ok=False, reason="There is no card, and without one the backend `cpu` is faster.")
        return Availability(ok=True, reason=f"It trains on {report.device_name}.")

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        """Estimate the memory of the card from the shape of the base model, and the time from the training file."""
        shape = Shape.read(find_weights(job))
        if shape is None:
            return ResourceEstimate()
        config = msgspec.convert(job.config, FineTuneConfig)
        lengths = Lengths(_rough_lengths(job.train_file, config), _rough_lengths(job.val_file, config))
        return estimate_run(
            self._data_dir, shape, config, self._device(), lengths, self._settings.micro_batch
        ).resources

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the training process.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        find_weights(job)
        return self._worker("tmde_unsloth.training.worker", job)

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the preview process. See `tmde_core.sdk.training.PreviewingBackend`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        find_weights(job)
        device = self._device()
        # The probe has found the card already. Asking CUDA again would take seconds and memory of the card.
        told = ("--device", device.name, "--device-bytes", str(device.memory_bytes or 0), "--cores", str(device.cores))
        return self._worker("tmde_unsloth.training.preview_worker", job, told)

    def _device(self) -> Device:
        report = self._environment.report()
        cores = psutil.cpu_count(logical=False) or 1
        if report is None or report.device != "cuda":
            return Device(CPU, cores=cores)
        return Device(report.device_name or "the card", report.memory_bytes, cores)

    def _worker(self, module: str, job: TrainingJob, told: tuple[str, ...] = ()) -> WorkerCommand:
        settings = self._settings
        run_dir = Path(job.run_dir)
        flags = [
            f"--{name.replace('_', '-')}"
            for name in ("allow_cpu", "allow_16bit", "allow_no_checkpointing")
            if getattr(settings, name)
        ]
        arguments = (*flags, *told, "--micro-batch", str(settings.micro_batch), str(run_dir / "job.json"))
        return WorkerCommand(
            argv=self._environment.argv(module, *arguments),
            env={
                **VARIABLES,
                "UNSLOTH_AUTO_INSTALL": "0",
                "UNSLOTH_DISABLE_STATISTICS": "1",
                "UNSLOTH_DISABLE_CPU_FALLBACK": "0" if settings.allow_cpu else "1",
                "UNSLOTH_COMPILE_LOCATION": str(run_dir / "unsloth-compiled"),
                "HF_HUB_OFFLINE": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                # Spinning threads slow down each other and everything else when another process is busy.
                "OMP_WAIT_POLICY": "passive",
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONUNBUFFERED": "1",
                "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            },
        )


def _rough_lengths(file: str, config: FineTuneConfig) -> list[int]:
    """Return the approximate tokens of each example, from the number of its characters."""
    path = Path(file)
    if not path.exists():
        return []
    # Each line contains the text twice: as instruction, input and output, and as messages.
    found = [int(len(line) / 2 / BYTES_PER_TOKEN) + 1 for line in path.read_bytes().splitlines()]
    return [min(length, config.max_seq_length) for length in found]
