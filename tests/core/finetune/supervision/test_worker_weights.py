"""A worker finds the weights that it trains, and has those of a GGUF file converted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tmde_core.errors import InvalidInputError
from tmde_core.records.training import TrainingJob, WorkerCommand
from tmde_core.sdk.worker import TrainingFailedError, find_weights, prepare_weights


def job(data_dir: Path, base_model: str, script: str = "") -> TrainingJob:
    """A job. Its GGUF file is converted by the Python script."""
    return TrainingJob(
        run_id="1",
        run_dir=str(data_dir),
        train_file="",
        val_file="",
        output_dir="",
        base_model=base_model,
        data_dir=str(data_dir),
        config={},
        dequantize=WorkerCommand(argv=(sys.executable, "-c", script)) if script else None,
    )


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "Small.Q4_0.GGUF"
    path.parent.mkdir()
    path.write_bytes(b"GGUF")
    return path


def make_weights(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (directory / name).touch()
    return directory


def test_a_directory_is_found_by_its_path_and_by_its_name(tmp_path: Path) -> None:
    directory = make_weights(tmp_path / "models" / "small")
    for name in ("small", str(directory)):
        assert find_weights(job(tmp_path, name)) == directory
        assert prepare_weights(job(tmp_path, name, "raise SystemExit(1)")) == directory, "nothing is converted"


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (" ", "names no base model"),
        ("nothing-here", "There is no base model 'nothing-here'"),
        ("half", r"lacks tokenizer.json, tokenizer_config.json, \*.safetensors"),
        ("~nobody-of-this-name/x", "cannot be looked at"),
        ("x" * 5000, "cannot be looked at: File name too long"),
        ("a\0b", "There is no base model"),
        ("Small.Q4_0.GGUF", r"GGUF file Small.Q4_0.GGUF, and nothing here can convert it.*`tmde models pull`"),
    ],
)
def test_weights_that_cannot_be_trained_are_refused_with_what_to_do(tmp_path, gguf, base: str, told: str) -> None:
    (tmp_path / "models" / "half").mkdir()
    (tmp_path / "models" / "half" / "config.json").touch()
    with pytest.raises(InvalidInputError, match=told) as caught:
        find_weights(job(tmp_path, base))
    assert caught.value.context["field"] == "baseModel"


def test_a_gguf_is_converted_by_the_command_of_the_job(tmp_path, gguf, capfd) -> None:
    directory = make_weights(tmp_path / "made")
    alive: list[None] = []
    found = prepare_weights(
        job(tmp_path, gguf.name, f"print('Reading it.'); print({str(directory)!r})"), lambda: alive.append(None)
    )
    assert found == directory
    assert len(alive) == 2
    assert "Reading it." in capfd.readouterr().err, "the worker's log has what the conversion wrote"


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        (
            "raise SystemExit('It has no chat template.')",
            TrainingFailedError,
            r"Small.Q4_0.GGUF cannot .*chat template",
        ),
        ("print('/nowhere/at/all')", TrainingFailedError, "cannot be converted for training: /nowhere/at/all"),
        ("import os; os.kill(os.getpid(), 9)", MemoryError, "killed; most likely memory is short"),
    ],
)
def test_a_failed_conversion_says_why(tmp_path, gguf, script: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        prepare_weights(job(tmp_path, str(gguf), script))
