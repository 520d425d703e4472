"""The YAML that a job becomes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from tmde_axolotl.configuration import KERNELS, OFFLINE, Device, build, render
from tmde_axolotl.fragment import owned
from tmde_core.records.finetune import FineTuneConfig

CPU = Device(cuda=False)
CARD = Device(cuda=True, bf16=True, four_bit=True)
RUN = Path("/data/runs/1")


def made(device: Device = CARD, validates: bool = True, extra: dict | None = None, **settings) -> dict:
    return build(FineTuneConfig(**settings), Path("/models/m"), RUN, device, extra or {}, validates=validates)


def test_on_a_card_the_base_model_is_held_in_4_bits_and_axolotl_chooses_its_kernels():
    config = made()
    assert (config["adapter"], config["load_in_4bit"]) == ("qlora", True)
    assert (config["bf16"], config["fp16"], config["gradient_checkpointing"]) == (True, False, True)
    assert not set(KERNELS) & set(config)


def test_in_16_bits_it_is_plain_lora_and_an_old_card_computes_in_float16():
    config = made(Device(cuda=True, bf16=False, four_bit=False))
    assert (config["adapter"], config["load_in_4bit"]) == ("lora", False)
    assert (config["bf16"], config["fp16"]) == (False, True)


def test_without_a_card_nothing_that_needs_one_is_on_even_if_the_person_wants_it():
    config = made(CPU, extra={"bf16": True, "lora_mlp_kernel": True})
    assert (config["adapter"], config["load_in_4bit"]) == ("lora", False)
    assert not any(config[name] for name in (*KERNELS, "bf16", "fp16", "tf32", "gradient_checkpointing"))


def test_the_hyperparameters_are_those_of_the_job_and_the_effective_batch_is_kept():
    config = made(batch_size=2, gradient_accumulation_steps=8, lora_rank=32, lora_alpha=64, epochs=5, seed=7)
    expected = {
        "micro_batch_size": 2, "gradient_accumulation_steps": 8, "lora_r": 32, "lora_alpha": 64, "num_epochs": 5,
        "seed": 7, "learning_rate": 2e-4, "sequence_len": 4096, "lr_scheduler": "cosine", "base_model": "/models/m",
        "trust_remote_code": False, "sample_packing": False, "shuffle_merged_datasets": False,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    assert len(config["lora_target_modules"]) == 7


def test_without_validation_examples_none_are_named():
    assert made()["test_datasets"][0]["path"] == "/data/runs/1/axolotl-val.jsonl"
    assert not {"test_datasets", "eval_strategy"} & set(made(validates=False))


def test_a_persons_keys_add_and_replace():
    config = made(extra={"optimizer": "lion_8bit", "lora_dropout": 0.1, "neftune_noise_alpha": 5})
    assert (config["optimizer"], config["lora_dropout"], config["neftune_noise_alpha"]) == ("lion_8bit", 0.1, 5)


FREE = {
    "lora_dropout", "optimizer", "max_grad_norm", "logging_steps", "attn_implementation", "bf16", "fp16", "tf32",
    "gradient_checkpointing", "pad_to_sequence_len", "dataloader_pin_memory", "dataloader_num_workers", *KERNELS,
}  # fmt: skip


@pytest.mark.parametrize("device", [CPU, CARD])
def test_every_key_that_tmde_writes_is_owned_or_meant_to_be_free(device: Device):
    assert {key for key in made(device) if owned(key) is None} <= FREE


def test_the_file_begins_with_the_command_and_reads_back_as_the_same_values():
    config = made(CPU, extra={"optim_args": {"eps": 1e-6}})
    path = Path("/data/my runs/1/axolotl.yaml")
    text = render(config, "/data/envs/axolotl/bin/python", path)
    assert yaml.safe_load(text) == config
    (command,) = [line for line in text.splitlines() if "axolotl.cli.train" in line]
    words = shlex.split(command.removeprefix("#"))
    assert words[-4:] == ["/data/envs/axolotl/bin/python", "-m", "axolotl.cli.train", str(path)]
    assert set(words[:-4]) == {f"{name}={value}" for name, value in OFFLINE.items()}
