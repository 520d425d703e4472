"""The shape of a model is read whatever its family calls the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tmde_core.sdk.model_shape import Shape

LLAMA = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip
SHAPE = Shape(hidden=64, inner=128, layers=2, attention=64, keys=32, vocabulary=1000, tied=False)


def read(folder: Path, config: Any) -> Shape | None:
    (folder / "config.json").write_text(json.dumps(config))
    return Shape.read(folder)


def without(name: str, **more: Any) -> dict[str, Any]:
    return {**{key: value for key, value in LLAMA.items() if key != name}, **more}


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        {"text_config": LLAMA},
        {"hidden_size": 9, "vision_config": {"hidden_size": 7}, "text_config": LLAMA},
        {"thinker_config": {"text_config": LLAMA}},
        {"llm_config": LLAMA},
        {"tie_word_embeddings": False, "text_config": without("tie_word_embeddings")},
        {"vocab_size": 1000, "text_config": without("vocab_size")},
        without("intermediate_size", intermediate_size=[128, 128]),
        without("num_key_value_heads", num_kv_heads=[1, 3]),
        {"d_model": 64, "ffn_dim": 128, "n_layers": 2, "n_heads": 4, "attn_config": {"kv_n_heads": 2},
         "vocab_size": 1000, "tie_word_embeddings": False},
    ],
)  # fmt: skip
def test_the_names_of_other_families_give_the_same_shape(tmp_path, config):
    assert read(tmp_path, config) == SHAPE


def test_a_gpt2_has_four_times_the_width_inside_and_as_many_keys_as_queries(tmp_path):
    config = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": None, "vocab_size": 50_257}
    shape = read(tmp_path, config)
    assert shape == Shape(
        hidden=768, inner=3072, layers=12, attention=768, keys=768, vocabulary=50_257, tied=True, matrices=2
    )
    assert shape.weights == pytest.approx(124e6, rel=0.02), "its real size, without the embedding of positions"


def test_a_head_may_be_wider_than_its_share_of_the_hidden_state(tmp_path):
    shape = read(tmp_path, {**LLAMA, "head_dim": 32})
    assert shape is not None
    assert (shape.attention, shape.keys) == (128, 64)


def test_one_head_of_keys_may_serve_all_queries(tmp_path):
    shape = read(tmp_path, without("num_key_value_heads", multi_query=True))
    assert shape is not None
    assert shape.keys == 16


def test_all_experts_are_held_and_a_few_compute(tmp_path):
    config = {
        "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
        "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": 151_936,
        "tie_word_embeddings": False,
    }  # fmt: skip
    shape = read(tmp_path, config)
    assert shape is not None
    assert shape.weights == pytest.approx(30.5e9, rel=0.02), "Qwen3-30B-A3B"
    assert (shape.inner, shape.experts) == (8 * 768, 128)


def test_experts_of_the_ordinary_width_are_counted_too(tmp_path):
    config = {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2, "vocab_size": 32_000,
        "tie_word_embeddings": False,
    }  # fmt: skip
    shape = read(tmp_path, config)
    assert shape is not None
    assert shape.weights == pytest.approx(46.7e9, rel=0.02), "Mixtral 8x7B"


def test_the_first_layers_of_a_mixture_may_be_ordinary_and_some_experts_shared(tmp_path):
    config = {
        **LLAMA, "num_hidden_layers": 4, "n_routed_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 32,
        "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    }  # fmt: skip
    shape = read(tmp_path, config)
    assert shape is not None
    assert shape.inner == 128, "the widest layer"
    assert shape.stored == (3 * 9 * 32 + 128) // 4


@pytest.mark.parametrize(
    "config",
    [
        {"n_embd": 64}, [], "text", None, {"text_config": 3}, without("vocab_size"), {**LLAMA, "num_attention_heads": 0},
        {**LLAMA, "hidden_size": "wide"}, {**LLAMA, "hidden_size": -64}, {**LLAMA, "vocab_size": True},
        {**LLAMA, "intermediate_size": ["wide"]}, {**LLAMA, "hidden_size": float("inf")},
        {**LLAMA, "hidden_size": 1e300}, {**LLAMA, "num_hidden_layers": 10**400}, {**LLAMA, "num_local_experts": 10**12},
    ],
)  # fmt: skip
def test_what_is_no_description_of_a_model_has_no_shape(tmp_path, config):
    assert read(tmp_path, config) is None


def test_what_a_configuration_leaves_out_is_read_from_the_weights(tmp_path):
    import torch
    from safetensors.torch import save_file

    text = {"hidden_size": 8, "intermediate_size": 16, "model_type": "gemma3_text", "num_hidden_layers": 1}
    rows = {"embed_tokens": 100, "layers.0.self_attn.q_proj": 32, "layers.0.self_attn.k_proj": 16}
    tensors = {f"language_model.model.{name}.weight": torch.zeros(count, 8) for name, count in rows.items()}
    tensors["vision_tower.layers.0.self_attn.q_proj.weight"] = torch.zeros(8, 8)
    assert read(tmp_path, {"text_config": text}) is None, "there are no weights"
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    assert read(tmp_path, {"text_config": text}) == Shape(
        hidden=8, inner=16, layers=1, attention=32, keys=16, vocabulary=100, tied=True
    )
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert read(tmp_path, {"text_config": text}) is None
