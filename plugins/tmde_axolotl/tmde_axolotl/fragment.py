"""Read a person's own YAML for Axolotl, and refuse the keys that TMDE must set itself.

The file is foreign input: it is read as data only, its size is limited, and no key may make Axolotl run other code,
fetch something, or send something away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmde_core.sdk.errors import InvalidInputError

FIELD = "backends.axolotl.extra"

LARGEST_BYTES = 16 * 1024
"""The largest file. Axolotl's longest example has 4 KB."""
DEEPEST = 20
"""The most levels of lists and mappings within each other. PyYAML takes a minute for thousands of levels."""

REASONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "TMDE chooses the base model and its tokens",
        (
            "base_model*", "tokenizer*", "processor*", "model_type", "type_of_model", "cls_model_config", "revision*",
            "is_*_derived_model", "special_tokens", "tokens", "added_tokens_overrides", "chat_template*", "eot_tokens",
            "resize_token_embeddings*", "mean_resizing_embeddings", "shrink_embeddings", "fix_untrained_tokens",
            "overrides_of_model_config", "rope_scaling", "default_system_message", "model_quantization*", "gptq*",
            "reinit_weights", "llama4_linearized_experts", "num_labels",
        ),
    ),
    (
        "TMDE prepares the examples, and trains on their answers only",
        (
            "datasets", "test_datasets", "dataset_*", "pretrain*", "val_set_size", "push_dataset_to_hub", "streaming*",
            "shuffle_*", "train_on_*", "roles_to_train", "sample_packing*", "eval_sample_packing", "batch_flattening",
            "multipack*", "max_packed_sequence_len", "sequence_len*", "eval_sequence_len", "min_sample_len",
            "excess_length_strategy", "skip_prepare_dataset", "preprocess*", "is_preprocess", "group_by_length",
            "curriculum_sampling", "drop_system_message", "remove_unused_columns", "use_pose", "pose_*",
            "dataloader_drop_last", "accelerator_config", "total_num_tokens", "total_supervised_tokens",
            "num_dataset_shards_to_save", "image_*", "use_data_producer", "type", "pad_token",
        ),
    ),
    (
        "the run's own settings (`[finetune]`) decide it",
        (
            "num_epochs", "max_steps", "micro_batch_size", "batch_size", "gradient_accumulation_steps",
            "eval_batch_size", "auto_find_batch_size", "learning_rate", "lr_scheduler*", "lr_quadratic_warmup",
            "lr_div_factor", "cosine_*", "jagged_*", "warmup_*", "weight_decay", "seed", "lora_r", "lora_alpha",
        ),
    ),
    (
        "TMDE must be able to serve, resume and exchange the adapter",
        (
            "adapter", "lora_model_dir", "lora_target_*", "lora_modules_to_save", "lora_exclude_modules",
            "lora_fan_in_fan_out", "lora_rank_pattern", "lora_alpha_pattern", "lora_on_cpu", "peft*", "loftq*",
            "merge_lora", "merge_method", "load_in_4bit", "load_in_8bit", "qat", "quantization", "quantize_*",
            "use_onebitllms", "relora*", "lisa_*", "unfrozen_parameters", "freeze_*", "output_dir", "save_*",
            "saves_per_epoch", "resume_from_checkpoint", "auto_resume_from_checkpoints", "dynamic_checkpoint",
            "eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy", "early_stopping_patience",
            "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "optim_target_modules",
            "embedding_lr*",
        ),
    ),
    (
        "TMDE knows one kind of training, on one card",
        (
            "rl", "rl_*", "trl", "dpo_*", "kto_*", "orpo_*", "cpo_*", "simpo_*", "rpo_*", "ebft", "vllm*",
            "reward_model", "process_reward_model", "center_rewards_coefficient", "precompute_ref_log_probs",
            "use_eaft", "eaft_*", "kd_*", "diffusion*", "device*", "local_rank", "world_size", "deepspeed*",
            "deepcompile", "fsdp*", "ddp*", "dp_*", "tensor_parallel_size", "context_parallel_size",
            "data_parallel_size", "expert_parallel_size", "sequence_parallel_degree", "ring_attn_func",
            "heads_k_stride", "use_ray", "ray_*", "resources_per_worker", "reward_num_workers", "capabilities",
            "env_capabilities", "experimental_skip_move_to_device", "qlora_sharded_model_loading",
        ),
    ),
    (
        "it would run other code, or send or fetch something",
        (
            "plugins", "trainer_cls", "trust_remote_code", "torchdistx_path", "hub_*", "hf_use_auth_token", "use_wandb",
            "wandb_*", "use_mlflow", "mlflow_*", "hf_mlflow_*", "use_comet", "comet_*", "use_trackio", "trackio_*",
            "use_swanlab", "swanlab_*", "use_tensorboard", "use_otel_metrics", "otel_*", "gradio_*", "do_bench_eval",
            "bench_*", "do_causal_lm_eval", "eval_causal_lm_metrics", "eval_table_size", "use_kernels",
            "experts_implementation", "generate_samples", "generation_*", "num_generation_samples",
            "axolotl_config_path", "strict", "torch_compile_options",
        ),
    ),
)  # fmt: skip
"""Why TMDE owns keys, and which. `*` stands for any text."""


