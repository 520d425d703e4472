"""The server reads adapters again in the background: damage is found, listed, told once, and hurried by nobody."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from tmde_core.errors import AdapterInvalidError
from tmde_core.lora import patrol
from tmde_core.lora.patrol import Patrol
from tmde_core.records.base import utc_now
from tmde_core.records.lora import ActivePointer

FAST = 1e12


@pytest.fixture
def told() -> list:
    return []


@pytest.fixture
def patrols(services, told):
    async def tell(event) -> None:
        told.append(event)

    return lambda **options: Patrol(services.lora, services.stores.adapters, tell, **{"pace": FAST, **options})


def spoil(services, identity) -> tuple:
    file = services.stores.adapters.path(identity) / "adapter_model.safetensors"
    sound = file.read_bytes()
    file.write_bytes(sound[::-1])
    return file, sound


async def test_damage_is_listed_with_its_reason_and_told_once(services, data_dir, published, patrols, told):
    sound, damaged = published(data_dir), published(data_dir)
    spoil(services, damaged)
    for _ in range(2):
        await patrols().round()
    listed = {one.id: one for one in await services.lora.list()}
    assert listed[sound].is_valid
    assert not listed[damaged].is_valid
    assert "adapter_model.safetensors has changed since it was published" in (listed[damaged].invalid_reason or "")
    assert [one.adapter_id for one in told] == [damaged]


async def test_a_restored_adapter_is_sound_again(services, data_dir, published, patrols):
    identity = published(data_dir)
    file, sound = spoil(services, identity)
    await patrols().round()
    file.write_bytes(sound)
    await patrols().round()
    assert (await services.lora.get(identity)).is_valid


async def test_the_active_one_comes_first_and_what_is_deleted_meanwhile_stops_nobody(
    services, data_dir, published, patrols, told, monkeypatch
):
    newest, active, gone = published(data_dir), published(data_dir, age=9), published(data_dir, age=20)
    # Activation would read it, and then it is not due.
    services.stores.adapters.point_at(ActivePointer(adapter_id=active, previous_adapter_id=None, since=utc_now()))
    seen = []
    flaws = services.stores.adapters.find_flaws

    def noted(adapter_id, *arguments):
        if not seen:
            services.stores.adapters.take_away(gone)
        seen.append(adapter_id)
        return flaws(adapter_id, *arguments)

    monkeypatch.setattr(services.stores.adapters, "find_flaws", noted)
    await patrols().round()
    assert seen == [active, newest, gone]
    assert told == []


async def test_bytes_of_the_active_one_that_were_overwritten_are_noticed_soon(services, data_dir, published, patrols):
    identity = published(data_dir)
    services.stores.adapters.point_at(ActivePointer(adapter_id=identity, previous_adapter_id=None, since=utc_now()))
    watch = patrols()
    await watch.look_at_active()
    assert services.lora.find_active_flaw() is None
    spoil(services, identity)
    await watch.look_at_active()
    assert "has changed since it was published" in (services.lora.find_active_flaw() or "")
    assert services.lora.get_answering_ref() is None


async def test_files_of_the_active_one_that_nobody_wrote_are_not_read_again(
    services, data_dir, published, patrols, monkeypatch
):
    identity = published(data_dir)
    services.stores.adapters.point_at(ActivePointer(adapter_id=identity, previous_adapter_id=None, since=utc_now()))
    await patrols().look_at_active()
    read = []
    monkeypatch.setattr(services.stores.adapters, "find_flaws", lambda *given: read.append(given))
    again = patrols()
    for _ in range(3):
        await again.look_at_active()
    assert read == []


async def test_without_an_active_adapter_nothing_is_looked_at(services, patrols):
    await patrols().look_at_active()
    assert services.lora.find_active_flaw() is None


async def test_a_restart_forgets_neither_the_damage_nor_where_the_pass_was(opened, data_dir, published, monkeypatch):
    identities = [published(data_dir, age=age) for age in range(4)]
    told, seen = [], []

    async def tell(event) -> None:
        told.append(event.adapter_id)

    async def round_of(services, until: int) -> None:
        flaws = services.stores.adapters.find_flaws

        def noted(adapter_id, *arguments):
            if len(seen) == until:
                raise KeyboardInterrupt  # the server ends here
            seen.append(adapter_id)
            return flaws(adapter_id, *arguments)

        monkeypatch.setattr(services.stores.adapters, "find_flaws", noted)
        await Patrol(services.lora, services.stores.adapters, tell, pace=FAST).round()

    async with opened(data_dir) as services:
        spoil(services, identities[1])
        with pytest.raises(KeyboardInterrupt):
            await round_of(services, 2)
    async with opened(data_dir) as services:
        damaged = await services.lora.get(identities[1])
        assert "has changed since it was published" in (damaged.invalid_reason or "")
        assert [one.is_valid for one in await services.lora.list()] == [True, False, True, True]
        await round_of(services, 9)
        assert seen == [*identities[:2], *identities[2:], identities[1]]
        assert told == [identities[1]]


async def test_what_is_kept_of_a_reading_never_makes_an_adapter_good(services, opened, data_dir, published):
    identity = published(data_dir)
    await services.lora.verify(identity)
    services.stores.adapters.readings.save()
    spoil(services, identity)
    async with opened(data_dir) as restarted:
        with pytest.raises(AdapterInvalidError, match="has changed since it was published"):
            await restarted.lora.activate(identity)
        assert not (await restarted.lora.get(identity)).is_valid
    assert not (await services.lora.get(identity)).is_valid  # what another process has found is seen too


async def test_a_tag_does_not_hide_the_damage_and_a_kept_reading_that_cannot_be_read_harms_nobody(
    services, opened, data_dir, published
):
    identity = published(data_dir)
    spoil(services, identity)
    await services.lora.verify(identity)
    assert not (await services.lora.tag(identity, add=["mine"])).is_valid
    (services.stores.adapters.directory / ".readings.json").write_text('{"x": 1}')
    async with opened(data_dir) as restarted:
        assert (await restarted.lora.get(identity)).is_valid  # until it is read again
    assert not (await services.lora.get(identity)).is_valid


async def test_it_reads_in_a_thread_of_the_lowest_priority_at_its_pace(services, data_dir, published, monkeypatch):
    identity = published(data_dir)
    file = services.stores.adapters.path(identity) / "adapter.gguf"
    priorities = []
    sha256 = patrol.hashlib.sha256

    def noted():
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return sha256()

    monkeypatch.setattr(patrol.hashlib, "sha256", noted)
    await Patrol(services.lora, services.stores.adapters, lambda _: asyncio.sleep(0), pace=FAST).round()
    assert set(priorities) == {19}
    assert os.getpriority(os.PRIO_PROCESS, 0) < 19
    began = time.perf_counter()
    Patrol(
        services.lora, services.stores.adapters, lambda _: asyncio.sleep(0), pace=file.stat().st_size * 10
    )._unhurried(file)
    assert time.perf_counter() - began >= 0.1


async def test_stopping_ends_a_slow_reading_at_once(services, data_dir, published, patrols):
    published(data_dir)
    looking = patrols(first=0, pace=1)  # a byte a second
    await looking.start()
    while not any(thread.name.startswith("patrol") for thread in threading.enumerate()):
        await asyncio.sleep(0.01)
    await asyncio.wait_for(looking.stop(), 60)  # the reading itself would take longer


async def test_only_the_server_patrols_and_it_tells_by_a_notification(opened, data_dir, published, monkeypatch):
    identity = published(data_dir)
    monkeypatch.setattr(patrol, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(Patrol.__init__, "__kwdefaults__", {"first": 0.0, "pace": FAST})
    async with opened(data_dir) as services:
        await services.lora.activate(identity)
        spoil(services, identity)
        await asyncio.sleep(0.05)
        assert (await services.lora.get(identity)).is_valid
    async with opened(data_dir, serving=True) as services:
        async for event in services.notifications.follow():
            assert event.data["kind"] == "lora.damaged"
            assert event.data["level"] == "error"
            assert "so the base model answers" in event.data["title"]
            break
        assert not (await services.lora.get(identity)).is_valid
