"""Define the Unsloth training backend: whether it can train here, what training needs, and how workers are started."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil

from tmde_core.sdk.cards import Card, card_availability, card_recommendation, card_variables, find_card
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.environments import TRAINING_VARIABLES, Environment
from tmde_core.sdk.measured_runs import rough_lengths
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import FineTuneConfig, ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.worker import find_weights
from tmde_unsloth.environment import ENVIRONMENT
from tmde_unsloth.estimate import BACKEND, CPU, Device, Lengths, estimate_run
from tmde_unsloth.options import UnslothSettings


class UnslothBackend:
    """Plans training with Unsloth (a `TrainingBackend`). The workers run in an environment of their own."""

    def __init__(self, context: PluginContext[UnslothSettings]) -> None:
        self._data_dir = context.data_dir
        self._settings = context.settings
        self._environment = Environment.of(context, BACKEND, ENVIRONMENT)

    def availability(self) -> Availability:
        """Return whether the environment is complete and has a card, from what its probe found."""
        return card_availability(self._environment, self._settings)

    def recommendation(self) -> Availability:
        """Return whether `auto` should choose this backend: only with a card."""
        return card_recommendation(self._environment, self._settings)

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        """Estimate the memory of the card from the shape of the base model, and the time from the training file."""
        shape = Shape.read(find_weights(job))
        if shape is None:
            return ResourceEstimate()
        config = msgspec.convert(job.config, FineTuneConfig)
        train, validation = (
            [min(int(length) + 1, config.max_seq_length) for length in rough_lengths(file)]
            for file in (job.train_file, job.val_file)
        )
        lengths = Lengths(train, validation)
        device = _device(find_card(self._environment))
        return estimate_run(self._data_dir, shape, config, device, lengths, self._settings.micro_batch).resources

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the training process.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        find_weights(job)
        return self._worker("tmde_unsloth.training.worker", job, find_card(self._environment))

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the preview process. See `tmde_core.sdk.training.PreviewingBackend`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained.
        """
        find_weights(job)
        card = find_card(self._environment)
        device = _device(card)
        # The probe has found the card already. Asking CUDA again would take seconds and memory of the card.
        told = ("--device", device.name, "--device-bytes", str(device.memory_bytes or 0), "--cores", str(device.cores))
        return self._worker("tmde_unsloth.training.preview_worker", job, card, told)

    def _worker(self, module: str, job: TrainingJob, card: Card | None, told: tuple[str, ...] = ()) -> WorkerCommand:
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
                **self._environment.variables,
                **TRAINING_VARIABLES,
                **card_variables(card),
                "UNSLOTH_AUTO_INSTALL": "0",
                "UNSLOTH_DISABLE_STATISTICS": "1",
                "UNSLOTH_DISABLE_CPU_FALLBACK": "0" if settings.allow_cpu else "1",
                "UNSLOTH_COMPILE_LOCATION": str(run_dir / "unsloth-compiled"),
            },
        )


def _device(card: Card | None) -> Device:
    cores = psutil.cpu_count(logical=False) or 1
    return Device(CPU, cores=cores) if card is None else Device(card.name, card.total_bytes, cores)
