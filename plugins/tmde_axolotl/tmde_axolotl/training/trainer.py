"""Axolotl's trainer, with what TMDE promises: the order of the examples, the loss of a step, and checkpoints to resume.

A step has `batchSize × gradientAccumulationSteps` examples. Its loss is the mean of its supervised tokens, however the
step is divided. Axolotl would give each part the same weight, so a run with smaller parts would learn otherwise.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch
from axolotl.core.trainers import AxolotlTrainer
from torch.utils.data import Sampler
from transformers import TrainerCallback
from typing_extensions import override

from tmde_axolotl.training.session import Session, current
from tmde_core.sdk.worker import (
    IGNORED,
    TrainingState,
    check_loss,
    copy_weights,
    learning_rate,
    order_examples,
    record_validation,
    restore_optimizer,
    restore_weights,
    save_state,
)

CHECKPOINT_SECONDS = 60.0
"""The time between checkpoints, in addition to the checkpoint at the end of each epoch."""

TRAINER_STATE_FILE = "trainer_state.json"
"""What the trainer of transformers reads when it resumes."""


class OrderedSampler(Sampler[int]):  # type: ignore[misc]  # torch's types are not read
    """The order of the examples in the epoch that begins now. It follows from the seed and the step alone."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __len__(self) -> int:
        return len(self._session.training)

    def __iter__(self) -> Iterator[int]:
        epoch = self._session.at.step // self._session.steps_per_epoch
        return iter(order_examples(len(self), self._session.worker.config.seed, epoch))


class TmdeTrainer(AxolotlTrainer):  # type: ignore[misc]  # Axolotl's types are not read, see pyproject.toml
    """Trains one run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._session = current()
        # `compute_loss` divides by the tokens of the step. The trainer must not divide by the number of parts as well.
        self.model_accepts_loss_kwargs = True

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        """Train, unless the checkpoint belongs to a run that has only to be published."""
        at = self._session.at
        if resume_from_checkpoint and (at.stopped_early or at.step >= self._session.total_steps):
            self._load_from_checkpoint(resume_from_checkpoint)
            return None
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

    @override
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return OrderedSampler(self._session)

    @override
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the gradients of a part of a step."""
        session = self._session
        session.worker.report_alive()
        supervised = int((inputs["labels"][:, 1:] != IGNORED).sum())
        if session.measurement is not None:
            session.measurement.begin_pass(inputs["input_ids"].numel())
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        session.step_loss = loss if session.step_loss is None else session.step_loss + loss
        session.step_supervised += supervised
        return loss

    @override
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of a part's losses, divided by the supervised tokens of the step."""
        supervised = (inputs["labels"][:, 1:] != IGNORED).sum()
        found = super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=None)
        if num_items_in_batch is None:
            return found
        loss, *outputs = found if return_outputs else (found,)
        loss = loss * (supervised.to(loss.device) / num_items_in_batch)
        return (loss, *outputs) if return_outputs else loss

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch's types are not read, see pyproject.toml
    def mean_loss(self) -> float:
        """Return the mean loss of a supervised token of the validation examples."""
        total, count = 0.0, 0
        self.model.eval()
        try:
            for inputs in self.get_eval_dataloader():
                self._session.worker.report_alive()
                supervised = int((inputs["labels"][:, 1:] != IGNORED).sum())
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(self.model, self._prepare_inputs(inputs))
                total += float(loss) * supervised
                count += supervised
        finally:
            self.model.train()
        return total / count

    # What follows replaces the checkpoints of transformers, which hold pickles.

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._session.best = restore_weights(Path(resume_from_checkpoint), self._session.weights())

    @override
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        restore_optimizer(Path(checkpoint), self._session.weights(), self.optimizer)
        self.lr_scheduler.last_epoch = self._session.at.step - 1
        self.lr_scheduler.step()

    @override
    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Do nothing: the order of the examples follows from the seed and the step."""

    @override
    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler, scale = self.accelerator.scaler, self._session.at.loss_scale
        if checkpoint is not None and scaler is not None and scale is not None:
            scaler.update(scale)


def make_schedule(session: Session, optimizer: Any) -> Any:
    """Return the schedule of learning rates that every backend follows."""
    config = session.worker.config

    def factor(step: int) -> float:
        rate = learning_rate(step, session.total_steps, 1.0, config.warmup_ratio, config.lr_scheduler)
        return rate if step < session.total_steps else 0.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class Protocol(TrainerCallback):  # type: ignore[misc]  # the types of transformers are not read
    """Reports every step, validates, writes checkpoints, and stops early."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._process = psutil.Process()
        self._started = time.monotonic()
        self._rate = 0.0

    def on_train_begin(self, *_arguments: Any, **_options: Any) -> None:
        """Give Ctrl-C its usual meaning back. Axolotl would save the model and report success."""
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_begin(self, *_arguments: Any, **_options: Any) -> None:
        """Start the clock of a step."""
        self._started = time.monotonic()
        self._rate = self._session.trainer.lr_scheduler.get_last_lr()[0]

    def on_step_end(self, _arguments: Any, trainer_state: Any, control: Any, **_options: Any) -> None:
        """Report the step, and do what is due after it."""
        session = self._session
        config, at = session.worker.config, self._count(trainer_state.global_step)
        session.at = at
        epoch, in_epoch = divmod(at.step, session.steps_per_epoch)
        if session.validation and (in_epoch == 0 or (config.eval_steps and at.step % config.eval_steps == 0)):
            self._validate(epoch + (1 if in_epoch else 0))
        due = time.monotonic() - session.kept > CHECKPOINT_SECONDS
        if in_epoch == 0 or due or session.worker.wants_checkpoint:
            self._keep()
        if session.at.stopped_early:
            control.should_training_stop = True

    def _count(self, step: int) -> TrainingState:
        session, trainer = self._session, self._session.trainer
        loss = math.nan if session.step_loss is None else float(session.step_loss)
        supervised, seconds = session.step_supervised, time.monotonic() - self._started
        session.step_loss, session.step_supervised = None, 0
        if session.measurement is not None:
            session.measurement.end_step(seconds)
        check_loss(loss, step)
        scaler = trainer.accelerator.scaler
        session.worker.events.progress(
            step,
            session.total_steps,
            loss=loss,
            eval_loss=session.at.last_val_loss,
            learning_rate=self._rate,
            tokens_per_second=supervised / seconds,
            rss_bytes=self._process.memory_info().rss,
        )
        return msgspec.structs.replace(
            session.at,
            step=step,
            last_train_loss=loss,
            supervised_tokens=session.at.supervised_tokens + supervised,
            seconds=session.at.seconds + seconds,
            loss_scale=None if scaler is None else scaler.get_scale(),
        )

    def _validate(self, epoch: int) -> None:
        """Measure the validation loss, and keep the weights if the loss is the lowest so far."""
        session = self._session
        session.at, better = record_validation(session.worker, session.at, session.trainer.mean_loss(), epoch)
        if better:
            session.best = copy_weights(session.weights())

    def _keep(self) -> None:
        session = self._session
        trainer = session.trainer

        def write(directory: Path) -> None:
            save_state(directory, session.at, session.weights(), session.best, trainer.optimizer)
            trainer.state.save_to_json(str(directory / TRAINER_STATE_FILE))

        session.worker.checkpoint(session.at.step, write)
        session.kept = time.monotonic()


def remove_callbacks(trainer: Any) -> None:
    """Remove the callbacks that only print."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for kind in (ProgressCallback, PrinterCallback):
        with contextlib.suppress(Exception):
            trainer.remove_callback(kind)
