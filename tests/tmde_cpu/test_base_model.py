"""The base model's directory: what is accepted, what is converted, and that a conversion is whole or not there."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.tmde_cpu.chat_templates import ANSWER, ASKED, TEMPLATES, write_tokenizer
from tmde_core.errors import InvalidInputError
from tmde_core.finetune.dequantizing import find_dequantizer
from tmde_core.sdk.runtimes import Message
from tmde_core.sdk.training import TrainingExample
from tmde_core.sdk.worker import ConversationEncoder
from tmde_core.sdk.worker.kit import CancelledRunError, TrainingFailedError
from tmde_core.services import Services
from tmde_core.storage.durable import hash_file
from tmde_cpu import base_model
from tmde_cpu.base_model import ensure_base_model, identify, load_tokenizer
from tmde_cpu.embedded import EMBEDDED_SHA256


def test_a_directory_of_safetensors_is_taken_as_it_is(tmp_path: Path, tiny_model: Path) -> None:
    assert ensure_base_model(tmp_path, str(tiny_model)) == tiny_model
    identity = identify(tiny_model, "mine")
    assert identity.name == "mine"
    assert identity.model_sha256 == hash_file(tiny_model / "model.safetensors")
    assert identity.tokenizer_sha256 == hash_file(tiny_model / "tokenizer.json")
    assert identity.chat_template_sha256


def test_a_model_in_the_data_directory_is_found_by_its_name(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small").symlink_to(tiny_model)
    assert ensure_base_model(tmp_path, "small").samefile(tiny_model)


@pytest.mark.parametrize("name", ["nowhere", "/nowhere/at/all", "gpt-5"])
def test_a_model_that_does_not_exist_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match=name):
        ensure_base_model(tmp_path, name)


def test_the_embedded_model_that_was_never_fetched_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"\./run setup"):
        ensure_base_model(tmp_path, "")


def test_a_model_without_a_chat_template_cannot_be_trained(tmp_path: Path, tiny_model: Path) -> None:
    for file in tiny_model.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content.replace(b'"chat_template"', b'"no_template"'))
    with pytest.raises(TrainingFailedError, match="chat template"):
        load_tokenizer(tmp_path)


def test_a_conversion_that_dies_leaves_nothing_and_one_of_another_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "some.gguf"
    source.write_bytes(b"first")

    def dies(_source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(base_model, "_convert", dies)
    with pytest.raises(OSError, match="no space"):
        ensure_base_model(tmp_path, str(source))
    assert not directories(tmp_path)

    conversions: list[bytes] = []

    def converts(source: Path, target: Path) -> None:
        conversions.append(source.read_bytes())
        (target / "model.safetensors").write_bytes(source.read_bytes())

    monkeypatch.setattr(base_model, "_convert", converts)
    made = ensure_base_model(tmp_path, str(source))
    assert ensure_base_model(tmp_path, str(source)) == made
    assert conversions == [b"first"]
    source.write_bytes(b"second")
    assert ensure_base_model(tmp_path, str(source)) == made
    assert (made / "model.safetensors").read_bytes() == b"second"
    (tmp_path / "models" / ".some-f32-abandoned").mkdir()
    source.write_bytes(b"third")
    ensure_base_model(tmp_path, str(source))
    assert directories(tmp_path) == ["some-f32"]


def directories(data_dir: Path) -> list[str]:
    return [path.name for path in (data_dir / "models").iterdir() if path.is_dir()]


def test_of_two_that_want_a_conversion_at_once_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "some.gguf"
    source.write_bytes(b"content")
    conversions, second = [], threading.Event()

    def converts(source: Path, target: Path) -> None:
        conversions.append(target)
        if len(conversions) == 2:
            second.set()
        second.wait(0.5)  # for what must not happen
        (target / "model.safetensors").write_bytes(source.read_bytes())

    monkeypatch.setattr(base_model, "_convert", converts)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: ensure_base_model(tmp_path, str(source)), range(2)))
    assert made == [tmp_path / "models" / "some-f32"] * 2
    assert len(conversions) == 1
    assert directories(tmp_path) == ["some-f32"]


@pytest.mark.slow
def test_the_embedded_model_becomes_float32_and_ends_a_turn_where_the_runtime_does(
    tmp_path: Path, embedded_model: Path
) -> None:
    (tmp_path / "models").symlink_to(embedded_model.parent, target_is_directory=True)
    directory = ensure_base_model(tmp_path, "")
    assert ensure_base_model(tmp_path, "") == directory
    assert identify(directory, "").model_sha256 == EMBEDDED_SHA256
    tokenizer = load_tokenizer(directory)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    # Digits stand alone, so what stands before them is cut without them: one token of two line ends, not two of one.
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]


def as_gguf(directory: Path) -> Path:
    """Write a GGUF with the tokenizer in `directory` and no tensors, and return its path."""
    import gguf

    from tmde_cpu.gguf import convert
    from tmde_cpu.gguf.families import FAMILIES
    from tmde_cpu.gguf.tokenizer import write_tokenizer as write_in_gguf

    size = len(load_tokenizer(directory))
    (directory / "gguf").mkdir()
    file = directory / "gguf" / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    convert._write_shape(
        writer,
        FAMILIES["llama"],
        {
            "num_hidden_layers": 1, "max_position_embeddings": 64, "hidden_size": 8, "intermediate_size": 8,
            "num_attention_heads": 1, "rms_norm_eps": 1e-6, "vocab_size": size,
        },
        "model",
    )  # fmt: skip
    write_in_gguf(writer, {"vocab_size": size}, directory)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return file


@pytest.mark.parametrize("name", ["chatml", "qwen3", "deepseek r1", "gemma", "harmony", "chatml with ordinary tokens"])
def test_a_gguf_is_read_with_the_tokens_that_its_vocabulary_names(tmp_path: Path, name: str) -> None:
    template = TEMPLATES[name]
    write_tokenizer(tmp_path / "model", template)
    target = tmp_path / "f32"
    target.mkdir()
    base_model._convert_tokenizer(as_gguf(tmp_path / "model"), target)
    theirs, ours = load_tokenizer(tmp_path / "model"), load_tokenizer(target)
    example = TrainingExample("", "", "", (*ASKED, Message("assistant", f"{ANSWER} <think>")), "t1")
    assert ConversationEncoder(ours).encode(example) == ConversationEncoder(theirs).encode(example)
    assert len(ours) == len(theirs), "no token lies behind the vocabulary, where the model has no weights"


def test_a_gguf_whose_vocabulary_reads_composed_letters_composes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tmde_cpu.gguf import tokenizer

    monkeypatch.setattr(tokenizer, "_pre_tokenizer", lambda _: "qwen2")
    write_tokenizer(tmp_path / "model", TEMPLATES["qwen3"])
    base_model._convert_tokenizer(as_gguf(tmp_path / "model"), tmp_path)
    encoder = ConversationEncoder(load_tokenizer(tmp_path))
    composed, decomposed = Message("user", "M\u00fcnchen"), Message("user", "Mu\u0308nchen")
    assert encoder.prompt((composed,)) == encoder.prompt((decomposed,))


def test_a_cancelled_run_ends_the_process_that_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stderr:
        """Cancels the run at the first line of the process."""

        def write(self, _line: str) -> None:
            raise CancelledRunError

    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\necho $$ > $0.pid\necho begun >&2\nexec sleep 600\n")
    endless.chmod(0o755)
    monkeypatch.setattr(base_model.sys, "executable", str(endless))
    monkeypatch.setattr(base_model.sys, "stderr", Stderr())
    with pytest.raises(CancelledRunError):
        base_model._convert(tmp_path / "some.gguf", tmp_path)
    monkeypatch.undo()
    assert not psutil.pid_exists(int((tmp_path / "endless.pid").read_text()))


def test_a_conversion_that_fails_says_why(tmp_path: Path) -> None:
    source = tmp_path / "some.gguf"
    source.write_bytes(b"no model")
    with pytest.raises(TrainingFailedError, match=r"some\.gguf cannot be converted for training: \w+Error"):
        ensure_base_model(tmp_path, str(source))
    assert not directories(tmp_path)


async def test_the_backend_cpu_converts_for_every_backend(services: Services) -> None:
    gguf = Path("/models/small.gguf")
    found = find_dequantizer(services.plugins, services.settings, str(gguf))
    assert found is not None
    name, command = found
    assert name == "cpu"
    assert command.argv[-3:] == ("tmde_cpu.dequantize", services.settings.data_dir, str(gguf))
    assert find_dequantizer(services.plugins, services.settings, "/some/directory") is None
