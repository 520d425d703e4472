"""Compares TMDE's training with TRL's `SFTTrainer`: same data, same steps, each in a separate process.

    python bench/training_speed.py

TRL runs twice. The first run uses TRL's defaults, as people use them; speed and memory are compared with this run. The
second run uses equal terms: TMDE's tokens, learned at the same places, in the same order and from the same first
matrices, but with TRL's own loop and everything else its own. The losses of the second run must then agree step by step
with TMDE's; otherwise one of the two computes something wrong.

Needs the packages `trl` and `datasets` in addition (`./run bench` installs them). Takes about seven minutes on two idle
cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from tmde_core.records.base import from_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import TrainingExample, TrainingJob
from tmde_core.sdk.context import PluginContext
from tmde_core.storage.events import FileLog
from tmde_core.testing import times_tables, write_job
from tmde_cpu.backend import CpuBackend
from tmde_cpu.embedded import fetch_embedded
from tmde_cpu.environment import CpuSettings

SYSTEM = "Answer the question. Show the calculation, then give the result at the end."
TRAIN_EXAMPLES, VAL_EXAMPLES, BATCH, EPOCHS = 48, 16, 8, 2
"""Twelve steps: enough to compare the losses, and few enough to wait for."""

EQUAL_TERMS = (
    "Equal terms: the same tokens, learned at the same places, in the same order, from the same first matrices."
)

OURS = """
import json, sys, time
from pathlib import Path
from tmde_cpu.training import trainer
processor, step = [], trainer.optimizer_step
def clocked(*arguments):
    begun = time.process_time()
    done = step(*arguments)
    processor.append(time.process_time() - begun)
    return done
trainer.optimizer_step = clocked
code = trainer.main(Path(sys.argv[1]))
print(json.dumps(sum(processor)))
sys.exit(code)
"""
"""The unchanged trainer, with a clock for its steps as in the TRL run."""

TRL = """
import json, resource, sys, time, math
import torch
from pathlib import Path
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from tmde_cpu.base_model import load_tokenizer
from tmde_core.sdk.worker import order_examples
from tmde_core.sdk.worker import ConversationEncoder
from tmde_core.sdk.worker import prepare_examples
base, folder, config, equal = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4] == "equal"
def read(name):
    rows = [json.loads(line)["messages"] for line in (folder / name).read_text().splitlines()]
    return Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
def read_equal(name, epochs):
    # Our tokens, learned where we learn, in our order: all epochs one after the other.
    encode = ConversationEncoder(load_tokenizer(Path(base))).encode
    ours = prepare_examples(folder / name, encode, "train", max_tokens=4096).examples
    order = [index for epoch in range(epochs) for index in order_examples(len(ours), config["seed"], epoch)]
    rows = [(ours[index].tokens, ours[index].answer_start) for index in order]
    return Dataset.from_list([{"input_ids": tokens, "labels": [-100] * start + list(tokens[start:])} for tokens, start in rows])
seconds, processor = [], []
class Clock(TrainerCallback):
    def on_step_begin(self, *_, **__): self.begun, self.used = time.monotonic(), time.process_time()
    def on_step_end(self, *_, **__):
        seconds.append(time.monotonic() - self.begun)
        processor.append(time.process_time() - self.used)
chosen = {"num_train_epochs": 1, "train_sampling_strategy": "sequential"} if equal else {"num_train_epochs": config["epochs"]}
if equal:
    torch.manual_seed(config["seed"])  # as ours does, before the adapter's A matrices are drawn
arguments = SFTConfig(
    output_dir=str(folder / "trl"), per_device_train_batch_size=config["batchSize"], logging_steps=1, **chosen,
    learning_rate=config["learningRate"], lr_scheduler_type="cosine", warmup_steps=0,
    weight_decay=config["weightDecay"], seed=config["seed"], use_cpu=True, bf16=False, save_strategy="no", report_to=[],
    disable_tqdm=True, per_device_eval_batch_size=config["batchSize"],
    model_init_kwargs={"dtype": torch.float32},
)
trainer = SFTTrainer(
    base, args=arguments, callbacks=[Clock()],
    train_dataset=read_equal("train.jsonl", config["epochs"]) if equal else read("train.jsonl"),
    eval_dataset=read_equal("val.jsonl", 1) if equal else read("val.jsonl"),
    peft_config=LoraConfig(
        r=config["loraRank"], lora_alpha=config["loraAlpha"], lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ),
)
trainer.train()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
trainer.model.save_pretrained(folder / sys.argv[4])
steps = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
print(json.dumps({
    "seconds": sum(seconds), "processor": sum(processor), "peakGb": peak,
    "losses": [entry["loss"] for entry in steps], "rates": [entry["learning_rate"] for entry in steps],
}))
"""

MEASURE = """
import json, sys, torch
from pathlib import Path
from peft import PeftModel
from transformers import AutoModelForCausalLM
from tmde_cpu.base_model import load_tokenizer
from tmde_core.sdk.worker import ConversationEncoder
from tmde_core.sdk.worker import prepare_examples
base, file, *adapters = map(Path, sys.argv[1:])
examples = prepare_examples(file, ConversationEncoder(load_tokenizer(base)).encode, "val", max_tokens=4096).examples
losses = []
for adapter in adapters:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    total = 0.0
    for example in examples:
        labels = torch.tensor([[-100] * example.answer_start + list(example.tokens[example.answer_start:])])
        with torch.no_grad():
            total += model(input_ids=torch.tensor([example.tokens]), labels=labels).loss.item() * example.supervised
    losses.append(total / sum(example.supervised for example in examples))
