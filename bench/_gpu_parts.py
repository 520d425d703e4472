"""What `gpu.py` starts in the environment of Unsloth: `python _gpu_parts.py START_PY PACKAGE PART TASK`.

Each part is a process. TASK is a JSON file that says what to do and where the results go. Results are written after
every run, so that a process which is ended early loses only the run in progress.

- `model`: write a Llama with random weights and a tokenizer of single bytes.
- `plain-trl`: train with TRL, PEFT and bitsandbytes, as their documentation shows it.
- `unsloth`: train with a plain Unsloth script, and then several times with TMDE's worker: resumed, short of
  memory, once more, and with as many examples at a time as the script. One process does it all,
  because the import of Unsloth takes half a minute.
"""

from __future__ import annotations

import gc
import json
import math
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

TIGHT_SHARE = 0.72
"""The share of its usual memory that a run gets when lack of memory is forced. Half of the examples still fit."""

Task = dict[str, Any]


class Results:
    """The results of a process, by name. The file is complete after every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}

    def keep(self, name: str, found: Any) -> None:
        """Store a result."""
        self._found[name] = found
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self._found), encoding="utf-8")
        draft.replace(self._path)


# ----------------------------------------------------------------------------------------------- model


def make_model(task: Task) -> None:
    """Write the model. The weights are made on the card if there is one, which is quicker."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    path = Path(task["model"])
    path.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        **task["shape"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=vocabulary["<|im_start|>"],
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
        dtype="bfloat16",
    )
    on_card = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if on_card else torch.float32)
    with torch.device("cuda" if on_card else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)


# ---------------------------------------------------------------------------------------- plain scripts


def encode(task: Task) -> tuple[list[Task], list[Task]]:
    """Return the training and validation examples as tokens with labels, from TMDE's own mask."""
    from tmde_core.sdk.worker import ConversationEncoder, load_tokenizer, prepare_examples

    encoder = ConversationEncoder(load_tokenizer(Path(task["model"]))).encode
    found = []
    for name, split in (("train", "train"), ("val", "val")):
        ours = prepare_examples(Path(task[name]), encoder, split).examples  # type: ignore[arg-type]
        found.append(
            [
                {
                    "input_ids": list(one.tokens),
                    "labels": list(one.labels),
                }
                for one in ours
            ]
        )
    return found[0], found[1]


def train_plainly(task: Task, model: Any, lora: Any, *, with_trl: bool) -> Task:
    """Train as a script does, with the batch and the accumulation that were asked for, and measure.

    Args:
        task: what to do.
        model: the base model, or one that has an adapter already.
        lora: the adapter's configuration; None: the model has an adapter.
        with_trl: whether TRL trains, as on a card. Without a card, TRL trains only where Unsloth has changed it.
    """
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    clock: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # its types are not read
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_card:
                torch.cuda.synchronize()
            clock.append(time.monotonic() - self.begun)

    on_card = torch.cuda.is_available()
    train, val = encode(task)
    steps = math.ceil(len(train) / task["step"]) * task["epochs"]
    arguments = {
        "output_dir": task["folder"],
        "per_device_train_batch_size": task["batch"],
        "gradient_accumulation_steps": task["step"] // task["batch"],
        "num_train_epochs": task["epochs"],
        "learning_rate": task["rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(task["warmup"] * steps),
        "weight_decay": task["decay"],
        "optim": "adamw_torch",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": task["seed"],
        "bf16": on_card,
        "use_cpu": not on_card,
    }
    rows = Dataset.from_list(train)
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if with_trl:
        from trl import SFTConfig, SFTTrainer

        from tmde_core.sdk.worker import load_tokenizer

        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**arguments, max_length=None, packing=False, padding_free=False),
            train_dataset=rows,
            processing_class=load_tokenizer(Path(task["model"])),
            peft_config=lora,
            callbacks=[Clock()],
        )
    else:
        from peft import get_peft_model

        trainer = Trainer(
            model=get_peft_model(model, lora),
            args=TrainingArguments(**arguments),
            train_dataset=rows,
            data_collator=default_data_collator,
            callbacks=[Clock()],
        )
    begun = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begun
    peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if on_card else (0, 0)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "stepSeconds": clock,
        "trainingSeconds": seconds,
        "allocated": peak[0],
        "reserved": peak[1],
        "losses": losses,
        "valLoss": mean_loss(trainer.model, val),
    }


def mean_loss(model: Any, examples: list[Task]) -> float:
    """Return the mean loss of a supervised token. All examples have equally many."""
    import torch

    device = next(model.parameters()).device
    model.eval()
    total = 0.0
    for one in examples:
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            ids, labels = (torch.tensor([one[name]], device=device) for name in ("input_ids", "labels"))
            total += float(model(input_ids=ids, labels=labels, use_cache=False).loss)
    return total / len(examples)


