"""What manifests tell other tools: the size, and who is active. TMDE itself never reads it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tmde_core.records.base import from_json
from tmde_core.records.lora import ActivePointer, Manifest


def told(data_dir: Path) -> dict[str, bool]:
    """Adapter → `isActive` in its manifest."""
    found = {}
    for file in (data_dir / "lora-adapters").glob("*/manifest.json"):
        manifest = json.loads(file.read_text())
        assert (
            manifest["size_bytes"]
            == manifest["sizeBytes"]
            == sum(one.stat().st_size for one in file.parent.iterdir() if one.name != "manifest.json")
        )
        found[file.parent.name] = manifest["isActive"]
    return found


async def test_manifests_tell_other_tools_who_is_active_after_each_switch(services, data_dir, published):
    a, b = published(data_dir, age=2), published(data_dir, age=1)
    assert told(data_dir) == {str(a): False, str(b): False}
    await services.lora.activate(a)
    assert told(data_dir) == {str(a): True, str(b): False}
    await services.lora.activate(b)
    assert told(data_dir) == {str(a): False, str(b): True}
    await services.lora.rollback()
    assert told(data_dir) == {str(a): True, str(b): False}
    await services.lora.tag(a, add=("good",))
    assert told(data_dir) == {str(a): True, str(b): False}
    await services.lora.deactivate()
    assert told(data_dir) == {str(a): False, str(b): False}
    assert [(await services.lora.verify(one)).is_valid for one in (a, b)] == [True, True]


async def test_tmde_believes_the_pointer_and_not_the_copy(services, data_dir, published):
    a, b = published(data_dir, age=2), published(data_dir, age=1)
    await services.lora.activate(a)
    for identity, claim in ((a, False), (b, "yes, it is")):
        file = data_dir / "lora-adapters" / str(identity) / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "isActive": claim, "size_bytes": "many"}))
    assert [one.is_active for one in await services.lora.list()] == [False, True]
    assert services.lora.get_active_ref().id == str(a)
    assert all(one.is_valid for one in await services.lora.list())


async def test_a_death_between_the_pointer_and_the_copies_is_put_right_by_the_next_start(opened, data_dir, published):
    a, b = published(data_dir, age=2), published(data_dir, age=1)
    async with opened(data_dir) as services:
        await services.lora.activate(a)
        pointer = services.stores.adapters.active()
        services.stores.adapters.point_at(
            ActivePointer(adapter_id=b, previous_adapter_id=a, since=pointer.since)
        )  # and then the process died
        assert told(data_dir) == {str(a): True, str(b): False}
    async with opened(data_dir):
        assert told(data_dir) == {str(a): False, str(b): True}


async def test_a_copy_that_cannot_be_written_does_not_fail_the_switch(services, data_dir, published, monkeypatch):
    a = published(data_dir)

    def full(**_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(services.stores.adapters, "refresh_copies", full)
        assert (await services.lora.activate(a)).is_active
    assert told(data_dir) == {str(a): False}
    await services.lora.settle()
    assert told(data_dir) == {str(a): True}


async def test_a_damaged_adapter_that_is_switched_away_from_is_no_longer_told_active(services, data_dir, published):
    a = published(data_dir)
    await services.lora.activate(a)
    (data_dir / "lora-adapters" / str(a) / "adapter_config.json").unlink()
    await services.lora.deactivate()
    manifest = json.loads((data_dir / "lora-adapters" / str(a) / "manifest.json").read_text())
    assert manifest["isActive"] is False


def test_a_manifest_without_the_copies_is_read_as_before(data_dir, published):
    identity = published(data_dir)
    file = data_dir / "lora-adapters" / str(identity) / "manifest.json"
    earlier = {name: value for name, value in json.loads(file.read_text()).items() if name not in ("size_bytes", "isActive", "name")}  # fmt: skip
    assert from_json(msgspec.json.encode(earlier), Manifest).id == identity


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "two\nlines", "\ud800"])
async def test_a_name_that_is_none_is_refused(services, data_dir, published, name):
    from tmde_core.errors import InvalidInputError

    with pytest.raises(InvalidInputError, match="name"):
        await services.lora.rename(published(data_dir), name)