def find_fragment(data_dir: Path, extra: str) -> Path | None:
    """Return the file that the setting `extra` names; None if it names none."""
    if not extra.strip():
        return None
    try:
        return data_dir.absolute() / Path(extra.strip()).expanduser()
    except RuntimeError:  # the home of an unknown user
        raise InvalidInputError(f"The path {extra[:200]!r} cannot be looked at.", field=FIELD) from None


def read_fragment(path: Path) -> dict[str, Any]:
    """Return the keys of a person's own YAML.

    Raises:
        InvalidInputError: the file cannot be read, is not a YAML mapping, or sets keys that TMDE owns.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        why = getattr(error, "strerror", None) or error
        raise InvalidInputError(f"The YAML file {path} cannot be read: {why}.", field=FIELD) from None
    if len(content) > LARGEST_BYTES:
        raise InvalidInputError(
            f"The YAML file {path} is larger than {LARGEST_BYTES // 1024} KiB, so it is no Axolotl configuration.",
            field=FIELD,
        )
    found = _parse(content, path)
    _refuse_owned(found, path)
    return found


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = content.decode()
        _refuse_bombs(text, path)
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"The YAML file {path} is not valid: {_explain(error)}.", field=FIELD) from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InvalidInputError(f"The YAML file {path} must have lines of the form `key: value`.", field=FIELD)
    return found


def _explain(error: Exception) -> str:
    """Return what is wrong and where, without the text of the file: the path may name any file by mistake."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is not None and problem:
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return " ".join(str(error).split())[:200]


def _refuse_bombs(text: str, path: Path) -> None:
    """Raise an error if a small text could take much time or memory."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):  # a few aliases of aliases can stand for more than fits into memory
            raise InvalidInputError(
                f"The YAML file {path} uses aliases (`*name`). Write out what they stand for.", field=FIELD
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            raise InvalidInputError(f"The YAML file {path} has more than {DEEPEST} levels.", field=FIELD)


def owned(key: str) -> str | None:
    """Return why TMDE sets this key itself; None if a person may set it."""
    for reason, patterns in REASONS:
        if any(_fits(key.lower(), pattern) for pattern in patterns):
            return reason
    return None


def _fits(key: str, pattern: str) -> bool:
    before, star, after = pattern.partition("*")
    return key == pattern if not star else key.startswith(before) and key.endswith(after)


def _refuse_owned(found: Mapping[str, Any], path: Path) -> None:
    refused: dict[str, list[str]] = {}
    for key in found:
        if reason := owned(key):
            refused.setdefault(reason, []).append(key[:80])
    if refused:
        told = "; ".join(f"{', '.join(keys)} ({reason})" for reason, keys in refused.items())
        raise InvalidInputError(f"Remove these keys from {path}, because TMDE sets them itself: {told}.", field=FIELD)
