"""A person's own YAML: what it may add, and why the rest is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmde_axolotl.fragment import LARGEST_BYTES, find_fragment, owned, read_fragment
from tmde_core.errors import InvalidInputError


def written(directory: Path, content: str | bytes) -> Path:
    path = directory / "mine.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_keys_that_tmde_does_not_set_are_read_with_their_types(tmp_path: Path):
    content = (
        "optimizer: adamw_8bit\nlora_dropout: 0.05\nneftune_noise_alpha: 5\ntf32: true\noptim_args: {eps: 1.0e-6}\n"
    )
    assert read_fragment(written(tmp_path, content)) == {
        "optimizer": "adamw_8bit",
        "lora_dropout": 0.05,
        "neftune_noise_alpha": 5,
        "tf32": True,
        "optim_args": {"eps": 1e-6},
    }


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "---\n"])
def test_a_file_without_keys_adds_nothing(tmp_path: Path, content: str):
    assert read_fragment(written(tmp_path, content)) == {}


def test_owned_keys_are_named_in_one_sentence_with_the_reasons(tmp_path: Path):
    path = written(tmp_path, "base_model: other\nseed: 3\noptimizer: lion\nplugins: [evil.Plugin]\n")
    with pytest.raises(InvalidInputError) as refused:
        read_fragment(path)
    assert refused.value.detail == (
        f"Remove these keys from {path}, because TMDE sets them itself: base_model (TMDE chooses the base model and its "
        "tokens); seed (the run's own settings (`[finetune]`) decide it); plugins (it would run other code, or send or "
        "fetch something)."
    )


@pytest.mark.parametrize(
    "key",
    [
        "datasets", "test_datasets", "pretraining_dataset", "output_dir", "adapter", "lora_r", "lora_model_dir",
        "resume_from_checkpoint", "num_epochs", "max_steps", "micro_batch_size", "gradient_accumulation_steps",
        "trust_remote_code", "trainer_cls", "hub_model_id", "wandb_project", "use_wandb", "rl", "fsdp_config",
        "deepspeed", "load_in_4bit", "peft_use_dora", "peft_init_lora_weights", "sample_packing", "train_on_inputs",
        "chat_template_jinja", "tokenizer_config", "sequence_len", "save_steps", "early_stopping_patience",
        "is_qwen_derived_model", "Base_Model", "val_set_size", "unfrozen_parameters", "device_map", "strict",
    ],
)  # fmt: skip
def test_what_would_change_the_run_or_leave_the_machine_is_owned(key: str):
    assert owned(key)


@pytest.mark.parametrize(
    "key",
    [
        "optimizer", "optim_args", "adam_beta2", "lora_dropout", "max_grad_norm", "neftune_noise_alpha", "tf32", "bf16",
        "gradient_checkpointing", "attn_implementation", "torch_compile", "loraplus_lr_ratio", "logging_steps",
        "lora_mlp_kernel", "pad_to_sequence_len", "bnb_config_kwargs", "gc_steps", "low_cpu_mem_usage",
    ],
)  # fmt: skip
def test_what_only_changes_how_the_run_is_computed_is_free(key: str):
    assert owned(key) is None


def test_a_merge_key_does_not_smuggle_an_owned_key_in(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="output_dir"):
        read_fragment(written(tmp_path, "<<: {output_dir: /}\noptimizer: lion\n"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("just words", "must have lines of the form `key: value`"),
        ("- optimizer: lion\n", "must have lines of the form `key: value`"),
        ("1: 2\n", "must have lines of the form `key: value`"),
        ("optimizer: [lion\n", "is not valid"),
        ("optimizer: !!python/object/apply:os.system ['true']\n", "is not valid"),
        (b"optimizer: \xff\xfe\n", "is not valid"),
        ("a: &a [1]\nb: *a\n", r"uses aliases \(`\*name`\)"),
        ("a: &a [*a]\n", r"uses aliases \(`\*name`\)"),
        ("a: " + "[" * 15_000, "has more than 20 levels"),
        ("".join(" " * level + "a:\n" for level in range(100)), "has more than 20 levels"),
        ("optimizer: lion\n---\noptimizer: adam\n", "is not valid"),
        ("a: 2026-99-99\n", "is not valid"),
        ("x: y\n" + "#" * LARGEST_BYTES, "is larger than 16 KiB"),
    ],
)
def test_foreign_content_is_refused_with_a_sentence(tmp_path: Path, content: str | bytes, told: str):
    with pytest.raises(InvalidInputError, match=told):
        read_fragment(written(tmp_path, content))


def test_a_fault_is_told_by_its_line_and_never_with_the_text_of_the_file(tmp_path: Path):
    with pytest.raises(InvalidInputError) as refused:
        read_fragment(written(tmp_path, "entry:x:0\nsecret: 'word\n"))
    assert "line" in refused.value.detail
    assert "secret" not in refused.value.detail
    assert "entry" not in refused.value.detail
    with pytest.raises(InvalidInputError, match="it is not text in UTF-8"):
        read_fragment(written(tmp_path, b"\xff\xfe"))


def test_a_file_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"absent\.yaml cannot be read: No such file"):
        read_fragment(tmp_path / "absent.yaml")
    with pytest.raises(InvalidInputError, match="Is a directory"):
        read_fragment(tmp_path)
    with pytest.raises(InvalidInputError, match="null byte"):
        read_fragment(tmp_path / "a\0b")


def test_the_path_is_absolute_or_in_the_data_directory(tmp_path: Path):
    assert find_fragment(tmp_path, "") is None
    assert find_fragment(tmp_path, " mine.yaml ") == tmp_path / "mine.yaml"
    assert find_fragment(tmp_path, "/etc/axolotl.yaml") == Path("/etc/axolotl.yaml")
    assert find_fragment(tmp_path, "~/mine.yaml") == Path.home() / "mine.yaml"
    with pytest.raises(InvalidInputError):
        find_fragment(tmp_path, "~nobody-of-this-name/mine.yaml")
