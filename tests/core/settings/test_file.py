"""Settings that are changed from a page or the command line end up in the file, and nothing else in it changes."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tmde_core.errors import InsufficientStorageError, InvalidInputError
from tmde_core.settings.file import update_settings_file


def test_comments_order_and_other_settings_stay(tmp_path: Path):
    file = tmp_path / "tmde.toml"
    file.write_text('# mine\nport = 1 # one\n\n[roles.proposer]\nmodel = "m"\n\n[finetune]\nepochs = 2\n')
    update_settings_file(file, {"finetune": {"epochs": 3}, "debate": {"judge": "none"}})
    assert file.read_text() == (
        '# mine\nport = 1 # one\n\n[roles.proposer]\nmodel = "m"\n\n[finetune]\nepochs = 3\n\n[debate]\njudge = "none"\n'
    )


def test_a_file_that_is_not_there_is_made(tmp_path: Path):
    file = tmp_path / "tmde.toml"
    update_settings_file(file, {"port": 9, "allowed_hosts": ("a", "b"), "roles": {"judge": {"model": "m"}}})
    assert tomllib.loads(file.read_text()) == {
        "port": 9,
        "allowed_hosts": ["a", "b"],
        "roles": {"judge": {"model": "m"}},
    }


def test_a_broken_file_is_left_alone(tmp_path: Path):
    file = tmp_path / "tmde.toml"
    file.write_text("port = = 1")
    with pytest.raises(InvalidInputError, match="not valid TOML"):
        update_settings_file(file, {"port": 2})
    assert file.read_text() == "port = = 1"


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    file = tmp_path / "tmde.toml"
    file.write_text("port = 1\n")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InsufficientStorageError, match="is full"):
        update_settings_file(file, {"port": 2})
    assert file.read_text() == "port = 1\n"


def test_changes_made_at_the_same_time_all_arrive(tmp_path: Path):
    file = tmp_path / "tmde.toml"
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda number: update_settings_file(file, {"runtimes": {f"r{number}": {"n": number}}}), range(24))
        )
    assert len(tomllib.loads(file.read_text())["runtimes"]) == 24
