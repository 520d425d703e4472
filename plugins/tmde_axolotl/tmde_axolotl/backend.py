"""Define the Axolotl training backend: whether it can train here, what training needs, and how workers are started."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tmde_axolotl.configuration import OFFLINE
from tmde_axolotl.environment import ENVIRONMENT
from tmde_axolotl.estimate import BACKEND, CPU, estimate_run
from tmde_axolotl.fragment import find_fragment, read_fragment
from tmde_axolotl.options import AxolotlSettings
from tmde_core.sdk.cards import Card, card_availability, card_recommendation, card_variables, find_card
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.environments import TRAINING_VARIABLES, Environment
from tmde_core.sdk.measured_runs import rough_lengths
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import FineTuneConfig, ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.worker import find_weights


class AxolotlBackend:
    """Plans training with Axolotl (a `TrainingBackend`). The workers run in an environment of their own."""

    def __init__(self, context: PluginContext[AxolotlSettings]) -> None:
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
        lengths = [min(length, config.max_seq_length) for length in rough_lengths(job.train_file)]
        device, four_bit = _device_name(find_card(self._environment)), self._settings.four_bit
        return estimate_run(self._data_dir, shape, config, device, lengths, four_bit=four_bit).resources

    def plan(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the training process.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained, or the person's own YAML cannot be
                used.
        """
        return self._worker("tmde_axolotl.training.worker", job, find_card(self._environment))

    def preview(self, job: TrainingJob) -> WorkerCommand:
        """Return the command of the preview process. See `tmde_core.sdk.training.PreviewingBackend`.

        Raises:
            InvalidInputError: the base model does not exist or cannot be trained, or the person's own YAML cannot be
                used.
        """
        card = find_card(self._environment)
        # The probe has found the card already. Asking CUDA again would take seconds and memory of the card.
        return self._worker("tmde_axolotl.training.preview_worker", job, card, ("--device", _device_name(card)))

    def _worker(self, module: str, job: TrainingJob, card: Card | None, told: tuple[str, ...] = ()) -> WorkerCommand:
        settings = self._settings
        find_weights(job)
        extra = find_fragment(self._data_dir, settings.extra)
        if extra is not None:
            read_fragment(extra)
        arguments = (
            *(("--allow-cpu",) if settings.allow_cpu else ()),
            *(() if settings.four_bit else ("--no-four-bit",)),
            *(() if extra is None else ("--extra", str(extra))),
            *told,
            str(Path(job.run_dir) / "job.json"),
        )
        return WorkerCommand(
            argv=self._environment.argv(module, *arguments),
            env={
                **self._environment.variables,
                **TRAINING_VARIABLES,
                **OFFLINE,
                **card_variables(card),
            },
        )


def _device_name(card: Card | None) -> str:
    return CPU if card is None else card.name
