"""What people and hubs call repositories and files: what is taken, and that nothing leads out of a folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError
from tmde_core.models.pulling.hub import check_endpoint
from tmde_core.models.pulling.names import (
    NAME,
    check_name,
    check_revision,
    derive_name,
    is_repository,
    parse_hub_path,
    parse_reference,
)

HUB = "http://127.0.0.1:8902"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-4B", ("Qwen/Qwen3-4B", "", "")),
        ("  Qwen/Qwen3-4B  ", ("Qwen/Qwen3-4B", "", "")),
        ("Qwen/Qwen3-4B-GGUF:Q4_K_M", ("Qwen/Qwen3-4B-GGUF", "", "Q4_K_M")),
        ("a/b:latest", ("a/b", "", "")),
        ("a/b:sub/file-Q4_0.gguf", ("a/b", "", "sub/file-Q4_0.gguf")),
        ("hf.co/a/b:Q8_0", ("a/b", "", "Q8_0")),
        ("huggingface.co/a/b", ("a/b", "", "")),
        ("hf://a/b", ("a/b", "", "")),
        ("https://huggingface.co/a/b", ("a/b", "", "")),
        ("https://huggingface.co/a/b/", ("a/b", "", "")),
        ("https://huggingface.co/a/b/tree/v1.0", ("a/b", "v1.0", "")),
        ("https://huggingface.co/a/b/tree/main/sub", ("a/b", "main", "")),
        ("https://huggingface.co/a/b/blob/main/x/y.gguf", ("a/b", "main", "x/y.gguf")),
        ("https://huggingface.co/a/b/resolve/main/y.gguf?download=true", ("a/b", "main", "y.gguf")),
        (f"{HUB}/a/b:Q8_0", ("a/b", "", "Q8_0")),
        ("127.0.0.1:8902/a/b", ("a/b", "", "")),
    ],
)
def test_a_repository_can_be_written_in_the_ways_that_people_know(text: str, expected: tuple[str, str, str]) -> None:
    assert parse_reference(text, HUB) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b/c",
        "../b",
        "a/..",
        "a/b--c",
        "a/.b",
        "/etc/passwd",
        "~/model",
        "datasets/a/b",
        "https://huggingface.co/spaces/a/b",
        "https://elsewhere.org/a/b",
        "https://[broken/a/b",
        "a/b\nc",
        "a/b c",
        "ä/b",
    ],
)
def test_what_names_no_repository_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInputError, match="Give OWNER/NAME, such as"):
        parse_reference(text, HUB)


@given(st.text(max_size=60))
def test_every_text_is_parsed_or_refused_with_a_sentence(text: str) -> None:
    try:
        found = parse_reference(text, HUB)
    except InvalidInputError:
        return
    assert is_repository(found.repository)
    assert NAME.fullmatch(derive_name(found.repository))


@pytest.mark.parametrize(
    ("repository", "name"),
    [
        ("Qwen/Qwen3-4B", "Qwen3-4B"),
        ("Qwen/Qwen3-4B-GGUF", "Qwen3-4B"),
        ("a/b-gguf", "b"),
        ("a/model_GGUF", "model"),
        ("a/gguf", "gguf"),
    ],
)
def test_both_repositories_of_a_model_give_one_name(repository: str, name: str) -> None:
    assert derive_name(repository) == name


@pytest.mark.parametrize("name", ["", ".hidden", "../x", "a/b", "x" * 97, "a\nb", "a b", "-x"])
def test_a_name_that_no_folder_may_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be the name"):
        check_name(name)


@pytest.mark.parametrize("revision", ["..", "a/../b", "a//b", "a b", "-x", "x" * 300, "a/"])
def test_what_is_no_revision_is_refused(revision: str) -> None:
    with pytest.raises(InvalidInputError, match="no revision"):
        check_revision(revision)


@pytest.mark.parametrize(
    "path",
    [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "a//x.json",
        "./x.json",
        ".hidden",
        "a/.hidden/x.json",
        "a\\..\\x.json",
        "x\x1b[2J.json",
        "x\0.json",
        "C:x.json",
        "x.json.",
        "x" * 600,
        "",
        "/".join(["a"] * 300),
    ],
)
def test_a_hostile_path_is_no_path(path: str) -> None:
    assert parse_hub_path(path) is None


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "a", "", "\\", "b.gguf"]), max_size=6).map("/".join))
def test_a_path_that_is_taken_stays_below_its_folder(path: str) -> None:
    parts = parse_hub_path(path)
    if parts is not None:
        assert PurePosixPath(path).parts == parts
        root = Path("/data/models/x")
        assert root in (root / path).parents
        assert ".." not in parts


@pytest.mark.parametrize(
    "address", ["nonsense", "ftp://x", "http://", "https://user:word@x", "http://x:port", "http://x\n"]
)
def test_what_is_no_address_of_a_hub_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="HF_ENDPOINT"):
        check_endpoint(address)
