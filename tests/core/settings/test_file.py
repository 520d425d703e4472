"""Settings that are changed from a page or the command line end up in the file, and nothing else in it changes."""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffport = 1\n[roles.judge]\nruntime = "auto"\n',
        'roles = {judge = {runtime = "auto"}}\nport = 1\n',
        'roles.judge.runtime = "auto"\nport = 1\n',
    ],
    ids=["byte order mark", "inline table", "dotted key"],
)
def test_each_way_of_writing_a_table_can_be_extended(tmp_path: Path, text: str):
    file = tmp_path / "tmde.toml"
    file.write_text(text, encoding="utf-8")
    update_settings_file(file, {"roles": {"judge": {"model": "m"}, "proposer": {"model": "p"}}})
    assert tomllib.loads(file.read_text()) == {
        "port": 1,
        "roles": {"judge": {"runtime": "auto", "model": "m"}, "proposer": {"model": "p"}},
    }


def test_a_value_may_become_a_table(tmp_path: Path):
    file = tmp_path / "tmde.toml"
    file.write_text("[runtimes.acme]\nlimit = 1\n")
    update_settings_file(file, {"runtimes": {"acme": {"limit": {"day": 2}}}})
    assert tomllib.loads(file.read_text()) == {"runtimes": {"acme": {"limit": {"day": 2}}}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [[1, None], nested(5_000)], ids=["null", "deep"])
def test_what_toml_cannot_hold_is_refused_and_leaves_the_file_as_it_was(tmp_path: Path, value: Any):
    file = tmp_path / "tmde.toml"
    file.write_text("port = 1\n")
    with pytest.raises(InvalidInputError, match="cannot hold these values"):
        update_settings_file(file, {"runtimes": {"acme": {"list": value}}})
    assert file.read_text() == "port = 1\n"
