"""What is listed, what is called invalid and why, and the pointer."""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tmde_core.errors import AdapterInvalidError, NotFoundError
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.lora import ActivePointer


@pytest.fixture
def store(data_dir: Path) -> AdapterStore:
    return AdapterStore(data_dir)


def edit(store: AdapterStore, identity, **changes) -> None:
    path = store.path(identity) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pointer(adapter_id=None, previous=None) -> ActivePointer:
    return ActivePointer(adapter_id=adapter_id, previous_adapter_id=previous, since=datetime(2026, 1, 1, tzinfo=UTC))


def test_adapters_are_listed_newest_first_without_those_being_built(store, data_dir, published):
    identities = [published(data_dir, age=age) for age in (5, 1, 3)]
    (store.directory / ".staging-x").mkdir()
    store.point_at(pointer())
    assert [adapter.id for adapter in store.list()] == [identities[1], identities[2], identities[0]]
    assert all(adapter.is_valid for adapter in store.list())


def test_no_adapters_directory_is_an_empty_list(tmp_path: Path):
    assert AdapterStore(tmp_path / "nowhere").list() == []
    assert AdapterStore(tmp_path / "nowhere").active() is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: (path / "manifest.json").unlink(), r"has no manifest.json: it was not made by TMDE; import it"),
        (lambda path: [file.unlink() for file in path.iterdir()], r"foreign or half copied"),
        (lambda path: (path / "manifest.json").write_text("{"), r"manifest.json is damaged"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), r"manifest.json is damaged"),
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), r"manifest.json is damaged"),
        (
            lambda path: (path / "manifest.json").write_text('{"format": 2, "new": 1}'),
            r"newer version of TMDE \(format 2",
        ),
        (lambda path: (path / "adapter_config.json").unlink(), r"adapter_config.json is missing"),
        (
            lambda path: (path / "adapter_model.safetensors").write_bytes(b"half"),
            r"bytes in all where the manifest says",
        ),
        (lambda path: path.rename(path.with_name("mine")), r"foreign: the directory is called 'mine'"),
        (lambda path: path.rename(path.with_name(str(uuid4()))), r"foreign: the directory is called"),
    ],
)
def test_an_unsound_directory_is_listed_with_its_reason_and_stops_nobody(store, data_dir, published, spoil, reason):
    sound, unsound = published(data_dir), published(data_dir)
    spoil(store.path(unsound))
    listed = {adapter.is_valid: adapter for adapter in store.list()}
    assert listed[True].id == sound
    assert re.search(reason, listed[False].invalid_reason), listed[False].invalid_reason
    assert store.get(listed[False].id) == listed[False]
    with pytest.raises(AdapterInvalidError, match=reason):
        store.verify_files(listed[False].id)


def test_a_link_is_no_adapter(store, data_dir, published):
    identity = published(data_dir)
    store.path(identity).rename(data_dir / "elsewhere")
    store.path(identity).symlink_to(data_dir / "elsewhere")
    assert store.get(identity).invalid_reason == "It is a link, not a directory."


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", ".."])
def test_a_manifest_that_names_files_elsewhere_is_unsound(store, data_dir, published, name):
    identity = published(data_dir)
    files = json.loads((store.path(identity) / "manifest.json").read_text())["files"]
    edit(store, identity, files={**files, name: "0" * 64})
    assert "no plain file name" in (store.get(identity).invalid_reason or "")


@pytest.mark.parametrize("lineage", ['["x"]', "null", "7", '"x"', '{"x": }'])
def test_a_lineage_that_is_none_is_damage_although_the_list_passes_it_over(store, data_dir, published, lineage):
    identity = published(data_dir)
    file = store.path(identity) / "manifest.json"
    file.write_text(re.sub(r'"lineage": \{[^}]*\}', f'"lineage": {lineage}', file.read_text()))
    assert "manifest.json is damaged" in (store.get(identity).invalid_reason or "")


def test_a_pipe_in_place_of_the_manifest_keeps_nobody_waiting(store, data_dir, published):
    identity = published(data_dir)
    (store.path(identity) / "manifest.json").unlink()
    os.mkfifo(store.path(identity) / "manifest.json")
    assert "manifest.json is damaged" in (store.get(identity).invalid_reason or "")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda deeper: st.dictionaries(st.text(), deeper),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_manifest_whatsoever_breaks_the_list(store, data_dir, published, content):
    identity = published(data_dir)
    (store.path(identity) / "manifest.json").write_bytes(content)
    assert not store.get(identity).is_valid
    shutil.rmtree(store.path(identity))


def test_a_file_of_the_same_length_is_told_apart_by_its_hash_only_when_verified(store, data_dir, published):
    identity = published(data_dir)
    weights = store.path(identity) / "adapter_model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert store.get(identity).is_valid
    with pytest.raises(AdapterInvalidError, match=r"adapter_model.safetensors has changed since it was published"):
        store.verify_files(identity)


def test_an_unknown_adapter_is_not_found(store):
    with pytest.raises(NotFoundError):
        store.get(uuid4())


def test_the_pointer_is_read_again_only_when_it_has_changed(store, data_dir, published, monkeypatch):
    identity = published(data_dir)
    other = AdapterStore(data_dir)
    store.point_at(pointer(identity))
    assert store.active_id() == identity
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read again"))
    assert store.active_id() == identity
    monkeypatch.undo()
    other.point_at(pointer(None, identity))
    assert store.active_id() is None


def test_a_damaged_or_dangling_pointer_means_the_base_model(store, data_dir, published):
    identity = published(data_dir)
    store.point_at(pointer(uuid4()))
    assert store.active_id() is None
    (store.directory / "active.json").write_text("{")
    assert store.active_id() is None
    assert not store.get(identity).is_active
    with pytest.raises(AdapterInvalidError, match=r"active.json is damaged"):
        store.active()


def test_a_thousand_adapters_are_listed_without_reading_their_weights(store, data_dir, published, monkeypatch):
    for _ in range(1000):
        published(data_dir)
    monkeypatch.setattr("tmde_core.lora.files.store.hash_file", lambda _: pytest.fail("it hashed"))
    assert len(store.list()) == 1000
