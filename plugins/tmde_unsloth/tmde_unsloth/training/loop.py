"""The training loop. It follows the backend `cpu`: same tokens, same mask, same order, same rates, same decisions.

A step has `batchSize × gradientAccumulationSteps` examples. They are computed in parts of as many examples as fit into
memory. A part that does not fit halves the parts and repeats the step, so lack of memory costs no more than a step.

The loop is not a trainer of TRL, because that fixes the parts before the run, computes metrics that nobody reads, and
needs Triton without a card. Another objective, such as one of TRL's for preferences, takes the place of `Trainee.loss`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
import torch

from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.measured_runs import find_correction, keep_measured_run
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.worker import (
    TARGET_MODULES,
    BaseIdentity,
    ConversationEncoder,
    EncodedExample,
    Measurement,
    RunWorker,
    TrainingState,
    check_loss,
    copy_weights,
    describe_metrics,
    identify_base_model,
    learning_rate,
    load_tokenizer,
    name_base_model,
    order_examples,
    prepare_weights,
    put_weights,
    record_validation,
    restore_optimizer,
    restore_weights,
    resume_state,
    save_state,
    seed_run,
    stage_adapter,
)
from tmde_unsloth.estimate import BACKEND, Device, computed_pace, computed_peak
from tmde_unsloth.memory import fitting_examples
from tmde_unsloth.training.batches import MicroBatch, parts
from tmde_unsloth.training.options import Options
from tmde_unsloth.training.trainee import Trainee, load, versions

T = TypeVar("T")

CLIP_NORM = 1.0

CHECKPOINT_SECONDS = 60.0
"""The time between checkpoints, in addition to the checkpoint at the end of each epoch."""


def train(worker: RunWorker, options: Options) -> None:
    """Train the job's adapter and publish it."""
    config = worker.config
    resumed = Path(worker.job.resume_from) if worker.job.resume_from else None
    seed_run(config.seed)

    directory = prepare_weights(worker.job, worker.report_alive)
    tokenizer = load_tokenizer(directory)
    base = identify_base_model(directory, name_base_model(worker.job, directory), tokenizer.chat_template)
    at = resume_state(worker, worker.fingerprint(base))

    training, validation = worker.read_examples(ConversationEncoder(tokenizer).encode)
    step_examples = config.batch_size * config.gradient_accumulation_steps
    longest = max(map(len, (*training, *validation)))
    at_once = min(step_examples, len(training))
    trainee = load(worker, directory, options, longest * at_once, _padding(tokenizer))
    optimizer = torch.optim.AdamW(
        trainee.weights.values(),
        lr=config.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=config.weight_decay,
        fused=True,
    )
    best: dict[str, Any] = {}
    if resumed:
        best = restore_weights(resumed, trainee.weights)
        restore_optimizer(resumed, trainee.weights, optimizer)
    scaler = torch.amp.GradScaler(trainee.device.type, enabled=trainee.half is torch.float16)
    if at.loss_scale is not None:
        scaler.update(at.loss_scale)
    shape, device = Shape.read(directory), Device(_device_name(trainee), cores=torch.get_num_threads())
    measurement = Measurement(longest, on_card=device.is_card)
    wanted = options.micro_batch or _estimate(worker, shape, device, trainee, longest, at_once)
    micro = MicroBatch(worker.run_dir, config.batch_size, min(wanted, at_once))
    if scaler.is_enabled():
        _attach_scaler(trainee.model, scaler)
    stepper = Stepper(worker, trainee, optimizer, scaler, micro, measurement)

    steps_per_epoch = math.ceil(len(training) / step_examples)
    total_steps = steps_per_epoch * config.epochs
    worker.events.log(
        f"{len(training)} training and {len(validation)} validation examples, {total_steps} steps of {step_examples} "
        f"examples, {micro.size} at a time, on {device.name}, base model in {trainee.way.name}"
        + (f", going on after step {at.step}" if resumed else ""),
        device=trainee.device.type,
        quantisation=trainee.way.name,
        microBatch=micro.size,
    )
    process = psutil.Process()
    kept = time.monotonic()

    def keep() -> None:
        worker.checkpoint(at.step, lambda path: save_state(path, at, trainee.weights, best, optimizer))

    while at.step < total_steps and not at.stopped_early:
        epoch, step_in_epoch = divmod(at.step, steps_per_epoch)
        order = order_examples(len(training), config.seed, epoch)
        chosen = [training[index] for index in order[step_in_epoch * step_examples :][:step_examples]]
        rate = learning_rate(at.step, total_steps, config.learning_rate, config.warmup_ratio, config.lr_scheduler)

        started = time.monotonic()
        loss, supervised = stepper.step(chosen, rate)
        seconds = time.monotonic() - started
        measurement.end_step(seconds)
        check_loss(loss, at.step + 1)
        at = msgspec.structs.replace(
            at,
            step=at.step + 1,
            last_train_loss=loss,
            supervised_tokens=at.supervised_tokens + supervised,
            seconds=at.seconds + seconds,
            loss_scale=scaler.get_scale() if scaler.is_enabled() else None,
        )
        worker.events.progress(
            at.step,
            total_steps,
            loss=loss,
            eval_loss=at.last_val_loss,
            learning_rate=rate,
            tokens_per_second=supervised / seconds,
            rss_bytes=process.memory_info().rss,
        )

        epoch_ends = at.step % steps_per_epoch == 0
        if validation and (epoch_ends or (config.eval_steps and at.step % config.eval_steps == 0)):
            at, better = record_validation(worker, at, stepper.mean_loss(validation), epoch + 1)
            best = copy_weights(trainee.weights) if better else best
        if epoch_ends or worker.wants_checkpoint or time.monotonic() - kept > CHECKPOINT_SECONDS:
            keep()
            kept = time.monotonic()

    put_weights(best, trainee.weights)
    _publish(worker, trainee, micro, base, at, measurement)
    if shape is not None:
        _keep_measured(worker, trainee, micro, base, measurement, shape, device)


