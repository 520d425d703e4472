"""Which files of a repository are fetched, and what is said about the others."""

from __future__ import annotations

import pytest

from tmde_core.errors import InvalidInputError, NotFoundError, UnprocessableError
from tmde_core.models.pulling.listing import HubFile, HubListing
from tmde_core.models.pulling.quantizations import find_quantization
from tmde_core.models.pulling.selection import Selection, select


def listing(*paths: str, size: int = 1000) -> HubListing:
    files = tuple(HubFile(path=path, size_bytes=size + place, sha256="0" * 64) for place, path in enumerate(paths))
    return HubListing(repository="acme/Tiny", endpoint="http://hub", commit="0" * 40, files=files)


def chosen(*paths: str, form: str = "auto", file: str = "", quantization: str = "") -> Selection:
    return select(listing(*paths), form, file, quantization)


def targets(selection: Selection) -> list[str]:
    return [file.target for file in selection.files]


def reasons(selection: Selection) -> dict[str, str]:
    return {one.path: one.reason for one in selection.left_out}


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("x.Q4_1.gguf", "Q4_1"),
        ("gemma-3-4b-it-q4_0.gguf", "Q4_0"),
        ("x-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("x-IQ4_XS.gguf", "IQ4_XS"),
        ("x-fp16.gguf", "F16"),
        ("BF16/x-BF16-00001-of-00002.gguf", "BF16"),
        ("Q8_0/model.gguf", "Q8_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen3-4B.gguf", ""),
        ("q4ever.gguf", ""),
    ],
)
def test_the_quantisation_is_read_from_the_name(name: str, quantization: str) -> None:
    assert find_quantization(name) == quantization


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (["Q8_0", "Q4_K_M", "Q2_K"], "Q4_K_M"),
        (["Q8_0", "Q4_K_S", "Q2_K"], "Q4_K_S"),
        (["F16", "Q8_0", "Q3_K_S"], "Q8_0"),
        (["Q2_K", "IQ1_M"], "Q2_K"),
        (["F16", "BF16"], "F16"),
    ],
)
def test_without_a_choice_the_nearest_to_q4_k_m_is_taken(offered: list[str], taken: str) -> None:
    assert chosen(*(f"x-{name}.gguf" for name in offered)).quantization == taken


@pytest.mark.parametrize("wanted", ["q8_0", "Q8_0", "x-Q8_0.gguf", "deep/x-Q8_0.gguf"])
def test_a_gguf_file_can_be_named_by_quantisation_name_or_path(wanted: str) -> None:
    assert targets(chosen("x-Q4_K_M.gguf", "deep/x-Q8_0.gguf", file=wanted)) == ["x-Q8_0.gguf"]


def test_a_file_of_a_quantisation_is_found_under_the_name_of_unsloth() -> None:
    assert chosen("x-UD-Q4_K_XL.gguf", "x-Q8_0.gguf", quantization="Q4_K_XL").quantization == "UD-Q4_K_XL"


def test_a_split_model_counts_once_and_its_size_is_that_of_all_parts() -> None:
    found = chosen(*(f"x-Q4_K_M-0000{part}-of-00003.gguf" for part in (1, 2, 3)))
    assert [(choice.parts, choice.size_bytes) for choice in found.choices] == [(3, 3003)]
    assert len(found.files) == 3


def test_a_split_model_that_lacks_a_part_is_not_offered() -> None:
    found = chosen("x-Q4_K_M-00001-of-00002.gguf", "x-Q8_0.gguf")
    assert found.quantization == "Q8_0"
    assert reasons(found)["x-Q4_K_M-00001-of-00002.gguf"] == "other parts of it are missing"


def test_with_safetensors_and_gguf_files_the_weights_are_taken_and_the_others_are_told() -> None:
    found = chosen("config.json", "tokenizer.json", "model.safetensors", "x-Q4_K_M.gguf")
    assert found.form == "weights"
    assert found.notes == ("The repository has GGUF files too: Q4_K_M. Fetch one with --gguf.",)
    assert chosen("config.json", "model.safetensors", "x-Q4_K_M.gguf", form="gguf").form == "gguf"
    assert chosen("config.json", "model.safetensors", "x-Q4_K_M.gguf", file="Q4_K_M").form == "gguf"


def test_the_same_weights_in_other_files_are_left_out() -> None:
    shards = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    found = chosen("config.json", "tokenizer.json", *shards, "consolidated.safetensors", "model.fp16.safetensors")
    assert [target for target in targets(found) if target.endswith(".safetensors")] == [
        f"weights/{shard}" for shard in shards
    ]
    assert reasons(found)["consolidated.safetensors"] == "the weights are in other files already"


@pytest.mark.parametrize(
    "path",
    ["pytorch_model.bin", "x.pt", "x.pth", "x.pkl", "x.ckpt", "x.msgpack", "x.h5", "x.onnx", "x.py", "x.sh", "x"],
)
def test_nothing_but_what_is_allowed_is_ever_fetched(path: str) -> None:
    found = chosen("config.json", "tokenizer.json", "model.safetensors", path)
    assert f"weights/{path}" not in targets(found)
    assert path in reasons(found)


@pytest.mark.parametrize("path", ["pytorch_model.bin", "x.PT", "modeling_x.py"])
def test_asking_for_a_file_that_could_run_code_is_refused(path: str) -> None:
    with pytest.raises(InvalidInputError, match="can run code"):
        chosen("config.json", "model.safetensors", path, file=path)


def test_asking_for_a_projector_says_what_it_is() -> None:
    with pytest.raises(InvalidInputError, match="a projector for pictures"):
        chosen("x-Q4_K_M.gguf", "mmproj-x.gguf", file="mmproj-x.gguf")


def test_an_unknown_file_is_answered_with_near_names() -> None:
    with pytest.raises(NotFoundError, match=r"Did you mean Tiny-Q4_K_M\.gguf"):
        chosen("Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf", file="Tiny-Q4-K-M.gguf")


def test_an_unknown_quantisation_is_answered_with_all_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"There are: Q4_K_M, Q8_0\."):
        chosen("Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf", file="Q5_K_M")


def test_a_repository_with_an_adapter_is_told_to_import_it() -> None:
    with pytest.raises(UnprocessableError, match="tmde lora import"):
        chosen("adapter_config.json", "adapter_model.safetensors")


@pytest.mark.parametrize("paths", [(), ("README.md",), ("data.parquet", "README.md")])
def test_a_repository_without_a_model_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(UnprocessableError, match="no model to fetch"):
        chosen(*paths)


def test_weights_without_a_configuration_are_refused() -> None:
    with pytest.raises(UnprocessableError, match=r"no config\.json"):
        chosen("model.safetensors")


def test_code_of_the_model_is_named_and_not_fetched() -> None:
    found = chosen("config.json", "tokenizer.json", "model.safetensors", "modeling_x.py")
    assert "modeling_x.py" in found.notes[0]
    assert "never run" in found.notes[0]


def test_a_file_beyond_what_the_hub_serves_over_http_is_refused() -> None:
    with pytest.raises(UnprocessableError, match="more than 50 GB"):
        select(listing("x-Q4_K_M.gguf", size=60_000_000_000), "auto", "", "")


def test_a_size_below_zero_is_no_size() -> None:
    with pytest.raises(UnprocessableError, match="does not tell the size"):
        select(listing("x-Q4_K_M.gguf", size=-5), "auto", "", "")