def plain_trl(task: Task, results: Results) -> None:
    """Train with TRL, PEFT and bitsandbytes."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    on_card = torch.cuda.is_available()
    held: Task = {"dtype": torch.float32}
    if on_card:
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        held = {"quantization_config": four_bit, "dtype": torch.bfloat16, "device_map": {"": 0}}
    begun = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(task["model"], **held)
    torch.manual_seed(task["seed"])
    lora = LoraConfig(
        r=task["rank"], lora_alpha=task["alpha"], lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=TARGETS
    )
    loading = time.monotonic() - begun
    found = train_plainly(task, model, lora, with_trl=on_card)
    results.keep("plain-trl", {**found, "loadSeconds": loading})


def plain_unsloth(task: Task) -> Task:
    """Train with Unsloth as its notebooks do: the batch that was asked for, and gradient checkpointing."""
    import torch
    from unsloth import FastLanguageModel

    on_card = torch.cuda.is_available()
    begun = time.monotonic()
    model, _ = FastLanguageModel.from_pretrained(
        model_name=task["model"],
        max_seq_length=2048,
        dtype=None if on_card else torch.float32,
        load_in_4bit=on_card,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=task["rank"],
        lora_alpha=task["alpha"],
        lora_dropout=0.0,
        bias="none",
        target_modules=TARGETS,
        use_gradient_checkpointing="unsloth" if on_card else False,
        random_state=task["seed"],
        max_seq_length=2048,
    )
    loading = time.monotonic() - begun
    return {**train_plainly(task, model, None, with_trl=True), "loadSeconds": loading}


# ------------------------------------------------------------------------------------------- TMDE's runs


def unsloth_runs(task: Task, results: Results) -> None:
    """Train with the plain script, and then with TMDE's worker."""
    begun = time.monotonic()
    import torch
    import unsloth

    from tmde_unsloth.training import worker
    from tmde_unsloth.training.options import parse

    on_card = torch.cuda.is_available()
    results.keep("machine", describe_machine(unsloth))
    results.keep("importSeconds", time.monotonic() - begun)

    def ours(name: str) -> None:
        code = worker.main(parse(task["runs"][name]))
        results.keep(name, {"exitCode": code, "seconds": time.monotonic() - started})

    def short_of_memory() -> None:
        with_tight_memory(task, lambda: ours("memory"), on_card=on_card)

    pieces: list[tuple[str, Callable[[], None]]] = [
        ("plain-unsloth", lambda: results.keep("plain-unsloth", plain_unsloth(task))),
        ("resumed", lambda: ours("resumed")),
        ("memory", short_of_memory),
        ("again", lambda: ours("again")),
        ("equal", lambda: ours("equal")),
    ]
    for name, piece in pieces:
        started = time.monotonic()
        if time.time() > task["until"]:
            print(f"No time is left for {name}.")
            continue
        try:
            piece()
        except Exception as error:  # the other runs are worth measuring all the same
            results.keep(name, {"error": f"{type(error).__name__}: {error}"[:500]})
            print(f"{name} failed: {error!r}")
        gc.collect()
        if on_card:
            torch.cuda.empty_cache()


def with_tight_memory(task: Task, run: Callable[[], None], *, on_card: bool) -> None:
    """Run with less memory than all examples of a step need at once."""
    import torch

    if on_card:
        total = torch.cuda.get_device_properties(0).total_memory
        limit = torch.cuda.memory_reserved() + int(TIGHT_SHARE * task["usualBytes"])
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
        try:
            run()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    from tmde_unsloth.training.trainee import Trainee

    real = Trainee.loss

    def loss(self: Trainee, part: Any, supervised: int) -> Any:
        if len(part.input_ids) > task["step"] // 2:
            raise torch.OutOfMemoryError("Out of memory, because this benchmark forces it.")
        return real(self, part, supervised)

    Trainee.loss = loss  # type: ignore[method-assign]
    try:
        run()
    finally:
        Trainee.loss = real  # type: ignore[method-assign]


def describe_machine(unsloth: Any) -> Task:
    """Return the card and the versions that the figures depend on."""
    import bitsandbytes
    import peft
    import torch
    import transformers
    import trl

    modules = (torch, unsloth, trl, transformers, peft, bitsandbytes)
    found: Task = {"versions": {module.__name__: str(module.__version__) for module in modules}}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory": card.total_memory, "capability": f"{card.major}.{card.minor}"}
    return found


def compare(task: Task, results: Results) -> None:
    """Compare adapters: the norm of the difference, relative to the norm of the first."""
    from safetensors.torch import load_file

    def read(name: str) -> Task:
        return dict(load_file(Path(task["adapters"][name]) / "adapter_model.safetensors"))

    first = read("first")
    norm = math.sqrt(sum(float(one.float().square().sum()) for one in first.values()))
    for name in task["adapters"]:
        if name != "first" and Path(task["adapters"][name]).exists():
            other = read(name)
            apart = sum(float((first[key].float() - other[key].float()).square().sum()) for key in first)
            results.keep(name, math.sqrt(apart) / norm)


def main() -> None:
    """Run one part."""
    _, start, package, part, task_file = sys.argv
    add_package = runpy.run_path(start)["add_package"]
    add_package(Path(start).resolve().parents[2])
    add_package(Path(package))
    task = json.loads(Path(task_file).read_text(encoding="utf-8"))
    results = Results(Path(task_file).with_name(f"{part}.results.json"))
    if part == "model":
        make_model(task)
    elif part == "plain-trl":
        plain_trl(task, results)
    elif part == "unsloth":
        unsloth_runs(task, results)
    elif part == "compare":
        compare(task, results)
    else:
        raise SystemExit(f"There is no part {part}.")


if __name__ == "__main__":
    main()