print(json.dumps(losses))
"""
"""Prints the loss of each adapter on the validation examples, measured in the same way for all.

TRL with its defaults also counts the line end that the template puts after an answer; no model has to generate it.
"""


def examples() -> list[TrainingExample]:
    """Return questions and answers of about 80 tokens, a quarter of which are learned and worth learning."""
    made = []
    for example in times_tables(range(3, 19), SYSTEM):
        a, b = (int(word) for word in example.instruction.rstrip("?").split() if word.isdigit())
        answer = f"{a} times {b}: {a} times 10 is {a * 10}, and the difference makes {a * b}. {example.output}"
        messages = (*example.messages[:-1], Message("assistant", answer))
        made.append(msgspec.structs.replace(example, output=answer, messages=messages))
    made.sort(key=lambda example: int(example.trace_id[-6:], 16) * 2654435761 % 2**32)
    return made[: TRAIN_EXAMPLES + VAL_EXAMPLES]


def main() -> str:
    """Run both trainers and return a Markdown section."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        models = Path(os.environ.get("TMDE_DATA_DIR") or Path(__file__).parents[1] / "data") / "models"
        fetch_embedded(models)
        (data_dir / "models").symlink_to(models.absolute(), target_is_directory=True)
        config = FineTuneConfig(
            epochs=EPOCHS, batch_size=BATCH, gradient_accumulation_steps=1, learning_rate=5e-4, warmup_ratio=0.0
        )
        drawn = examples()
        job_path = write_job(data_dir, drawn[:TRAIN_EXAMPLES], drawn[TRAIN_EXAMPLES:], config)
        job = from_json(job_path.read_bytes(), TrainingJob)
        plan = CpuBackend(PluginContext(data_dir, CpuSettings())).plan(job)
        environment = {**os.environ, **plan.env}

        command = [sys.executable, "-c", OURS, str(job_path)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        processor = float(done.stdout.splitlines()[-1])
        log = FileLog(job_path.parent / "events.jsonl").read()
        ours = next(event.data["metrics"] for event in log if event.type == "complete")
        supervised = ours["tokensPerSecond"] * ours["trainingTimeSeconds"]

        base = next((data_dir / "models").glob("*-f32"))
        # Both use the same threads. TRL does not get the MALLOC settings: releasing memory early is a feature of TMDE.
        plain = {name: value for name, value in environment.items() if not name.startswith("MALLOC_")}
        run_dir, figures = job_path.parent, {}
        for terms in ("defaults", "equal"):
            command = [sys.executable, "-c", TRL, str(base), str(run_dir), msgspec.json.encode(config).decode(), terms]
            done = subprocess.run(command, env=plain, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"TRL failed:\n{done.stderr[-2000:]}")
            figures[terms] = json.loads(done.stdout.splitlines()[-1])
        theirs, equal = figures["defaults"], figures["equal"]
        adapters = (data_dir / "lora-adapters" / job.run_id, run_dir / "defaults", run_dir / "equal")
        command = [sys.executable, "-c", MEASURE, str(base), job.val_file, *map(str, adapters)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        our_loss, their_loss, equal_loss = json.loads(done.stdout.splitlines()[-1])

    steps = [event.data for event in log if event.type == "progress"]
    apart = max(abs(their / our["loss"] - 1) for our, their in zip(steps, equal["losses"], strict=True))
    rates = max(abs(their - our["learningRate"]) for our, their in zip(steps, equal["rates"], strict=True))
    same = "the same" if rates < 1e-9 else f"up to {rates:.0e} apart"
    rows = [
        ("supervised tokens a second", ours["tokensPerSecond"], supervised / theirs["seconds"], "≥ 2"),
        ("the same a second of processor time", supervised / processor, supervised / theirs["processor"], ""),
        ("peak memory, GB", ours["peakRamGb"], theirs["peakGb"], "≤ 0.6"),
        ("validation loss", our_loss, their_loss, ""),
        ("validation loss, TRL on equal terms", our_loss, equal_loss, "0.98 to 1.02"),
    ]
    setting = (
        f"SmolLM2-135M, LoRA rank 16 on all projections, {TRAIN_EXAMPLES} examples, batch {BATCH}, {EPOCHS} epochs, "
        f"{supervised:.0f} supervised tokens, {plan.env['OMP_NUM_THREADS']} threads."
    )
    lines = [
        "Training on the CPU against TRL's SFTTrainer.",
        "",
        setting,
        "",
        "| | TMDE | TRL, defaults | ratio | target |",
        "|---|---|---|---|---|",
        *(f"| {name} | {our:.3g} | {their:.3g} | {our / their:.2f} | {target} |" for name, our, their, target in rows),
        "",
        f"{EQUAL_TERMS} There the loss of a training step differs by {apart:.2%} at most; the learning rates are {same}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(main())
