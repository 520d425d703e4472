"""Define the Axolotl training backend: whether it can train here, what training needs, and how workers are started."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tmde_axolotl.configuration import OFFLINE
from tmde_axolotl.environment import ENVIRONMENT
from tmde_axolotl.fragment import find_fragment, read_fragment
from tmde_axolotl.memory import CONTEXT_BYTES, peak_bytes
from tmde_axolotl.options import AxolotlSettings
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.environments import VARIABLES, Environment
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import FineTuneConfig, ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.worker import find_weights

NAME = "axolotl"

BYTES_PER_TOKEN = 3.5
"""The approximate number of characters of English, punctuation and JSON in one token."""

START_SECONDS = 60.0
"""The time for importing Axolotl, loading the model, and writing the adapter."""

COMPUTE_TOKENS = 9_000.0
"""Tokens that a large card trains in a second, for each billion weights in 4 bits. Plain PEFT and bitsandbytes, which
Axolotl uses, were measured on an H100: 9,136. A consumer card has a fifth to a third of its speed."""
CARD_SHARE = 0.25


class AxolotlBackend:
    """Plans training with Axolotl (a `TrainingBackend`). The workers run in an environment of their own."""

    def __init__(self, context: PluginContext[AxolotlSettings]) -> None:
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
                    "in [backends.axolotl] to train here without a card, which is much slower."
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
        tokens = config.batch_size * int(min(max(lines, default=0.0), config.max_seq_length))
        if report is None or report.device != "cuda":
            return ResourceEstimate(ram_bytes=peak_bytes(shape, config.lora_rank, tokens, 32) + CONTEXT_BYTES)
        peak = peak_bytes(shape, config.lora_rank, tokens, 4 if self._settings.four_bit else 16)
        pace = COMPUTE_TOKENS * CARD_SHARE / max((shape.linear + shape.embedding) / 1e9, 0.05)
        return ResourceEstimate(
            vram_bytes=peak + CONTEXT_BYTES, seconds=round(START_SECONDS + sum(lines) * config.epochs / pace, 1)
        )

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the training process.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained, or the person's own YAML cannot be
                used.
        """
        return self._worker("tmde_axolotl.training.worker", job)

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the preview process. See `tmde_core.sdk.training.PreviewingBackend`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained, or the person's own YAML cannot be
                used.
        """
        return self._worker("tmde_axolotl.training.preview_worker", job)

    def _worker(self, module: str, job: TrainingJob) -> WorkerCommand:
        settings = self._settings
        find_weights(job)
        extra = find_fragment(self._data_dir, settings.extra)
        if extra is not None:
            read_fragment(extra)
        arguments = (
            *(("--allow-cpu",) if settings.allow_cpu else ()),
            *(() if settings.four_bit else ("--no-four-bit",)),
            *(() if extra is None else ("--extra", str(extra))),
            str(Path(job.run_dir) / "job.json"),
        )
        return WorkerCommand(
            argv=self._environment.argv(module, *arguments),
            env={
                **VARIABLES,
                **OFFLINE,
                # Spinning threads slow down each other and everything else when another process is busy.
                "OMP_WAIT_POLICY": "passive",
                "PYTHONUNBUFFERED": "1",
                "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            },
        )
