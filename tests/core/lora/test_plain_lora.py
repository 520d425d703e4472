"""Only plain LoRA is taken: an allow-list of configurations and tensor names, the same wherever adapters are checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.core.lora.archive.archives import CONFIG, safetensors, weights
from tmde_core.errors import AdapterInvalidError
from tmde_core.lora.files.store import AdapterStore
from tmde_core.sdk.adapters import find_flaw
from tmde_core.sdk.plain_lora import find_config_flaws, find_kind_flaws, has_own_scales, rank_of, scale_of

PEFT_0_4 = {
    "auto_mapping": None,
    "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 64,
    "revision": None,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
}
PEFT_0_7 = PEFT_0_4 | {"alpha_pattern": {}, "rank_pattern": {}, "loftq_config": {}, "megatron_config": None}
PEFT_0_7 |= {"megatron_core": "megatron.core"}
PEFT_0_11 = PEFT_0_7 | {"use_dora": False, "use_rslora": False, "layer_replication": None}
PEFT_0_14 = PEFT_0_11 | {"eva_config": None, "exclude_modules": None, "lora_bias": False}
PEFT_0_17 = PEFT_0_14 | {"corda_config": None, "trainable_token_indices": None, "use_qalora": False}
PEFT_0_17 |= {"qalora_group_size": 16, "target_parameters": None, "target_modules": "all-linear"}
PEFT_0_21 = PEFT_0_17 | {"peft_version": "0.21.2", "alora_invocation_tokens": None, "arrow_config": None}
PEFT_0_21 |= {"ensure_weight_tying": False, "kasa_config": None, "lora_ga_config": None, "monteclora_config": None}
PEFT_0_21 |= {"use_bdlora": None, "velora_config": None}

ORDINARY: list[dict[str, Any]] = [PEFT_0_4, PEFT_0_7, PEFT_0_11, PEFT_0_14, PEFT_0_17, PEFT_0_21, CONFIG]
ORDINARY += [
    PEFT_0_21 | changes
    for changes in (
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "orthogonal"},
        {"task_type": None, "auto_mapping": {"base_model_class": "LlamaForCausalLM"}},
        {"exclude_modules": ["lm_head"], "layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"rank_pattern": {"q_proj": 64}, "alpha_pattern": {"q_proj": 16}},
        {"use_rslora": True},
        {
            "rank_pattern": {"q_proj": 8, r"layers\.[0-9]\..*(up|down)_proj$": 2},
            "alpha_pattern": {"^model.layers.0.mlp": 0.5},
        },
        {
            "use_rslora": True,
            "rank_pattern": {f"layers.{layer}.{name}": 4 for layer in range(80) for name in "abcdefg"},
        },
        {"init_lora_weights": True, "corda_config": {"use_float16_for_covariance": False}},  # converted by PEFT
        {"some_future_field": None, "another": False, "a_third": []},
    )
]

OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "LOHA"}, "LOHA"),
    ({"peft_type": None}, "does not say of which kind"),
    ({"peft_type": "lora"}, "lora"),
    ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
    ({"use_dora": True}, "use_dora"),
    ({"use_dora": "true"}, "use_dora"),
    ({"use_rslora": "yes"}, "use_rslora"),
    ({"use_rslora": 1}, "use_rslora"),
    ({"use_qalora": True}, "use_qalora"),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    ({"lora_bias": True}, "lora_bias"),
    ({"bias": "all"}, "bias"),
    ({"bias": "lora_only"}, "bias"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
    ({"rank_pattern": {"q_proj": 8.0}}, "rank_pattern"),
    ({"rank_pattern": {"q_proj": True}}, "rank_pattern"),
    ({"rank_pattern": {"q_proj": 100_000}}, "rank_pattern"),
    ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
    ({"rank_pattern": {"(?=a)b": 8}}, "rank_pattern"),
    ({"rank_pattern": {"q_proj(": 8}}, "rank_pattern"),
    ({"rank_pattern": {r"(q)_proj\1": 8}}, "rank_pattern"),
    ({"rank_pattern": {"((((q))))_proj": 8}}, "rank_pattern"),
    ({"rank_pattern": {"": 8}}, "rank_pattern"),
    ({"rank_pattern": {"a{1000}": 8}}, "rank_pattern"),
    ({"rank_pattern": {"a" * 301: 8}}, "rank_pattern"),
    ({"rank_pattern": {f"layers.{number}.q_proj": 8 for number in range(2001)}}, "rank_pattern"),
    ({"rank_pattern": {".*" * 100 + str(number): 8 for number in range(20)}}, "rank_pattern"),
    ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern"),
    ({"alpha_pattern": {"q_proj": -8}}, "alpha_pattern"),
    ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern"),
    ({"alpha_pattern": {"q_proj": float("inf")}}, "alpha_pattern"),
    ({"alpha_pattern": {"q_proj": "8"}}, "alpha_pattern"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"target_parameters": ["experts.gate"]}, "target_parameters"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    ({"megatron_config": {"a": 1}}, "megatron_config"),
    ({"arrow_config": {"top_k": 2}}, "arrow_config"),
    ({"kasa_config": {"beta": 1.0}}, "kasa_config"),
    ({"velora_config": {"rank": 1}}, "velora_config"),
    ({"monteclora_config": {"samples": 4}}, "monteclora_config"),
    ({"init_lora_weights": "pissa"}, "changes the base model"),
    ({"init_lora_weights": "PiSSA_niter_16"}, "changes the base model"),
    ({"init_lora_weights": "olora"}, "changes the base model"),
    ({"init_lora_weights": "loftq"}, "changes the base model"),
    ({"init_lora_weights": "corda"}, "changes the base model"),
    ({"init_lora_weights": "lora_ga", "lora_ga_config": {"scale": "stable"}}, "changes the base model"),
    ({"init_lora_weights": "next_years_idea"}, "next_years_idea"),
    ({"init_lora_weights": 3}, "'3'"),
    ({"next_years_field": True}, "next_years_field"),
    ({"next_years_config": {"on": 1}}, "next_years_config"),
]


@pytest.mark.parametrize("config", ORDINARY)
def test_what_peft_saves_of_plain_lora_is_taken(config: dict[str, Any]) -> None:
    assert find_config_flaws(config) == []


@pytest.mark.parametrize(("changes", "named"), OTHERS)
def test_every_other_kind_is_refused_and_the_field_is_named(changes: dict[str, Any], named: str) -> None:
    flaws = find_config_flaws(PEFT_0_21 | changes)
    assert len(flaws) == 1
    assert named in flaws[0]


def test_the_scale_of_a_module_is_the_one_that_peft_computes_with() -> None:
    config = {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj": 16, ".*q_proj": 2},
        "alpha_pattern": {"layers.1.q_proj": 32},
    }
    modules = ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.1.k_proj", "model.layers.11.q_proj"]
    assert [rank_of(config, module) for module in modules] == [16, 16, 4, 16]
    assert [scale_of(config, module) for module in modules] == [0.5, 2.0, 2.0, 0.5]
    assert [scale_of(config | {"use_rslora": True}, module) for module in modules] == [2.0, 8.0, 4.0, 2.0]
    assert has_own_scales(config)
    assert not has_own_scales({"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 4}, "alpha_pattern": None})


def write(directory: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    (directory / "adapter_model.safetensors").write_bytes(safetensors(tensors))


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "base_model.model.lm_head.weight",
    ],
)
def test_a_tensor_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    tensors = weights()
    tensors[name] = next(iter(tensors.values()))
    write(tmp_path, CONFIG, tensors)
    (flaw,) = find_kind_flaws(tmp_path)
    assert name in flaw


def test_a_trainer_that_made_another_kind_publishes_nothing(tmp_path: Path) -> None:
    write(tmp_path, CONFIG | {"use_dora": True}, weights())
    flaw = find_flaw(tmp_path, "base")
    assert flaw is not None
    assert flaw.reason == "not-plain-lora"
    assert "use_dora" in flaw.detail


def test_one_that_an_older_version_took_in_is_found_before_it_answers(
    data_dir: Path, published: Callable[..., UUID]
) -> None:
    config = json.dumps(CONFIG | {"init_lora_weights": "lora_ga"})
    identity = published(data_dir, config=config)
    store = AdapterStore(data_dir)
    assert store.get(identity).is_valid
    with pytest.raises(AdapterInvalidError, match="changes the base model"):
        store.verify_files(identity)
    assert not store.get(identity).is_valid
