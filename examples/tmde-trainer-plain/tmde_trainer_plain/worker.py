"""Trains a LoRA adapter: `python -m tmde_trainer_plain.worker RUN_DIR/job.json TARGET …`."""

import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from tmde_core.sdk.adapters import WEIGHTS_FILE
from tmde_core.sdk.chat_template import fit_messages
from tmde_core.sdk.files import hash_file
from tmde_core.sdk.runtimes import Message
from tmde_core.sdk.training import FineTuneMetrics, TrainingExample
from tmde_core.sdk.worker import BaseIdentity, RunWorker, TrainingFailedError

Examples = tuple[tuple[torch.Tensor, int], ...]


def train(worker: RunWorker, targets: list[str]) -> None:
    job, config, events = worker.job, worker.config, worker.events
    examples, validation = read(worker)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=targets)
    lora.r, lora.lora_alpha = config.lora_rank, config.lora_alpha
    base = AutoModelForCausalLM.from_pretrained(job.base_model, dtype=torch.float32)
    torch.manual_seed(config.seed)  # here, so that nothing else draws before the adapter does
    model = get_peft_model(base, lora)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, config.learning_rate, weight_decay=config.weight_decay)
    step_examples = config.batch_size * config.gradient_accumulation_steps
    epoch_steps = math.ceil(len(examples) / step_examples)
    total, shape = epoch_steps * config.epochs, config.lr_scheduler
    schedule = get_scheduler(shape, optimizer, int(config.warmup_ratio * total), total)
    step, losses = 0, dict[str, Any]()
    if job.resume_from:
        saved = torch.load(Path(job.resume_from) / "state.pt", weights_only=True)
        set_peft_model_state_dict(model, saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        step, losses = saved["step"], saved["losses"]

    while step < total:
        epoch, place = divmod(step, epoch_steps)
        order = random.Random(f"{config.seed}/{epoch}").sample(examples, len(examples))
        loss = mean_loss(worker, model, order[place * step_examples :][:step_examples])
        losses["final_train_loss"] = loss
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        events.progress(step, total, loss=loss, learning_rate=schedule.get_last_lr()[0])
        schedule.step()
        if step % epoch_steps == 0 or (config.eval_steps and step % config.eval_steps == 0):
            if validation:
                with torch.no_grad():
                    loss = mean_loss(worker, model, validation)
                best = loss < losses.get("best_val_loss", math.inf)
                losses |= {"final_val_loss": loss} | ({"best_val_loss": loss} if best else {})
                events.eval(step, loss, epoch=epoch + 1, best=best)
            state = {"weights": get_peft_model_state_dict(model), "step": step, "losses": losses}
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            keep(worker, step, state)

    staging = worker.make_staging()
    weights = get_peft_model_state_dict(model)
    save_file({name: one.contiguous() for name, one in weights.items()}, staging / WEIGHTS_FILE)
    lora.save_pretrained(staging)
    tokenizer = hash_file(Path(job.base_model) / "tokenizer.json")
    identity = BaseIdentity(job.base_model, tokenizer_sha256=tokenizer)
    worker.publish(FineTuneMetrics(**losses, total_steps=step), identity, {"targets": targets})


def read(worker: RunWorker) -> tuple[Examples, Examples]:
    """Return the token ids of each conversation that can be used, and where its answer begins."""
    tokenizer = AutoTokenizer.from_pretrained(worker.job.base_model)

    def ask(messages: Sequence[Message]) -> list[int]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        # Control tokens that a person typed stay text, in the question and in the answer.
        ids: list[int] = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
        )
        return ids

    def encode(example: TrainingExample) -> tuple[torch.Tensor, int]:
        *asked, answer = example.messages
        try:
            prompt = ask(asked)
        except TemplateError:  # the template has no system message
            prompt = ask(fit_messages(asked, system=False, alternates=True))
        learned = tokenizer.encode(
            answer.content, add_special_tokens=False, split_special_tokens=True
        )
        ids = torch.tensor([[*prompt, *learned, tokenizer.eos_token_id]])
        return ids, len(prompt)

    return worker.read_examples(encode, tokens=lambda encoded: encoded[0].shape[1])


def mean_loss(worker: RunWorker, model: Any, examples: Sequence[tuple[torch.Tensor, int]]) -> float:
    """Return the mean loss of the answers, and add up its gradients unless they are off."""
    total = 0.0
    for ids, start in examples:
        labels = ids.clone()
        labels[:, :start] = -100  # the question is read, not learned
        loss = model(input_ids=ids, labels=labels).loss / len(examples)
        if torch.is_grad_enabled():
            loss.backward()
        total += loss.item()
        worker.report_alive()  # without this a long step looks like a hung process
    if not math.isfinite(total):
        raise TrainingFailedError("nan-loss", f"The loss is {total}. Lower the learning rate.")
    return total


def keep(worker: RunWorker, step: int, state: dict[str, Any]) -> None:
    worker.checkpoint(step, lambda directory: torch.save(state, directory / "state.pt"))


if __name__ == "__main__":
    with RunWorker(Path(sys.argv[1])) as worker:
        train(worker, sys.argv[2:])
    sys.exit(worker.exit_code)
