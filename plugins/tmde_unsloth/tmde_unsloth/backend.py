"""Define the Unsloth training backend: whether it can train here, what training needs, and how workers are started."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.environments import VARIABLES, Environment
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import FineTuneConfig, ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.worker import find_weights
from tmde_unsloth.environment import ENVIRONMENT
from tmde_unsloth.memory import CONTEXT_BYTES, Shape, Way, peak_bytes
from tmde_unsloth.options import UnslothSettings

NAME = "unsloth"

BYTES_PER_TOKEN = 3.5
"""The approximate number of characters of English, punctuation and JSON in one token."""

START_SECONDS = 45.0
"""The time for importing Unsloth (27 to 36 s), loading the model (8 to 9 s), and writing the adapter."""

COMPUTE_TOKENS = 30_000.0
"""Tokens that a large card trains in a second, for each billion weights in 4 bits. Measured on an H100: 29,254. A
consumer card has a fifth to a third of its speed."""
CARD_SHARE = 0.25


class UnslothBackend:
    """Plans training with Unsloth (a `TrainingBackend`). The workers run in an environment of their own."""

    def __init__(self, context: PluginContext[UnslothSettings]) -> None:
        self._data_dir = context.data_dir
        self._settings = context.settings
        self._environment = Environment.of(context, NAME, ENVIRONMENT)

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
        train = Path(job.train_file)
        # Each line contains the text twice: as instruction, input and output, and as messages.
        lines = [len(line) / 2 / BYTES_PER_TOKEN for line in train.read_bytes().splitlines()] if train.exists() else []
        report = self._environment.report()
        billions = (shape.linear + shape.embedding) / 1e9
        longest = int(min(max(lines, default=0.0), config.max_seq_length))
        if report is None or report.device != "cuda":
            peak = peak_bytes(shape, config.lora_rank, Way(32, checkpointing=False), longest)
            return ResourceEstimate(ram_bytes=peak + CONTEXT_BYTES)
        peak = peak_bytes(shape, config.lora_rank, Way(4, checkpointing=True), longest)
        pace = COMPUTE_TOKENS * CARD_SHARE / max(billions, 0.05)
        return ResourceEstimate(
            vram_bytes=peak + CONTEXT_BYTES, seconds=round(START_SECONDS + sum(lines) * config.epochs / pace, 1)
        )

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
        return self._worker("tmde_unsloth.training.preview_worker", job)

    def _worker(self, module: str, job: TrainingJob) -> WorkerCommand:
        settings = self._settings
        run_dir = Path(job.run_dir)
        flags = [
            f"--{name.replace('_', '-')}"
            for name in ("allow_cpu", "allow_16bit", "allow_no_checkpointing")
            if getattr(settings, name)
        ]
        arguments = (*flags, "--micro-batch", str(settings.micro_batch), str(run_dir / "job.json"))
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
