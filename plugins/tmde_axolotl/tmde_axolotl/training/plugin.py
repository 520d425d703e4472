"""TMDE's plugin of Axolotl. Axolotl creates it by its name and calls it while it prepares the training."""

from __future__ import annotations

from typing import Any

import torch
from axolotl.common.datasets import TrainDatasetMeta
from axolotl.integrations.base import BasePlugin
from datasets import Dataset
from typing_extensions import override

from tmde_axolotl.training.session import Session, current, rows
from tmde_axolotl.training.trainer import Protocol, TmdeTrainer, make_schedule, remove_callbacks
from tmde_core.sdk.worker import Measurement, TrainingFailedError, check_loaded_model


class TmdePlugin(BasePlugin):  # type: ignore[misc]  # Axolotl's types are not read, see pyproject.toml
    """Gives Axolotl the run's examples, seed, rates and trainer."""

    @override
    def load_datasets(self, cfg: Any, preprocess: bool = False) -> TrainDatasetMeta:
        """Return the examples from memory. Axolotl would cache them, and could drop or merge some."""
        session = current()
        return TrainDatasetMeta(
            train_dataset=Dataset.from_list(rows(session.training)),
            eval_dataset=Dataset.from_list(rows(session.validation)) if session.validation else None,
            total_num_steps=session.total_steps,
        )

    @override
    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Seed the adapter's first weights. Axolotl's own `seed` comes too late for them."""
        torch.manual_seed(current().worker.config.seed)

    @override
    def post_model_load(self, cfg: Any, model: Any) -> None:
        """Check what Axolotl really loaded."""
        session = current()
        _check(model, session)
        longest = max(map(len, (*session.training, *session.validation)))
        session.measurement = Measurement(longest, on_card=session.device.cuda)

    @override
    def get_trainer_cls(self, cfg: Any) -> type[TmdeTrainer]:
        """Return TMDE's trainer."""
        return TmdeTrainer

    @override
    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        """Return the arguments of the trainer that `Protocol` makes superfluous."""
        return {
            "max_steps": current().total_steps,
            "eval_strategy": "no",
            "eval_on_start": False,
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "logging_nan_inf_filter": False,
            "report_to": [],
        }

    @override
    def create_lr_scheduler(self, cfg: Any, trainer: Any, optimizer: Any, num_training_steps: int) -> Any:
        """Return the schedule that every backend follows."""
        return make_schedule(current(), optimizer)

    @override
    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Keep the trainer, and let it report."""
        session = current()
        session.trainer = trainer
        remove_callbacks(trainer)
        trainer.add_callback(Protocol(session))


def _check(model: Any, session: Session) -> None:
    """Raise an error unless the model is where and as it was wanted."""
    check_loaded_model(model, "axolotl", "cuda" if session.device.cuda else "cpu", four_bit=session.device.four_bit)
    other = [name for name, tensor in model.named_parameters() if tensor.requires_grad and "lora_" not in name]
    if other:
        raise TrainingFailedError(
            "not-lora", f"Axolotl would train weights of the base model ({', '.join(other[:2])}). Look at `extra`."
        )