class Stepper:
    """Computes steps and validations in parts that fit into memory."""

    def __init__(
        self,
        worker: RunWorker,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        micro: MicroBatch,
        measurement: Measurement,
    ) -> None:
        self._measurement = measurement
        self._worker = worker
        self._trainee = trainee
        self._optimizer = optimizer
        self._scaler = scaler
        self._micro = micro
        self.weights = trainee.weights

    def step(self, examples: Sequence[EncodedExample], rate: float) -> tuple[float, int]:
        """Run one optimizer step and return the mean loss of a supervised token, and the number of supervised tokens."""
        supervised = sum(example.supervised for example in examples)
        loss = self._within_memory(lambda: self._gradients(examples, supervised))
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._trainee.weights.values(), CLIP_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return loss, supervised

    def mean_loss(self, examples: Sequence[EncodedExample]) -> float:
        """Return the mean loss of a supervised token, without training."""
        supervised = sum(example.supervised for example in examples)
        self._trainee.model.eval()
        try:
            mean: float = self._within_memory(lambda: self._loss(examples, supervised))
            return mean
        finally:
            self._trainee.model.train()

    def _gradients(self, examples: Sequence[EncodedExample], supervised: int) -> float:
        total = torch.zeros((), device=self._trainee.device)
        for part in parts(examples, self._micro.size, self._trainee.padding, self._trainee.device):
            self._worker.report_alive()
            self._measurement.begin_pass(part.input_ids.numel())
            loss = self._trainee.loss(part, supervised)
            self._scaler.scale(loss).backward()
            total += loss.detach().float()
        return float(total)

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch's types are not read, see pyproject.toml
    def _loss(self, examples: Sequence[EncodedExample], supervised: int) -> float:
        total = torch.zeros((), device=self._trainee.device)
        for part in parts(examples, self._micro.size, self._trainee.padding, self._trainee.device):
            self._worker.report_alive()
            total += self._trainee.loss(part, supervised).float()
        return float(total)

    def _within_memory(self, compute: Callable[[], T]) -> T:
        """Compute, and again with parts of half the size whenever memory is short."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not _is_lack_of_memory(error) or not self._micro.halve():
                    raise
            # Outside of `except`: the error holds the frames whose tensors must go.
            self._optimizer.zero_grad(set_to_none=True)
            gc.collect()
            if self._trainee.device.type == "cuda":
                torch.cuda.empty_cache()
            self._measurement.begin_anew()
            self._worker.events.log(
                f"The memory was too small; going on with {self._micro.size} examples at a time. The result is the same.",
                microBatch=self._micro.size,
            )


def _is_lack_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


def _publish(
    worker: RunWorker,
    trainee: Trainee,
    micro: MicroBatch,
    base: BaseIdentity,
    at: TrainingState,
    measurement: Measurement,
) -> None:
    stage_adapter(worker, trainee.model, base)
    reserved, allocated = measurement.card_peaks()
    metrics = describe_metrics(
        at,
        peak_vram_gb=None if reserved is None else round(reserved / 1024**3, 3),
        device=_device_name(trainee),
        quantisation=trainee.way.name,
        micro_batch=micro.size,
    )
    worker.publish(
        metrics,
        base,
        {
            "targetModules": list(TARGET_MODULES),
            "stoppedEarly": at.stopped_early,
            "gradientCheckpointing": trainee.way.checkpointing,
            "peakAllocatedGb": None if allocated is None else round(allocated / 1024**3, 3),
            "versions": versions(),
        },
    )


def _keep_measured(
    worker: RunWorker,
    trainee: Trainee,
    micro: MicroBatch,
    base: BaseIdentity,
    measurement: Measurement,
    shape: Shape,
    device: Device,
) -> None:
    rank, way = worker.config.lora_rank, trainee.way
    measured = measurement.describe(
        backend=BACKEND,
        device=device.name,
        base_model=base.name,
        weights=shape.weights,
        quantisation=way.description,
        lora_rank=rank,
        micro_batch=micro.size,
        computed_peak=lambda tokens: computed_peak(shape, rank, way, device, tokens),
        computed_pace=lambda passes, tokens: computed_pace(shape, way, device, passes, tokens),
    )
    if measured is not None:
        # The adapter is published. A full disk must not turn the run into a failed one.
        with contextlib.suppress(TmdeError):
            keep_measured_run(worker.run_dir, measured)


def _attach_scaler(model: Any, scaler: torch.amp.GradScaler) -> None:
    """Tell Unsloth's fused loss the scale. It computes the gradient of the head in the forward pass, in float16."""
    while model is not None:
        model.accelerator_scaler = scaler
        model = getattr(model, "model", None) if hasattr(model, "model") else None


def _padding(tokenizer: object) -> int:
    for name in ("pad_token_id", "eos_token_id"):
        if isinstance(token := getattr(tokenizer, name, None), int):
            return token
    return 0  # a label never names padding, and no text follows it


def _device_name(trainee: Trainee) -> str:
    return torch.cuda.get_device_name(0) if trainee.device.type == "cuda" else "CPU"


def _estimate(worker: RunWorker, shape: Shape | None, device: Device, trainee: Trainee, longest: int, most: int) -> int:
    """Return how many of the longest examples fit into the memory that is free now."""
    if shape is None:
        return most
    free = torch.cuda.mem_get_info()[0] if device.is_card else psutil.virtual_memory().available
    data_dir = Path(worker.job.data_dir)
    found = find_correction(data_dir, BACKEND, device.name, trainee.way.description, shape.weights)
    # Runs of another model say too little: too small a number here costs speed, and too large a one is halved.
    factor = found.memory if found.same_model else 1.0
    return fitting_examples(shape, trainee.way, longest, int(free / factor), most)
