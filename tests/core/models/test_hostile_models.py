"""Files that somebody else wrote, or that change at the wrong moment, harm no list of models."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import msgspec
import pytest

from tests.core.models.files import write_gguf, write_weights
from tests.core.models.test_grouping import grouped, info, note
from tests.core.models.test_model_service import EMBEDDED, own_models
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, RuntimeTimeoutError
from tmde_core.models.facts import read_facts
from tmde_core.models.hashes import ModelHashes
from tmde_core.models.names import make_bare
from tmde_core.models.pulling.planning import read_notes
from tmde_core.records.base import to_json
from tmde_core.records.models import FileNotes
from tmde_core.sdk.gguf_header import read_header
from tmde_core.sdk.model_folders import list_folders, weights_lack
from tmde_core.services import Services
from tmde_cpu.serving.catalog import Catalog
from tmde_cpu.serving.options import EmbeddedSettings

__all__ = ["own_models"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def text(content: str | bytes) -> bytes:
    raw = content if isinstance(content, bytes) else content.encode()
    return struct.pack("<Q", len(raw)) + raw


def write_header(path: Path, *fields: bytes, tensors: bytes = b"", count: int = 0) -> Path:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, count, len(fields)) + b"".join(fields) + tensors)
    return path


def string(name: str, value: str) -> bytes:
    return text(name) + struct.pack("<I", 8) + text(value)


def number(name: str, value: int) -> bytes:
    return text(name) + struct.pack("<Iq", 11, value) if value < 0 else text(name) + struct.pack("<IQ", 10, value)


LLAMA = string("general.architecture", "llama")


@pytest.mark.parametrize("length", [2**64 - 1, -5, 0])
def test_a_context_length_that_cannot_be_is_unknown(tmp_path: Path, length: int) -> None:
    file = write_header(tmp_path / "a.gguf", LLAMA, number("llama.context_length", length))
    assert read_header(file).context_length is None
    assert read_facts(file).context_length is None


def test_a_number_of_weights_that_json_cannot_hold_does_not_break_the_list(models: Path) -> None:
    tensor = text("a") + struct.pack("<I4QIQ", 4, *[2**63] * 4, 0, 0)
    file = write_header(models / "a.gguf", LLAMA, tensors=tensor, count=1)
    weights = write_weights(models / "b")
    config = msgspec.json.decode((weights / "config.json").read_bytes()) | {"max_position_embeddings": 0}
    (weights / "config.json").write_text(msgspec.json.encode(config).decode().replace(": 0", ":" + "9" * 60))
    found = grouped(models, info("a.gguf", "embedded", file), info("b", "embedded", weights))
    assert found["a"].parameters is None
    assert to_json(list(found.values()))


def test_names_in_a_header_are_short_and_steer_no_terminal(tmp_path: Path) -> None:
    wild = "\x1b]0;owned\x07\n\u202e<b>" + "x" * 1_000_000
    fields = (string("general.architecture", wild), string("general.license", wild), string("general.name", wild))
    facts = read_facts(write_header(tmp_path / "a.gguf", *fields))
    for told in (facts.architecture, facts.license, *facts.names):
        assert len(told) <= 200
        assert told.isprintable()


def test_a_header_with_millions_of_empty_texts_is_refused_at_once(tmp_path: Path) -> None:
    field = text("tokens") + struct.pack("<IIQ", 9, 8, 8_000_000)
    file = write_header(tmp_path / "a.gguf", LLAMA, field)
    with file.open("ab") as more:
        more.truncate(64_000_000)  # the lengths of the texts: all zero
    with pytest.raises(InvalidInputError, match="damaged"):
        read_header(file)


def test_a_pipe_is_no_model_and_nobody_waits_for_it(models: Path) -> None:
    os.mkfifo(models / "pipe.gguf")
    with pytest.raises(InvalidInputError, match="is no file"):
        read_header(models / "pipe.gguf")
    (models / "folder.gguf").mkdir()
    (models / "Noted").mkdir()
    os.mkfifo(models / "Noted" / "model.json")
    assert list_folders(models) == []
    assert read_notes(models / "Noted") is None
    assert [one.name for one in Catalog(models, EmbeddedSettings()).list(set()) if one.name.endswith("r.gguf")] == []
    assert ModelHashes(models).compute(str(models / "pipe.gguf")) is None


def test_a_link_to_weights_that_are_gone_is_told_as_missing(models: Path) -> None:
    weights = write_weights(models / "Tiny" / "weights")
    (weights / "model-00002.safetensors").symlink_to("/nowhere/blob")
    note(models, "Tiny")
    assert weights_lack(weights) == ["model-00002.safetensors"]
    assert "lack model-00002.safetensors" in grouped(models)["Tiny"].why_not_trainable


def test_notes_of_somebody_else_are_cut_to_a_sensible_size(models: Path) -> None:
    (models / "Wild").mkdir()
    wild = {
        "name": "../../etc",
        "license": "\x1b[31m" + "x" * 100_000,
        "servers": [{"runtime": "ollama", "model": f"m{place}"} for place in range(50_000)],
    }
    (models / "Wild" / "model.json").write_text(
        msgspec.json.encode(wild).decode()[:-1] + ',"parameters":' + "9" * 60 + "}"
    )
    found = grouped(models)
    assert len(to_json(list(found.values()))) < 50_000
    assert all(one.license.isprintable() and one.parameters is None for one in found.values())


def test_a_name_of_a_megabyte_is_compared_at_once() -> None:
    assert len(make_bare("x" + "-gguf" * 200_000)) < 400


def test_a_file_that_was_replaced_is_not_known_by_the_hash_in_the_notes(models: Path) -> None:
    file = write_gguf(models / "Tiny" / "tiny.gguf", seed=1)
    other = write_gguf(models.parent / "other.gguf", seed=2)
    size = file.stat().st_size
    note(
        models,
        "Tiny",
        files={
            "tiny.gguf": FileNotes(size_bytes=size, sha256="a" * 64),
            str(other): FileNotes(size_bytes=size, sha256="b" * 64),
        },
    )
    hashes = ModelHashes(models)
    assert hashes.list_noted() == {str(file): "a" * 64}
    noted = (models / "Tiny" / "model.json").stat().st_ctime_ns
    while other.stat().st_ctime_ns <= noted:  # the clock of the file system ticks every few milliseconds
        os.utime(other, ns=(0, 0))  # moving the file keeps this time
    other.rename(file)
    assert hashes.list_noted() == {}


@pytest.mark.parametrize("target", ["a" * 5000, "~nobody-here/x", "\0", "/tmp/" + "a/" * 3000, "", "  "])
async def test_a_target_that_no_file_can_have_is_refused_with_what_to_name(own_models: Services, target: str) -> None:
    with pytest.raises(InvalidInputError, match="is no file, no directory and no RUNTIME:MODEL here"):
        await own_models.models.add(target)


async def test_one_model_has_one_folder_and_no_name_of_a_file(own_models: Services, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    await own_models.models.add(str(file), "Tiny-Talker")
    assert (await own_models.models.add(str(file), "tiny-talker")).name == "Tiny-Talker"
    for name in (f"{EMBEDDED}.Q4_1.gguf", "x.gguf"):
        with pytest.raises(ConflictError, match="Give it another name"):
            await own_models.models.add(str(file), name)


async def test_removing_a_link_in_the_place_of_a_folder_deletes_only_the_link(
    own_models: Services, tmp_path: Path
) -> None:
    models = own_models.models.directory
    await own_models.models.add(str(write_gguf(tmp_path / "tiny.gguf")), "Tiny-Talker")
    (models / "Tiny-Talker").rename(tmp_path / "elsewhere")
    (models / "Tiny-Talker").symlink_to(tmp_path / "elsewhere")
    left = models / ".removed-Other"  # the process was killed while it removed this one
    left.mkdir()
    assert await own_models.models.remove("Tiny-Talker") == 0
    assert (tmp_path / "elsewhere" / "model.json").exists()
    assert not [one.name for one in models.iterdir() if one.name.startswith((".removed-", "Tiny"))]


async def test_a_name_of_megabytes_is_unknown_at_once(own_models: Services) -> None:
    with pytest.raises(NotFoundError):
        await own_models.models.find("x" + "-gguf" * 1_000_000)


async def test_a_model_is_removed_only_by_its_own_name(own_models: Services, tmp_path: Path) -> None:
    await own_models.models.add(str(write_gguf(tmp_path / "other.gguf")), "Tiny-Talker")
    for name in ("other.gguf", "acme/Tiny-Talker", "Tiny-Talker-GGUF"):
        with pytest.raises(ConflictError, match="another name of Tiny-Talker"):
            await own_models.models.remove(name)
    await own_models.models.remove("tiny-talker")


async def test_a_server_that_never_answers_is_waited_for_once(
    own_models: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def never(*_: object) -> None:
        asked.append(1)
        if len(asked) == 1:
            raise RuntimeTimeoutError("It did not answer within 10 s.")
        await asyncio.Event().wait()

    monkeypatch.setattr("tmde_core.runtimes.PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(own_models.runtimes.made("ollama"), "models", never)
    for _ in range(3):
        assert [one.name for one in await own_models.models.list()] == [EMBEDDED]
    assert len(asked) == 2, "the second question is still open"
