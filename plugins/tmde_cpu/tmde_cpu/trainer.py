"""Trains a LoRA adapter on the CPU: `python -m tmde_cpu.trainer RUN_DIR/job.json`.

The loop below is the whole of it. Its speed comes from what is not computed: no padding, no shared beginning twice
(`training.packing`), no logits but those that are learned from, no gradients of frozen weights.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import peft
import psutil
import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tmde_core.finetune.records import FineTuneConfig, FineTuneMetrics
from tmde_core.finetune.worker import BaseIdentity, RunWorker, TrainingFailedError
from tmde_core.lora.publish import CONFIG_FILE, GGUF_FILE, WEIGHTS_FILE
from tmde_core.storage.durable import sha256_of
from tmde_cpu.base_model import ensure_base_model, identify, load_tokenizer
from tmde_cpu.gguf_lora import UnsupportedModelError, write_gguf_lora
from tmde_cpu.training import attention, state
from tmde_cpu.training.examples import Encoded, Example, encode_all, read_examples
from tmde_cpu.training.packing import Pack, pack_all
from tmde_cpu.training.schedule import learning_rate
from tmde_cpu.training.state import State

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All projections: attention alone learns less at the same rank (Biderman et al. 2024, "LoRA Learns Less and Forgets Less")."""

PATIENCE = 3
"""Validations without a lower loss before training stops."""

CLIP_NORM = 1.0

PACK_TOKENS = 192
"""Tokens in one forward and backward pass. More save little time here and cost about 2 MB of activations each."""

PACK_TOKENS_PER_BATCHED = 48
"""A small batch shrinks the packs too, so that halving the batch after running out of memory halves what is needed."""

LOGIT_ROWS = 64
"""Rows of logits that exist at once; with 49,152 words a row and its gradient take 0.4 MB."""

CHECKPOINT_SECONDS = 60.0
"""Between checkpoints, beside the one that each epoch writes."""


@dataclass
class Trainee:
    """The model with its adapter, and the parts that the loop calls."""

    peft_model: Any
    body: Any
    head: Any
    weights: dict[str, torch.Tensor]
    """The adapter's parameters by name: all that is trained."""
    pass_bytes_per_token: int
    """Estimated size of the activations that one token of a pass keeps for the backward pass."""
    recomputes: bool = False
    """Whether activations are computed again in the backward pass."""


def main(job_path: Path) -> int:
    """Run the job; the exit code is `tmde_core.finetune.worker`'s."""
    with RunWorker(job_path) as worker:
        train(worker)
    return worker.exit_code


