"""Write Axolotl's configuration from a job. Pure data: neither Axolotl nor PyTorch is imported."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmde_core.sdk.training import FineTuneConfig
from tmde_core.sdk.worker import TARGET_MODULES

KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
"""Axolotl's Triton kernels for LoRA. Axolotl turns them on unasked, also without a card, where they cannot run."""

OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "AXOLOTL_DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment variables that keep Axolotl and its libraries from fetching, and from telling anybody."""

CONFIG_FILE = "axolotl.yaml"
TRAIN_FILE, VAL_FILE = "axolotl-train.jsonl", "axolotl-val.jsonl"
"""The examples as tokens and labels."""
OUTPUT_DIR, PREPARED_DIR = "axolotl-output", "axolotl-prepared"


@dataclass(frozen=True)
class Device:
    """What a run computes on."""

    cuda: bool
    bf16: bool = False
    """Whether the card computes in bfloat16. Older cards train in float16."""
    four_bit: bool = False
    """Whether the base model is held in 4 bits."""

    @property
    def quantisation(self) -> str:
        """How the base model is held, in words."""
        return "4-bit" if self.four_bit else "16-bit" if self.cuda else "32-bit"


def build(
    config: FineTuneConfig,
    weights: Path,
    run_dir: Path,
    device: Device,
    extra: Mapping[str, Any],
    *,
    validates: bool,
) -> dict[str, Any]:
    """Return the configuration of a run.

    Args:
        config: the hyperparameters of the job.
        weights: the directory of the base model.
        run_dir: the run's directory, which has the files of examples.
        device: what the run computes on.
        extra: a person's own keys. They add to TMDE's, or replace those that TMDE does not own.
        validates: whether there are validation examples.
    """
    made: dict[str, Any] = {
        "base_model": str(weights),
        "trust_remote_code": False,
        "adapter": "qlora" if device.four_bit else "lora",
        "load_in_4bit": device.four_bit,
        "load_in_8bit": False,
        "lora_r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "lora_target_modules": list(TARGET_MODULES),
        "datasets": [_dataset(run_dir / TRAIN_FILE)],
        **({"test_datasets": [_dataset(run_dir / VAL_FILE)], "eval_strategy": "epoch"} if validates else {}),
        "val_set_size": 0,
        "shuffle_merged_datasets": False,
        "dataset_prepared_path": str(run_dir / PREPARED_DIR),
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "sequence_len": config.max_seq_length,
        "sample_packing": False,
        "output_dir": str(run_dir / OUTPUT_DIR),
        "save_strategy": "epoch",
        "micro_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "eval_batch_size": config.batch_size,
        "num_epochs": config.epochs,
        "optimizer": "adamw_torch_fused" if device.cuda else "adamw_torch",
        "learning_rate": config.learning_rate,
        "lr_scheduler": config.lr_scheduler,
        "warmup_ratio": config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "max_grad_norm": 1.0,
        "seed": config.seed,
        "logging_steps": 1,
        "attn_implementation": "sdpa",
        "bf16": device.bf16,
        "fp16": device.cuda and not device.bf16,
        "gradient_checkpointing": device.cuda,
        **({} if device.cuda else {"tf32": False, "pad_to_sequence_len": False, "dataloader_pin_memory": False}),
        **extra,
    }
    if not device.cuda:
        made.update(dict.fromkeys(KERNELS, False))
        made.update({"bf16": False, "fp16": False})
    return made


def render(made: Mapping[str, Any], python: str, path: Path) -> str:
    """Return the text of the configuration file, with the command that trains from it by hand."""
    import yaml

    variables = " ".join(f"{name}={value}" for name, value in OFFLINE.items())
    command = f"{variables} {shlex.quote(python)} -m axolotl.cli.train {shlex.quote(str(path))}"
    text: str = yaml.safe_dump(dict(made), sort_keys=False, allow_unicode=True, width=100)
    return (
        "# TMDE wrote this file for one training run. The command below trains from it by hand, without TMDE:\n"
        f"#   {command}\n"
        "# The adapter then lies in output_dir. When TMDE trains, a plugin of Axolotl adds the order of the examples,\n"
        f"# the checkpoints, early stopping, and the seed of the adapter.\n{text}"
    )


def _dataset(path: Path) -> dict[str, Any]:
    """Return the entry of a file whose lines have `input_ids` and `labels`, which Axolotl leaves as they are."""
    return {"path": str(path), "ds_type": "json", "split": "train", "type": None}
