"""The models that TMDE knows by name: their figures agree with each other."""

from __future__ import annotations

import re

import pytest

from tmde_core.models.fit import compute_gguf_bytes
from tmde_core.models.known import KnownModel, find_known, list_known
from tmde_core.models.names import find_quantization, make_bare

each = pytest.mark.parametrize("model", list_known(), ids=lambda model: model.name)


def test_there_are_models_from_small_to_large() -> None:
    sizes = [model.parameters for model in list_known()]
    assert sizes == sorted(sizes)
    assert len(sizes) >= 10
    assert sizes[0] < 0.6e9
    assert sizes[-1] > 8e9


def test_no_two_models_share_a_name() -> None:
    bare = [(make_bare(name), model.name) for model in list_known() for name in model.names]
    assert len({name for name, _ in bare}) == len({(name, model) for name, model in bare})


@each
def test_the_shape_gives_the_published_number_of_weights(model: KnownModel) -> None:
    assert model.architecture.parameters == pytest.approx(model.parameters, rel=0.001)


@each
def test_the_sizes_of_gguf_files_follow_from_the_shape(model: KnownModel) -> None:
    assert model.gguf
    for file in model.gguf:
        # Phi's fused queries, keys and values get a little more.
        assert file.size_bytes == pytest.approx(compute_gguf_bytes(model.architecture, file.quantization), rel=0.03)


@each
def test_the_safetensors_have_two_bytes_a_weight_at_least(model: KnownModel) -> None:
    assert 2 * model.parameters <= model.weights_bytes < 2.6 * model.parameters


@each
def test_repositories_and_files_are_named_as_hubs_name_them(model: KnownModel) -> None:
    for repository in (model.source, model.gguf_source):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", repository)
    for file in model.gguf:
        assert not file.file or find_quantization(file.file) == file.quantization


@each
def test_a_model_is_found_by_every_name_of_it(model: KnownModel) -> None:
    files = [file.file for file in model.gguf if file.file]
    for name in (*model.names, *files, model.source.lower()):
        assert find_known(name) == model, name


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("hf.co/unsloth/Qwen3-4B-Instruct-2507-GGUF:Q4_K_M", "Qwen3-4B-Instruct-2507"),
        ("microsoft_Phi-4-mini-instruct-Q4_K_M.gguf", "Phi-4-mini-instruct"),
        ("llama3.2:latest", "Llama-3.2-3B-Instruct"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen3-8B"),
        ("Qwen/Qwen3-4B-Base", None),
        ("meta-llama/Llama-3.2-1B", None),
    ],
)
def test_other_publishers_names_are_understood_and_other_models_are_not(name: str, model: str | None) -> None:
    found = find_known(name)
    assert (found.name if found else None) == model


@each
def test_the_licence_is_one_that_is_known(model: KnownModel) -> None:
    assert model.license in {"apache-2.0", "mit", "llama3.2", "gemma"}
    assert model.gated == (model.license in {"llama3.2", "gemma"})
