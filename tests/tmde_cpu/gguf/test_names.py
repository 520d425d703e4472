"""A module is found in its base model, wherever the model keeps its language model."""

from __future__ import annotations

import pytest

from tmde_cpu.gguf.adapter_form_worker import Base
from tmde_cpu.gguf.families import FAMILIES, Names, UnsupportedModelError, find_family, language_config

SEEING = {"model_type": "gemma3", "text_config": {"num_hidden_layers": 2, "num_attention_heads": 2}}


@pytest.mark.parametrize(
    "tensor",
    [
        "language_model.model.layers.1.self_attn.q_proj.weight",
        "model.language_model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "blk.1.attn_q.weight",
    ],
)
@pytest.mark.parametrize("where", ["language_model.model", "model.language_model", "model"])
def test_an_adapter_of_a_model_that_also_sees_finds_its_matrices(tensor: str, where: str) -> None:
    base = Base(SEEING, {tensor: (4, 8)})
    assert base.matrix(f"{where}.layers.1.self_attn.q_proj") == (4, 8)
    assert base.matrix(f"{where}.layers.1.self_attn.k_proj") is None
    assert base.matrix("model.vision_tower.layers.1.self_attn.q_proj") is None


def test_fused_projections_have_one_name_each() -> None:
    names = Names(FAMILIES["phi3"], 2)
    assert names.of_module("model.layers.0.self_attn.qkv_proj") == "blk.0.attn_qkv"
    assert names.of_module("model.layers.0.mlp.gate_up_proj") == "blk.0.ffn_up"


def test_a_bias_is_known_only_where_llama_cpp_uses_it() -> None:
    bias = "model.layers.0.self_attn.q_proj.bias"
    assert Names(FAMILIES["qwen2"], 1).of_tensor(bias) == "blk.0.attn_q.bias"
    assert Names(FAMILIES["qwen3"], 1).of_tensor(bias) is None


def test_what_a_configuration_of_gemma_leaves_out_is_what_transformers_assumes() -> None:
    published = {
        "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 34, "hidden_size": 2560, "sliding_window": 1024},
    }
    config = language_config(published)
    assert (config["num_attention_heads"], config["head_dim"], config["sliding_window"]) == (8, 256, 1024)
    assert language_config({"model_type": "llama"}) == {"model_type": "llama"}


def test_an_unknown_family_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'mixtral' have no GGUF form here; known are gemma3, .*smollm3"):
        find_family({"model_type": "mixtral"})
