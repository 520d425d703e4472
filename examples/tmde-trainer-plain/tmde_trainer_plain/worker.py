"""Trains a LoRA adapter: `python -m tmde_trainer_plain.worker RUN_DIR/job.json`."""

import math
import random
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from tmde_core.sdk.adapters import WEIGHTS_FILE
from tmde_core.sdk.files import sha256_of
from tmde_core.sdk.records import from_json
from tmde_core.sdk.training import FineTuneMetrics, TrainingExample
from tmde_core.sdk.worker import BaseIdentity, RunWorker, TrainingFailedError


def train(worker: RunWorker) -> None:
    job, config = worker.job, worker.config
    torch.manual_seed(config.seed)
    examples, validation = encode(worker, job.train_file), encode(worker, job.val_file)
    if not examples:
        raise TrainingFailedError("no-trainable-tokens", "No training example fits. Raise maxSeqLength.")
    base = AutoModelForCausalLM.from_pretrained(job.base_model, dtype=torch.float32)
    targets = ["q_proj", "v_proj"]
    lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=config.weight_decay)
    step_examples = config.batch_size * config.gradient_accumulation_steps
    epoch_steps = math.ceil(len(examples) / step_examples)
    total = epoch_steps * config.epochs
    schedule = get_scheduler(config.lr_scheduler, optimizer, int(config.warmup_ratio * total), total)
    at: dict[str, Any] = {"step": 0, "loss": None, "eval_loss": None, "best": math.inf}
    if job.resume_from:
        saved = torch.load(Path(job.resume_from) / "state.pt", weights_only=True)
        set_peft_model_state_dict(model, saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        at = saved["at"]

    while at["step"] < total:
        epoch, place = divmod(at["step"], epoch_steps)
        order = random.Random(f"{config.seed}/{epoch}").sample(examples, len(examples))
        loss = mean_loss(worker, model, order[place * step_examples :][:step_examples])
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        at |= {"step": at["step"] + 1, "loss": loss}
        worker.events.progress(at["step"], total, loss=loss, eval_loss=at["eval_loss"], learning_rate=rate)
        if at["step"] % epoch_steps == 0:
            if validation:
                with torch.no_grad():
                    at["eval_loss"] = mean_loss(worker, model, validation)
                worker.events.eval(at["step"], at["eval_loss"], epoch=epoch + 1, best=at["eval_loss"] < at["best"])
                at["best"] = min(at["best"], at["eval_loss"])
            states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "at": at}
            worker.checkpoint(at["step"], saver({"weights": get_peft_model_state_dict(model), **states}))

    weights = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    if not any(tensor.any() for name, tensor in weights.items() if "lora_B" in name):
        raise TrainingFailedError("nothing-learned", "Training changed nothing: every B matrix is still zero.")
    staging = worker.staging()
    save_file(weights, staging / WEIGHTS_FILE, {"format": "pt"})
    lora.save_pretrained(staging)
    best = at["best"] if validation else None
    losses = {"final_train_loss": at["loss"], "final_val_loss": at["eval_loss"], "best_val_loss": best}
    identity = BaseIdentity(job.base_model, tokenizer_sha256=sha256_of(Path(job.base_model) / "tokenizer.json"))
    worker.publish(FineTuneMetrics(**losses, total_steps=total), identity, {"targetModules": targets})


def encode(worker: RunWorker, file: str) -> list[tuple[torch.Tensor, int]]:
    """Return the token ids of each conversation that fits, and where its answer begins."""
    tokenizer = AutoTokenizer.from_pretrained(worker.job.base_model)
    encoded = []
    for line in Path(file).read_bytes().splitlines():
        *asked, answer = from_json(line, TrainingExample).messages
        turns = [{"role": message.role, "content": message.content} for message in asked]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        start = len(tokenizer.encode(prompt, add_special_tokens=False))
        ids = tokenizer.encode(prompt + answer.content + tokenizer.eos_token, add_special_tokens=False)
        if len(ids) <= worker.config.max_seq_length:
            encoded.append((torch.tensor([ids]), start))
    return encoded


def mean_loss(worker: RunWorker, model: Any, examples: list[tuple[torch.Tensor, int]]) -> float:
    """Return the mean loss of the answers; add up its gradients unless they are switched off."""
    total = 0.0
    for ids, start in examples:
        labels = ids.clone()
        labels[:, :start] = -100  # what is asked is read, not learned
        loss = model(input_ids=ids, labels=labels).loss / len(examples)
        if torch.is_grad_enabled():
            loss.backward()
        total += loss.item()
        worker.working()  # a long step is no hung process
    if not math.isfinite(total):
        raise TrainingFailedError("nan-loss", f"The loss is {total}. Lower the learning rate.")
    return total


def saver(state: dict[str, Any]) -> Any:
    return lambda directory: torch.save(state, directory / "state.pt")


if __name__ == "__main__":
    with RunWorker(Path(sys.argv[1])) as worker:
        train(worker)
    sys.exit(worker.exit_code)
