"""What happens between the steps of a switch, an import and a deletion: cancelled, full, crashed, or two at once."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import threading
from datetime import timedelta

import msgspec
import pytest

from tests.core.lora.archive.archives import packed, peft_files, pieces
from tmde_core.errors import AdapterInvalidError, ConflictError, InsufficientStorageError
from tmde_core.lora.activation import intents
from tmde_core.lora.files.store import EDIT_LOCK, AdapterStore
from tmde_core.records.base import utc_now
from tmde_core.records.debate import DebateConfig
from tmde_core.records.lora import ActivePointer
from tmde_core.sdk.adapters import publish
from tmde_core.storage.durable import hash_file
from tmde_core.testing.scripted import Reply


async def last(services):
    return (await services.lora.list_events(1))[0]


def blocked(monkeypatch, owner, name: str, *, before: bool = True) -> tuple[threading.Event, threading.Event]:
    """Let a function of a thread stop before (or after) its work: `arrived` is set there, `go` lets it on."""
    arrived, go, original = threading.Event(), threading.Event(), getattr(owner, name)

    def stopping(*arguments):
        done = None if before else original(*arguments)
        arrived.set()
        assert go.wait(60)
        return original(*arguments) if before else done

    monkeypatch.setattr(owner, name, stopping)
    return arrived, go


# ------------------------------------------------------------------------------------------- switches


async def test_cancelled_while_the_pointer_is_written_the_trail_says_what_the_pointer_says(
    services, data_dir, published, monkeypatch
):
    identity = published(data_dir)
    arrived, go = blocked(monkeypatch, AdapterStore, "point_at")
    task = asyncio.create_task(services.lora.activate(identity))
    await asyncio.to_thread(arrived.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="Another switch"):
        await services.lora.deactivate()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert services.stores.adapters.active_id() == identity
    assert (await last(services)).success is True


async def test_a_forced_adapter_stays_held_back_when_the_pointer_cannot_be_written(
    services, data_dir, published, runtime, monkeypatch
):
    identity = published(data_dir, gate="held-back")

    def full(*_):
        raise InsufficientStorageError("The disk is full.")

    monkeypatch.setattr(AdapterStore, "point_at", full)
    with pytest.raises(InsufficientStorageError):
        await services.lora.activate(identity, force=True)
    assert (await services.lora.get(identity)).gate == "held-back"
    assert ((await last(services)).success, (await last(services)).note) == (False, None)
    assert not runtime.loaded


async def test_a_crash_right_after_a_forced_switch_is_settled_as_forced(services, opened, data_dir, published):
    identity = published(data_dir, gate="held-back")
    await services.lora._audit.open(identity, None, "user")
    services.stores.adapters.point_at(ActivePointer(adapter_id=identity, previous_adapter_id=None, since=utc_now()))
    async with opened(data_dir) as again:
        event = await last(again)
        assert (event.success, event.note) == (
            True,
            "Activated by force although the benchmark holds it back.",
        )
        assert (await again.lora.get(identity)).gate == "forced"


async def test_what_was_live_is_counted_from_the_switch_and_not_from_its_intent(services, data_dir, published, runtime):
    identity, gate, arrived = published(data_dir), asyncio.Event(), asyncio.Event()

    def slow(request):
        arrived.set()
        return Reply("Light with." if request.adapter else "Light.", gate=gate)

    runtime.script = slow
    task = asyncio.create_task(services.lora.activate(identity))
    await arrived.wait()
    intent = (await last(services)).timestamp
    await asyncio.sleep(0.01)
    gate.set()
    await task
    pointer = services.stores.adapters.active()
    assert pointer is not None
    assert (await services.lora.find_active_at(intent + timedelta(milliseconds=1))).adapter_id is None
    live = await services.lora.find_active_at(pointer.since)
    assert (live.adapter_id, live.since) == (identity, pointer.since)


async def test_a_pointer_to_what_is_gone_is_put_right_by_deactivating(services, data_dir, published):
    identity = published(data_dir)
    await services.lora.activate(identity)
    services.stores.adapters.path(identity).rename(data_dir / "gone")
    await services.lora.deactivate()
    assert services.stores.adapters.active().adapter_id is None


# --------------------------------------------------------------------- imports, and deletions too


async def test_the_start_of_another_process_leaves_the_intent_of_a_live_import_alone(services, opened, monkeypatch):
    arrived, go = threading.Event(), threading.Event()

    def waiting(*arguments):
        arrived.set()
        assert go.wait(60)
        return publish(*arguments)

    monkeypatch.setattr(intents, "publish", waiting)
    task = asyncio.create_task(services.archives.import_archive(pieces(packed(peft_files()))))
    await asyncio.to_thread(arrived.wait, 20)
    async with opened(services.settings.data_path) as other:
        assert (await last(other)).success is None
    go.set()
    adapter = await task
    event = await last(services)
    assert (event.adapter_id, event.operation, event.success) == (adapter.id, "import", True)


async def test_an_import_that_is_cancelled_while_it_is_published_is_recorded_as_it_went(services, monkeypatch):
    arrived, go = threading.Event(), threading.Event()

    def waiting(*arguments):
        done = publish(*arguments)
        arrived.set()
        assert go.wait(60)
        return done

    monkeypatch.setattr(intents, "publish", waiting)
    task = asyncio.create_task(services.archives.import_archive(pieces(packed(peft_files()))))
    await asyncio.to_thread(arrived.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    (adapter,) = await services.lora.list(valid=True)
    assert ((await last(services)).adapter_id, (await last(services)).success) == (adapter.id, True)
    assert not list(services.stores.adapters.directory.glob(".staging-*"))


async def test_the_same_archive_imported_several_times_at_once_becomes_as_many_adapters(services, monkeypatch):
    """All have found the id free before the first of them is published."""
    first = await services.archives.import_archive(pieces(packed(peft_files())))
    export = await services.archives.export(first.id)
    content = b"".join([piece async for piece in export.chunks])
    await services.lora.delete(first.id)
    hashing = threading.Barrier(3)

    def together(file):
        if file.name == "adapter_config.json" and not hashing.broken:
            with contextlib.suppress(threading.BrokenBarrierError):
                hashing.wait(5)
                hashing.abort()
        return hash_file(file)

    monkeypatch.setattr("tmde_core.sdk.adapters.hash_file", together)
    made = await asyncio.gather(*(services.archives.import_archive(pieces(content)) for _ in range(3)))
    assert len({one.id for one in made}) == 3
    assert first.id in {one.id for one in made}
    for one in made:
        services.stores.adapters.verify_files(one.id)


async def test_a_cancelled_deletion_is_finished_before_another_switch_begins(
    services, data_dir, published, monkeypatch
):
    identity = published(data_dir)
    arrived, go = blocked(monkeypatch, AdapterStore, "take_away")
    task = asyncio.create_task(services.lora.delete(identity))
    await asyncio.to_thread(arrived.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="Another switch"):
        await services.lora.activate(identity)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await services.lora.list() == []
    assert (await last(services)).success is True


async def test_what_an_end_in_the_middle_left_does_not_stop_the_next_deletion(services, data_dir, published):
    identity = published(data_dir)
    left = services.stores.adapters.directory / f".deleting-{identity}"
    left.mkdir()
    (left / "adapter.gguf").write_bytes(b"half")
    await services.lora.delete(identity)
    assert not left.exists()
    assert not services.stores.adapters.path(identity).exists()


async def test_a_foreign_directory_can_be_deleted_and_that_is_settled_by_what_is_there(services, opened, data_dir):
    foreign = data_dir / "lora-adapters" / "mine"
    (foreign / "deeper").mkdir(parents=True)
    (foreign / "deeper" / "weights.bin").write_bytes(bytes(1000))
    (adapter,) = await services.lora.list()
    assert (adapter.is_valid, adapter.size_bytes) == (False, 1000)
    assert (await services.lora.measure_storage()).bytes == 1000
    await services.lora._audit.open(adapter.id, None, "user", "delete")
    async with opened(data_dir) as again:
        assert (await last(again)).success is False
        await again.lora.delete(adapter.id)
        assert (await last(again)).success is True
    assert not foreign.exists()


async def test_what_answers_a_debate_or_a_question_is_not_deleted(services, data_dir, published, runtime):
    a, b, gate = published(data_dir), published(data_dir), asyncio.Event()
    await services.lora.activate(a)
    runtime.script = lambda request: Reply("Slowly.", gate=gate)
    started = await services.debates.start("Why?", DebateConfig(max_rounds=1, synthesis="never", judge="none"))
    asked = await services.ask.ask("Why?", [b])
    await services.lora.deactivate()
    for identity in (a, b):
        with pytest.raises(ConflictError, match="has not ended yet"):
            await services.lora.delete(identity)
    assert await services.lora.prune(0) == []
    gate.set()
    await services.debates.wait(started.id)
    async for _ in services.ask.events(asked).follow():
        pass
    for identity in (a, b):
        await services.lora.delete(identity)
    assert await services.lora.list() == []


# --------------------------------------------------------------------------------- listing and hashing


async def test_a_start_does_not_take_the_unfinished_manifest_of_somebody_who_writes_one(services, data_dir, published):
    identity = published(data_dir)
    unfinished = services.stores.adapters.path(identity) / ".manifest.json.1.tmp"
    unfinished.write_text("{")
    with (services.stores.adapters.directory / EDIT_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        await services.lora.settle()
        assert unfinished.exists()
    await services.lora.settle()
    assert not unfinished.exists()


def test_listing_in_many_threads_while_adapters_are_deleted_never_fails_and_shows_no_halves(data_dir, published):
    store = AdapterStore(data_dir)
    ids = [published(data_dir) for _ in range(60)]
    problems: list[object] = []
    done = threading.Event()

    def listing() -> None:
        while not done.is_set():
            try:
                problems.extend(one for one in store.list() if not one.is_valid)
            except Exception as error:
                problems.append(error)

    threads = [threading.Thread(target=listing) for _ in range(4)]
    for thread in threads:
        thread.start()
    for identity in ids:
        store.take_away(identity)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.list() == []


async def test_damage_that_an_activation_finds_is_listed_until_the_file_is_restored(services, data_dir, published):
    identity = published(data_dir)
    file = services.stores.adapters.path(identity) / "adapter.gguf"
    sound = file.read_bytes()
    file.write_bytes(sound[::-1])
    with pytest.raises(AdapterInvalidError, match="has changed"):
        await services.lora.activate(identity)
    listed = await services.lora.get(identity)
    assert not listed.is_valid
    assert "adapter.gguf has changed" in (listed.invalid_reason or "")
    assert "adapter.gguf" in (await services.lora.get_details(identity)).files
    assert (await services.lora.verify(identity)).files == 3
    file.write_bytes(sound)
    assert (await services.lora.activate(identity)).is_valid


async def test_both_of_two_who_change_the_same_manifest_are_heard(services, data_dir, published):
    identity = published(data_dir)
    store = services.stores.adapters

    def tagged(name: str) -> None:
        store.edit(identity, lambda manifest: msgspec.structs.replace(manifest, tags=(*manifest.tags, name)))

    await asyncio.gather(*(asyncio.to_thread(tagged, str(number)) for number in range(20)))
    assert set((await services.lora.get(identity)).tags) == {str(number) for number in range(20)}