def train(worker: RunWorker) -> None:
    """From the job to the published adapter."""
    config = worker.config
    resumed = Path(worker.job.resume_from) if worker.job.resume_from else None
    begun = state.read(resumed) if resumed else None
    threads = _be_deterministic(begun.threads if begun else None, config.seed)

    directory = ensure_base_model(Path(worker.job.data_dir), worker.job.base_model)
    base = identify(directory, worker.job.base_model)
    fingerprint = _fingerprint(worker, base)
    if begun and begun.fingerprint != fingerprint:
        raise TrainingFailedError(
            "bad-checkpoint", "The checkpoint belongs to other data, settings or another base model."
        )
    at = begun or State(fingerprint=fingerprint, threads=threads)

    tokenizer = load_tokenizer(directory)
    training = _encode(worker, tokenizer, Path(worker.job.train_file), "training")
    validation = _encode(worker, tokenizer, Path(worker.job.val_file), "validation")
    if not sum(example.supervised for example in training):
        raise TrainingFailedError(
            "no-trainable-tokens", "There is nothing to learn: no training example fits. Raise maxSeqLength."
        )

    trainee = load_trainee(directory, config)
    optimizer = torch.optim.AdamW(
        trainee.weights.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best = state.restore(resumed, trainee.weights, optimizer) if resumed else {}
    pack_tokens = min(PACK_TOKENS, config.batch_size * PACK_TOKENS_PER_BATCHED)
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
        order = data_order(len(training), config.seed, epoch)
        chosen = [training[index] for index in order[step_in_epoch * step_examples :][:step_examples]]
        rate = learning_rate(at.step, total_steps, config.learning_rate, config.warmup_ratio, config.lr_scheduler)

        started = time.monotonic()
        loss, supervised = optimizer_step(trainee, optimizer, pack_all(chosen, pack_tokens), rate)
        seconds = time.monotonic() - started
        _must_be_sane(loss, at.step + 1)
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

        if at.step % steps_per_epoch == 0:
            if validation_packs:
                at, best = _validate(worker, trainee, validation_packs, at, best, epoch + 1)
            keep()
            kept = time.monotonic()
        elif time.monotonic() - kept > CHECKPOINT_SECONDS:
            keep()
            kept = time.monotonic()

    if best:
        with torch.no_grad():
            for name, tensor in best.items():
                trainee.weights[name].copy_(tensor)
    if not any(tensor.any() for name, tensor in trainee.weights.items() if "lora_B" in name):
        raise TrainingFailedError(
            "nothing-learned", "Training changed nothing: every B matrix of the adapter is still zero."
        )
    _publish(worker, trainee, directory, base, at)


def load_trainee(directory: Path, config: FineTuneConfig) -> Trainee:
    """Load the base in float32 and put a fresh adapter on it. Without dropout, which packing would not allow."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation=attention.NAME, local_files_only=True
    )
    lora = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
    )
    peft_model = peft.get_peft_model(model, lora)
    peft_model.train()
    weights = {name: tensor for name, tensor in peft_model.named_parameters() if tensor.requires_grad}
    shape = model.config
    width = shape.num_attention_heads * (
        getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    )
    per_layer = 14 * shape.hidden_size + 5 * width + 5 * shape.intermediate_size
    return Trainee(peft_model, model.model, model.lm_head, weights, 4 * shape.num_hidden_layers * per_layer)


def optimizer_step(
    trainee: Trainee, optimizer: torch.optim.Optimizer, packs: Sequence[Pack], rate: float
) -> tuple[float, int]:
    """One step on all packs; returns the mean loss of a supervised token, and how many there were."""
    supervised = sum(pack.supervised for pack in packs)
    loss = 0.0
    for pack in packs:
        _save_memory(trainee, pack)
        hidden = _hidden(trainee, pack)
        # The logits of a few hundred places at a time: their gradients go back to `hidden` before the next ones exist.
        gradients = []
        for rows, targets in zip(hidden.detach().split(LOGIT_ROWS), pack.targets.split(LOGIT_ROWS), strict=True):
            rows.requires_grad_()
            part = functional.cross_entropy(trainee.head(rows), targets, reduction="sum") / supervised
            part.backward()
            loss += part.item()
            gradients.append(rows.grad)
        hidden.backward(torch.cat(gradients))
    torch.nn.utils.clip_grad_norm_(trainee.weights.values(), CLIP_NORM)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss, supervised


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch's types are not read, see pyproject.toml
def mean_loss(trainee: Trainee, packs: Sequence[Pack]) -> float:
    """The mean loss of a supervised token."""
    trainee.peft_model.eval()
    total = 0.0
    for pack in packs:
        hidden = _hidden(trainee, pack)
        for rows, targets in zip(hidden.split(LOGIT_ROWS), pack.targets.split(LOGIT_ROWS), strict=True):
            total += functional.cross_entropy(trainee.head(rows), targets, reduction="sum").item()
    trainee.peft_model.train()
    return total / sum(pack.supervised for pack in packs)


def data_order(examples: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch: a shuffle that depends on seed and epoch alone."""
    order = list(range(examples))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _hidden(trainee: Trainee, pack: Pack) -> torch.Tensor:
    """The last hidden states at the places that are learned from: [S, width]."""
    output = trainee.body(
        input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, segments=pack.segments
    )
    hidden: torch.Tensor = output.last_hidden_state[0].index_select(0, pack.predict)
    return hidden


def _save_memory(trainee: Trainee, pack: Pack) -> None:
    """Compute activations twice instead of keeping them, where a long example would not fit otherwise."""
    short = pack.size * trainee.pass_bytes_per_token > psutil.virtual_memory().available // 2
    if short and not trainee.recomputes:
        trainee.peft_model.gradient_checkpointing_enable({"use_reentrant": False})
    elif trainee.recomputes and not short:
        trainee.peft_model.gradient_checkpointing_disable()
    trainee.recomputes = short


def _validate(
    worker: RunWorker, trainee: Trainee, packs: Sequence[Pack], at: State, best: state.Weights, epoch: int
) -> tuple[State, state.Weights]:
    """Measure the validation loss; keep the weights when it is the lowest so far."""
    loss = mean_loss(trainee, packs)
    if not math.isfinite(loss):
        raise TrainingFailedError(
            "nan-loss", f"The validation loss after epoch {epoch} is {loss}. Lower the learning rate."
        )
    better = at.best_val_loss is None or loss < at.best_val_loss
    worker.events.eval(at.step, loss, epoch=epoch, best=better)
    without_gain = 0 if better else at.without_gain + 1
    if without_gain >= PATIENCE:
        worker.events.log(f"Stopped early: the validation loss has not fallen for {PATIENCE} epochs.")
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
    staging = worker.staging()
    lora = trainee.peft_model.peft_config["default"]
    lora.base_model_name_or_path = base.name  # a path of this machine would mean nothing elsewhere
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


def _encode(worker: RunWorker, tokenizer: Any, file: Path, what: str) -> tuple[Example, ...]:
    encoded: Encoded = encode_all(read_examples(file), tokenizer, worker.config.max_seq_length)
    if encoded.too_long:
        worker.events.log(
            f"Left out {len(encoded.too_long)} {what} examples longer than {worker.config.max_seq_length} tokens, "
            f"of the traces {', '.join(encoded.too_long)}."
        )
    return encoded.examples


def _be_deterministic(threads: int | None, seed: int) -> int:
    """Fix everything that could make two equal runs differ; returns the number of threads."""
    threads = threads or int(os.environ.get("OMP_NUM_THREADS") or psutil.cpu_count(logical=False) or 1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    return threads


def _fingerprint(worker: RunWorker, base: BaseIdentity) -> str:
    data = [Path(file) for file in (worker.job.train_file, worker.job.val_file) if Path(file).exists()]
    parts: list[Any] = [worker.config, base, [sha256_of(file) for file in data]]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def _must_be_sane(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingFailedError(
            "nan-loss", f"The loss at step {step} is {loss}. Lower the learning rate and start again."
        )
    if loss == 0.0:
        raise TrainingFailedError(
            "zero-loss", f"The loss at step {step} is exactly zero, so nothing is learned. Check the examples' answers."
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
