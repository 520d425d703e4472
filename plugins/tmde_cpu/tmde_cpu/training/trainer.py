"""Train a LoRA adapter on the CPU: `python -m tmde_cpu.training.trainer RUN_DIR/job.json`.

This module contains the whole training loop. The loop is fast because it leaves work out: it has no padding, it
computes no shared beginning twice (`training.packing`), it computes logits only for tokens that are trained on
(`training.step`), and it computes no gradients of frozen weights (`training.layers`).
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import peft
import psutil
import torch
import transformers
from safetensors.torch import save_file

from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, WEIGHTS_FILE
from tmde_core.sdk.training import FineTuneConfig, FineTuneMetrics
from tmde_core.sdk.worker import (
    PATIENCE,
    BaseIdentity,
    ConversationEncoder,
    RunWorker,
    TrainingFailedError,
    check_loss,
    learning_rate,
    order_examples,
)
from tmde_cpu.base_model import base_name, ensure_base_model, identify, load_tokenizer
from tmde_cpu.gguf.families import UnsupportedModelError
from tmde_cpu.gguf.lora import write_gguf_lora
from tmde_cpu.training import state
from tmde_cpu.training.packing import Pack, pack_all
from tmde_cpu.training.state import State
from tmde_cpu.training.step import mean_loss, optimizer_step
from tmde_cpu.training.trainee import TARGET_MODULES, Trainee, load_trainee

PACK_TOKENS = 512
"""Tokens in one forward and backward pass. Measured on the embedded model's steps of 8 examples: with 512 instead of
192, a step takes 0.74 of the processor time, because more examples share their beginning and the matrix products are
larger, and 0.18 GB more memory."""

PACK_TOKENS_PER_BATCHED = 64
"""Packs are limited to this many tokens per example in the batch. Halving the batch after running out of memory then
halves the memory of a pack."""

CHECKPOINT_SECONDS = 60.0
"""The time between checkpoints, in addition to the checkpoint at the end of each epoch."""


def main(job_path: Path) -> int:
    """Run the job and return an exit code of `tmde_core.sdk.worker`."""
    with RunWorker(job_path) as worker:
        train(worker)
    return worker.exit_code


def train(worker: RunWorker) -> None:
    """Train the job's adapter and publish it."""
    config = worker.config
    resumed = Path(worker.job.resume_from) if worker.job.resume_from else None
    begun = state.read(resumed) if resumed else None
    threads = _be_deterministic(begun.threads if begun else None, config.seed)

    directory = ensure_base_model(Path(worker.job.data_dir), worker.job.base_model)
    base = identify(directory, base_name(worker.job))
    fingerprint = worker.fingerprint(base)
    if begun and begun.fingerprint != fingerprint:
        raise TrainingFailedError(
            "bad-checkpoint", "The checkpoint belongs to other data, settings or another base model."
        )
    at = begun or State(fingerprint=fingerprint, threads=threads)

    training, validation = worker.read_examples(ConversationEncoder(load_tokenizer(directory)).encode)

    trainee = load_trainee(directory, config)
    optimizer = torch.optim.AdamW(
        trainee.weights.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = state.restore(resumed, trainee.weights, optimizer) if resumed else {}
    pack_tokens = pack_limit(config)
    validation_packs = pack_all(validation, pack_tokens)

    step_examples = config.batch_size * config.gradient_accumulation_steps
    steps_per_epoch = math.ceil(len(training) / step_examples)
    total_steps = steps_per_epoch * config.epochs
    worker.events.log(
        f"{len(training)} training and {len(validation)} validation examples, {total_steps} steps, {threads} threads"
        + (f", going on after step {at.step}" if resumed else "")
    )
    process = psutil.Process()
    kept = time.monotonic()

    def keep() -> None:
        worker.checkpoint(at.step, lambda path: state.save(path, at, trainee.weights, best, optimizer))

    while at.step < total_steps and not at.stopped_early:
        epoch, step_in_epoch = divmod(at.step, steps_per_epoch)
        order = order_examples(len(training), config.seed, epoch)
        chosen = [training[index] for index in order[step_in_epoch * step_examples :][:step_examples]]
        rate = learning_rate(at.step, total_steps, config.learning_rate, config.warmup_ratio, config.lr_scheduler)

        started = time.monotonic()
        loss, supervised = optimizer_step(trainee, optimizer, pack_all(chosen, pack_tokens), rate, worker.report_alive)
        seconds = time.monotonic() - started
        check_loss(loss, at.step + 1)
        at = msgspec.structs.replace(
            at,
            step=at.step + 1,
            last_train_loss=loss,
            supervised_tokens=at.supervised_tokens + supervised,
            seconds=at.seconds + seconds,
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
        if validation_packs and (epoch_ends or (config.eval_steps and at.step % config.eval_steps == 0)):
            at, best = _validate(worker, trainee, validation_packs, at, best, epoch + 1)
        if epoch_ends or worker.wants_checkpoint or time.monotonic() - kept > CHECKPOINT_SECONDS:
            keep()
            kept = time.monotonic()

    if best:
        with torch.no_grad():
            for name, tensor in best.items():
                trainee.weights[name].copy_(tensor)
    _publish(worker, trainee, directory, base, at)


def pack_limit(config: FineTuneConfig) -> int:
    """Return the largest pack in tokens. A single longer example may exceed this limit."""
    return min(PACK_TOKENS, config.batch_size * PACK_TOKENS_PER_BATCHED)


def _validate(
    worker: RunWorker, trainee: Trainee, packs: Sequence[Pack], at: State, best: state.Weights, epoch: int
) -> tuple[State, state.Weights]:
    """Measure the validation loss, and keep the weights if the loss is the lowest so far."""
    loss = mean_loss(trainee, packs, worker.report_alive)
    if not math.isfinite(loss):
        raise TrainingFailedError(
            "nan-loss", f"The validation loss after step {at.step} is {loss}. Lower the learning rate."
        )
    better = at.best_val_loss is None or loss < at.best_val_loss
    worker.events.eval(at.step, loss, epoch=epoch, best=better)
    without_gain = 0 if better else at.without_gain + 1
    if without_gain >= PATIENCE:
        worker.events.log(f"Stopped early: the validation loss has not fallen {PATIENCE} times in a row.")
    return (
        msgspec.structs.replace(
            at,
            last_val_loss=loss,
            best_val_loss=loss if better else at.best_val_loss,
            without_gain=without_gain,
            stopped_early=without_gain >= PATIENCE,
        ),
        {name: tensor.detach().clone() for name, tensor in trainee.weights.items()} if better else best,
    )


def _publish(worker: RunWorker, trainee: Trainee, directory: Path, base: BaseIdentity, at: State) -> None:
    staging = worker.make_staging()
    lora = trainee.peft_model.peft_config["default"]
    # A local path would mean nothing on another machine; other tools look for a repository.
    lora.base_model_name_or_path = worker.job.base_model_source or base.name
    lora.inference_mode = True
    lora.save_pretrained(staging)
    settings = msgspec.json.decode((staging / CONFIG_FILE).read_bytes())
    settings["target_modules"] = sorted(settings["target_modules"])  # peft keeps a set, whose order changes
    (staging / CONFIG_FILE).write_bytes(
        msgspec.json.format(msgspec.json.encode(settings, order="sorted"), indent=2) + b"\n"
    )
    weights = peft.get_peft_model_state_dict(trainee.peft_model)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, staging / WEIGHTS_FILE, {"format": "pt"})
    try:
        write_gguf_lora(staging, directory, staging / GGUF_FILE)
    except UnsupportedModelError as error:
        worker.events.log(f"{error} The adapter is published without its GGUF form.")
    metrics = FineTuneMetrics(
        final_train_loss=at.last_train_loss,
        final_val_loss=at.last_val_loss,
        best_val_loss=at.best_val_loss,
        total_steps=at.step,
        training_time_seconds=round(at.seconds, 3),
        peak_ram_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 3),
        perplexity=None if at.best_val_loss is None else math.exp(min(at.best_val_loss, 700.0)),
        tokens_per_second=round(at.supervised_tokens / at.seconds, 2) if at.seconds else None,
    )
    worker.publish(
        metrics,
        base,
        {
            "threads": at.threads,
            "targetModules": list(TARGET_MODULES),
            "stoppedEarly": at.stopped_early,
            "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, peft)},
        },
    )


def _be_deterministic(threads: int | None, seed: int) -> int:
    """Fix everything that could make two equal runs differ, and return the number of threads."""
    threads = threads or int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    return threads


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
