"""Train a LoRA adapter on the CPU: `python -m tmde_cpu.training.trainer RUN_DIR/job.json`.

This module contains the whole training loop. The loop is fast because it leaves work out: it has no padding, it
computes no shared beginning twice (`training.packing`), it computes logits only for tokens that are trained on
(`training.step`), and it computes no gradients of frozen weights (`training.layers`).
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from pathlib import Path

import msgspec
import peft
import psutil
import torch
import transformers

from tmde_core.sdk.adapters import GGUF_FILE
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.measured_runs import keep_measured_run
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import FineTuneConfig
from tmde_core.sdk.worker import (
    TARGET_MODULES,
    BaseIdentity,
    ConversationEncoder,
    Measurement,
    RunWorker,
    check_fingerprint,
    check_loss,
    copy_weights,
    describe_metrics,
    learning_rate,
    load_tokenizer,
    order_examples,
    put_weights,
    read_state,
    record_validation,
    stage_adapter,
)
from tmde_cpu.base_model import base_name, ensure_base_model, identify
from tmde_cpu.estimate import BACKEND, DEVICE, QUANTISATION, computed_pace, computed_peak
from tmde_cpu.gguf.families import UnsupportedModelError
from tmde_cpu.gguf.lora import write_gguf_lora
from tmde_cpu.training import state
from tmde_cpu.training.packing import pack_all
from tmde_cpu.training.state import State
from tmde_cpu.training.step import mean_loss, optimizer_step
from tmde_cpu.training.trainee import Trainee, load_trainee

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
    begun = read_state(resumed, State) if resumed else None
    threads = _be_deterministic(begun.threads if begun else None, config.seed)

    directory = ensure_base_model(Path(worker.job.data_dir), worker.job.base_model)
    base = identify(directory, base_name(worker.job))
    fingerprint = worker.fingerprint(base)
    if begun:
        check_fingerprint(begun, fingerprint)
    at = begun or State(fingerprint=fingerprint, threads=threads)

    training, validation = worker.read_examples(ConversationEncoder(load_tokenizer(directory)).encode)

    trainee = load_trainee(directory, config)
    optimizer = torch.optim.AdamW(
        trainee.weights.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    measurement = Measurement(max(map(len, (*training, *validation))), on_card=False)
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
        packs = pack_all(chosen, pack_tokens)
        for pack in packs:
            measurement.begin_pass(pack.size)
        loss, supervised = optimizer_step(trainee, optimizer, packs, rate, worker.report_alive)
        seconds = time.monotonic() - started
        measurement.end_step(seconds)
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
            mean = mean_loss(trainee, validation_packs, worker.report_alive)
            at, better = record_validation(worker, at, mean, epoch + 1)
            best = copy_weights(trainee.weights) if better else best
        if epoch_ends or worker.wants_checkpoint or time.monotonic() - kept > CHECKPOINT_SECONDS:
            keep()
            kept = time.monotonic()

    put_weights(best, trainee.weights)
    _publish(worker, trainee, directory, base, at)
    _keep_measured(worker, measurement, directory, base)


def pack_limit(config: FineTuneConfig) -> int:
    """Return the largest pack in tokens. A single longer example may exceed this limit."""
    return min(PACK_TOKENS, config.batch_size * PACK_TOKENS_PER_BATCHED)


def _publish(worker: RunWorker, trainee: Trainee, directory: Path, base: BaseIdentity, at: State) -> None:
    staging = stage_adapter(worker, trainee.peft_model, base)
    try:
        write_gguf_lora(staging, directory, staging / GGUF_FILE)
    except UnsupportedModelError as error:
        worker.events.log(f"{error} The adapter is published without its GGUF form.")
    worker.publish(
        describe_metrics(at),
        base,
        {
            "threads": at.threads,
            "targetModules": list(TARGET_MODULES),
            "stoppedEarly": at.stopped_early,
            "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, peft)},
        },
    )


def _keep_measured(worker: RunWorker, measurement: Measurement, directory: Path, base: BaseIdentity) -> None:
    """Keep what the run needed, for the next estimate."""
    shape, config = Shape.read(directory), worker.config
    if shape is None:
        return
    threads = torch.get_num_threads()
    measured = measurement.describe(
        backend=BACKEND,
        device=DEVICE,
        base_model=base.name,
        weights=shape.weights,
        quantisation=QUANTISATION,
        lora_rank=config.lora_rank,
        micro_batch=config.batch_size,
        computed_peak=lambda tokens: computed_peak(shape, config.lora_rank, tokens),
        computed_pace=lambda _passes, _tokens: computed_pace(shape.weights, threads),
    )
    if measured is not None:
        # The adapter is published. A full disk must not turn the run into a failed one.
        with contextlib.suppress(TmdeError):
            keep_measured_run(worker.run_dir, measured)


def _be_deterministic(threads: int | None, seed: int) -> int:
    """Fix everything that could make two equal runs differ, and return the number of threads."""
    threads = threads or int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    return threads


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
