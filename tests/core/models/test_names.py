"""Names of models as publishers, files and servers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.models.names import find_quantization, make_bare, without_endings

SAME = {
    "smollm2-135m-instruct": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct-GGUF",
        "SmolLM2 135M Instruct",
        "/models/SmolLM2-135M-Instruct/",
        "bartowski/SmolLM2-135M-Instruct-GGUF",
    ),
    "qwen3-4b": (
        "Qwen/Qwen3-4B", "qwen3:4b", "qwen3:4b-q4_K_M", "Qwen3-4B-UD-Q4_K_XL.gguf", "Qwen3-4B-Q8_0-00001-of-00002.gguf",
        "unsloth/Qwen3-4B-unsloth-bnb-4bit", "Qwen/Qwen3-4B-AWQ", "Qwen/Qwen3-4B-FP8", "qwen3_4b_bf16.gguf",
    ),
    "gemma-3-270m-it": ("google/gemma-3-270m-it", "gemma-3-270m-it-F16.gguf", "gemma-3-270m-it.i1-IQ4_XS.gguf"),
}  # fmt: skip


@pytest.mark.parametrize(("bare", "name"), [(bare, name) for bare, names in SAME.items() for name in names])
def test_all_spellings_of_a_name_are_the_same(bare: str, name: str) -> None:
    assert make_bare(name) == bare


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Qwen3-4B", "Qwen3-4B-Base"),
        ("Qwen3-4B", "Qwen3-8B"),
        ("Qwen3-4B", "Qwen2.5-4B"),
        ("Qwen3-4B", "Qwen3-4B-Instruct-2507"),
        ("SmolLM2-135M", "SmolLM2-135M-Instruct"),
        ("SmolLM2-135M-Instruct", "SmolLM2-360M-Instruct"),
        ("Llama-3.2-1B", "Llama-3.1-1B"),
        ("gemma-3-1b-it", "gemma-3-1b-pt"),
    ],
)
def test_names_of_two_models_are_different(one: str, other: str) -> None:
    assert make_bare(one) != make_bare(other)


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("a-BF16-00001-of-00003.gguf", "BF16"),
        ("qwen3:4b-q8_0", "Q8_0"),
        ("qwen3:4b", ""),
        ("model.gguf", ""),
    ],
)
def test_the_quantisation_is_read_from_a_name(name: str, quantization: str) -> None:
    assert find_quantization(name) == quantization


@given(st.text(max_size=80))
def test_any_text_gives_a_name_that_stays_the_same(text: str) -> None:
    bare = make_bare(text)
    assert make_bare(bare) == bare
    assert len(without_endings(text)) <= len(text)
