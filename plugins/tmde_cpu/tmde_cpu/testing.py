"""A model of a few thousand parameters, so that tests of training and supervision run in seconds.

`python -m tmde_cpu.testing DIRECTORY` writes a Llama model with random weights, a byte-level tokenizer and a chat
template: a directory that `FineTuneConfig.base_model` may name. It learns nothing worth knowing, but it learns.
`write_job` makes a run's directory as the core does, for training without a server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from tmde_core.sdk.records import to_json
from tmde_core.sdk.runtimes import Message
from tmde_core.sdk.training import Dataset, FineTuneConfig, TrainingExample, TrainingJob

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_tiny_model(path: Path) -> Path:
    """Write the tiny model to `path` in a process of its own, so that the caller never imports torch."""
    subprocess.run([sys.executable, "-m", "tmde_cpu.testing", str(path)], check=True, capture_output=True)
    return path


def times_tables(
    numbers: Sequence[int], system: str = "Answer the question in one short sentence."
) -> list[TrainingExample]:
    """One example for each ordered pair of `numbers`: "What is 7 times 8?", "7 times 8 is 56."."""
    examples = []
    for a in numbers:
        for b in numbers:
            question, answer = f"What is {a} times {b}?", f"{a} times {b} is {a * b}."
            messages = (Message("system", system), Message("user", question), Message("assistant", answer))
            trace_id = str(UUID(int=a * 1000 + b))
            examples.append(TrainingExample(question, "", answer, messages, trace_id))
    return examples


def write_job(
    data_dir: Path,
    train: Sequence[TrainingExample],
    val: Sequence[TrainingExample],
    config: FineTuneConfig,
    *,
    run_id: UUID | None = None,
    resume_from: Path | None = None,
) -> Path:
    """Write a run's dataset and job.json under `data_dir/runs`; returns the path of job.json."""
    run = str(run_id or uuid4())
    run_dir = data_dir / "runs" / run
    run_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "lora-adapters").mkdir(exist_ok=True)
    files = {"train.jsonl": train, "val.jsonl": val}
    for name, examples in files.items():
        (run_dir / name).write_bytes(b"".join(to_json(example) + b"\n" for example in examples))
    dataset = Dataset(
        sha256="0" * 64,
        trace_ids=tuple(UUID(example.trace_id) for example in (*train, *val)),
        train_examples=len(train),
        val_examples=len(val),
    )
    (run_dir / "dataset.json").write_bytes(to_json(dataset))
    job = TrainingJob(
        run_id=run,
        run_dir=str(run_dir),
        train_file=str(run_dir / "train.jsonl"),
        val_file=str(run_dir / "val.jsonl"),
        output_dir=str(data_dir / "lora-adapters" / f".staging-{run}"),
        base_model=config.base_model,
        data_dir=str(data_dir),
        config=msgspec.to_builtins(config),
        resume_from=str(resume_from) if resume_from else None,
    )
    (run_dir / "job.json").write_bytes(to_json(job))
    return run_dir / "job.json"


def _write_tiny_model(path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    path.mkdir(parents=True, exist_ok=True)
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
        "pad_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=vocabulary["<|im_start|>"],
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|im_end|>"],
    )
    LlamaForCausalLM(config).save_pretrained(path)


if __name__ == "__main__":
    _write_tiny_model(Path(sys.argv[1]))
