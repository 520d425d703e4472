"""Which adapter answers: switched whole or not at all, with every attempt on record."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
from pathlib import Path
from uuid import uuid4

import pytest

from tmde_core.errors import AdapterInvalidError, ConflictError, NotFoundError, WorkerFailedError
from tmde_core.lora.activation.audit import build_rollback_chain
from tmde_core.lora.activation.switch import ACTIVATION_LOCK
from tmde_core.records.base import utc_now
from tmde_core.records.chat import ChatRequest
from tmde_core.records.lora import LoRAActivationEvent
from tmde_core.records.runtimes import ModelInfo, RuntimeCapabilities
from tmde_core.testing.scripted import Reply, ScriptedRuntime


async def last(services) -> LoRAActivationEvent:
    events: list[LoRAActivationEvent] = await services.lora.list_events()
    return events[0]


async def live(services):
    adapter = await services.lora.get_active()
    return adapter.id if adapter else None


async def test_an_activated_adapter_is_what_a_debate_pins(services, data_dir, published, runtime):
    identity = published(data_dir)
    assert services.lora.get_active_ref() is None
    adapter = await services.lora.activate(identity, by="api")
    assert adapter.is_active
    reference = services.lora.get_active_ref()
    assert (reference.id, reference.directory) == (str(identity), adapter.path)
    assert runtime.loaded == {reference.id: reference}
    event = await last(services)
    assert (event.adapter_id, event.previous_adapter_id, event.triggered_by, event.success) == (
        identity,
        None,
        "api",
        True,
    )
    written = json.loads((data_dir / "lora-adapters" / "active.json").read_text())
    assert (written["adapterId"], written["previousAdapterId"]) == (str(identity), None)


async def test_another_process_sees_the_switch(services, opened, data_dir, published):
    async with opened(data_dir) as other:
        assert other.lora.get_active_ref() is None
        identity = published(data_dir)
        await services.lora.activate(identity)
        assert other.lora.get_active_ref().id == str(identity)


async def test_deactivating_lets_the_base_model_answer(services, data_dir, published):
    identity = published(data_dir)
    await services.lora.activate(identity)
    await services.lora.deactivate()
    assert services.lora.get_active_ref() is None
    event = await last(services)
    assert (event.adapter_id, event.previous_adapter_id, event.success) == (None, identity, True)
    await services.lora.deactivate()
    assert len(await services.lora.list_events()) == 2


# ----------------------------------------------------------------------------------- rollback


async def test_after_a_b_c_two_rollbacks_give_a_a_third_the_base_and_a_fourth_a_conflict(services, data_dir, published):
    a, b, c = (published(data_dir, age=age) for age in (3, 2, 1))
    for identity in (a, b, c):
        await services.lora.activate(identity)
    assert (await services.lora.rollback()).id == b
    assert (await services.lora.rollback()).id == a
    assert await services.lora.rollback() is None
    assert services.lora.get_active_ref() is None
    with pytest.raises(ConflictError, match="nothing to roll back"):
        await services.lora.rollback()


async def test_rolling_back_after_an_activation_that_followed_a_rollback(services, data_dir, published):
    a, b, c = (published(data_dir) for _ in range(3))
    await services.lora.activate(a)
    await services.lora.activate(b)
    await services.lora.rollback()
    await services.lora.activate(c)
    assert (await services.lora.rollback()).id == a
    assert await services.lora.rollback() is None


async def test_rolling_back_to_a_named_adapter_forgets_what_came_after_it(services, data_dir, published):
    a, b, c = (published(data_dir) for _ in range(3))
    for identity in (a, b, c):
        await services.lora.activate(identity)
    assert (await services.lora.rollback(a)).id == a
    assert await services.lora.rollback() is None


async def test_a_deactivation_can_be_rolled_back(services, data_dir, published):
    identity = published(data_dir)
    await services.lora.activate(identity)
    await services.lora.deactivate()
    assert (await services.lora.rollback()).id == identity


async def test_an_adapter_that_is_gone_is_passed_over(services, data_dir, published):
    a, b, c = (published(data_dir) for _ in range(3))
    for identity in (a, b, c):
        await services.lora.activate(identity)
    services.stores.adapters.path(b).rename(data_dir / "gone")
    assert (await services.lora.rollback()).id == a


async def test_there_is_nothing_to_roll_back_to_at_first(services):
    with pytest.raises(ConflictError, match="nothing to roll back"):
        await services.lora.rollback()
    with pytest.raises(NotFoundError):
        await services.lora.rollback(uuid4())
    assert await services.lora.list_events() == []


async def test_the_pointer_is_believed_where_the_trail_disagrees(services, data_dir, published):
    a, b = published(data_dir), published(data_dir)
    await services.lora.activate(a)
    await services.lora.activate(b)
    await services.database.write("DELETE FROM lora_events")
    assert (await services.lora.rollback()).id == a


def test_activating_what_is_active_adds_nothing_to_the_chain():
    identity = uuid4()
    event = LoRAActivationEvent(1, utc_now(), identity, None, "user", True)
    assert build_rollback_chain([event, event]) == [None, identity]


# ---------------------------------------------------------------------------------- refusals


async def failed(services, before, reason: str) -> None:
    """Everything is as before, and the event says why."""
    assert await live(services) == before
    event = await last(services)
    assert event.success is False
    assert reason in (event.error_message or "")


@pytest.fixture
async def active(services, data_dir, published):
    """An adapter that is active already."""
    identity = published(data_dir)
    await services.lora.activate(identity)
    return identity


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("   "), "is empty"),
        (Reply("a\ufffdb"), "not printable"),
        (Reply("a\x07b"), "not printable"),
        (Reply("the " * 30), "one thing over and over ('the')"),
        (Reply("!" * 40), "one thing over and over ('!')"),
        (WorkerFailedError("The server died."), "could not be tried: The server died."),
    ],
)
async def test_an_adapter_that_fails_the_probe_changes_nothing(
    services, active, data_dir, published, runtime, reply, reason
):
    spoilt = published(data_dir)
    runtime.script = lambda request: reply if request.adapter else Reply("Light.")
    with pytest.raises(AdapterInvalidError) as caught:
        await services.lora.activate(spoilt)
    assert reason in caught.value.detail
    await failed(services, active, reason)
    assert list(runtime.loaded) == [str(active)]


@pytest.mark.parametrize("with_logprobs", [True, False])
async def test_an_adapter_that_changes_nothing_is_refused(opened, data_dir, published, with_logprobs):
    runtime = ScriptedRuntime(
        script=lambda _: Reply("Light."), capabilities=RuntimeCapabilities(adapters=True, logprobs=with_logprobs)
    )
    async with opened(data_dir, runtime=runtime) as services:
        with pytest.raises(AdapterInvalidError, match="exactly as without it"):
            await services.lora.activate(published(data_dir))
        await failed(services, None, "exactly as without it")


async def test_a_changed_file_is_found_before_anything_is_loaded(services, active, data_dir, published, runtime):
    identity = published(data_dir)
    weights = services.stores.adapters.path(identity) / "adapter_model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(AdapterInvalidError, match=r"has changed since it was published"):
        await services.lora.activate(identity)
    await failed(services, active, "has changed")
    assert str(identity) not in runtime.loaded


async def test_another_base_model_is_refused_with_both_names(services, active, data_dir, published):
    identity = published(data_dir, base_model="other-base")
    with pytest.raises(ConflictError, match=r"trained on 'other-base', but the Proposer's model is 'scripted-1'"):
        await services.lora.activate(identity)
    await failed(services, active, "other-base")


async def test_where_both_weights_can_be_hashed_their_content_decides_and_not_the_name(
    services, data_dir, published, runtime, monkeypatch
):
    weights = data_dir / "served.gguf"
    weights.write_bytes(b"weights")
    model = ModelInfo(name="renamed", runtime="scripted", path=str(weights), default=True)

    async def models(_self):
        return [model]

    monkeypatch.setattr(ScriptedRuntime, "models", models)
    right = hashlib.sha256(b"weights").hexdigest()
    await services.lora.activate(published(data_dir, base_model="first name", base_model_sha256=right))
    with pytest.raises(ConflictError, match=r"'renamed'.*SHA-256"):
        await services.lora.activate(published(data_dir, base_model="renamed", base_model_sha256="0" * 64))


async def test_a_runtime_that_serves_no_adapters_is_named(opened, data_dir, published):
    runtime = ScriptedRuntime(capabilities=RuntimeCapabilities(logprobs=True))
    async with opened(data_dir, runtime=runtime) as services:
        with pytest.raises(AdapterInvalidError, match="'scripted' cannot serve adapters"):
            await services.lora.activate(published(data_dir))


async def test_an_unknown_adapter_is_not_found_and_not_on_record(services):
    with pytest.raises(NotFoundError):
        await services.lora.activate(uuid4())
    assert await services.lora.list_events() == []


async def test_the_gate_holds_back_until_it_is_forced_and_that_is_recorded(services, data_dir, published):
    identity = published(data_dir, gate="held-back")
    with pytest.raises(ConflictError, match=r"holds the adapter .* back"):
        await services.lora.activate(identity)
    await failed(services, None, "holds the adapter")
    adapter = await services.lora.activate(identity, force=True)
    assert adapter.gate == "forced"
    assert (await last(services)).note == "Activated by force although the benchmark holds it back."
    services.stores.adapters.verify_files(identity)


async def test_a_full_disk_at_the_switch_changes_nothing(services, active, data_dir, published, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    identity = published(data_dir)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="is full"):
        await services.lora.activate(identity)
    monkeypatch.undo()
    await failed(services, active, "is full")
    assert not list(services.stores.adapters.directory.glob(".*.tmp"))


# ------------------------------------------------------------------- two at once, and crashes


async def test_of_two_activations_at_once_one_wins_and_one_is_told(services, opened, data_dir, published, runtime):
    a, b = published(data_dir), published(data_dir)
    gate, arrived = asyncio.Event(), asyncio.Event()

    def gated(request: ChatRequest) -> Reply:
        arrived.set()
        return Reply("Light with." if request.adapter else "Light.", gate=gate)

    runtime.script = gated
    first = asyncio.create_task(services.lora.activate(a))
    await arrived.wait()
    with pytest.raises(ConflictError, match="Another switch"):
        await services.lora.activate(b)
    async with opened(data_dir) as other:  # as another process: nothing is shared but the files
        with pytest.raises(ConflictError, match="Another switch"):
            await other.lora.activate(b)
        assert (await last(other)).success is None, "settling must leave the intent of a live switch alone"
        gate.set()
        assert (await first).is_active
    assert [event.adapter_id for event in await services.lora.list_events()] == [a]


async def test_cancelling_an_activation_changes_nothing(services, active, data_dir, published, runtime):
    identity = published(data_dir)
    arrived = asyncio.Event()

    def stuck(_request: ChatRequest) -> Reply:
        arrived.set()
        return Reply("Light.", gate=asyncio.Event())

    runtime.script = stuck
    task = asyncio.create_task(services.lora.activate(identity))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await failed(services, active, "It was interrupted.")
    assert list(runtime.loaded) == [str(active)]


async def test_an_intent_that_a_crash_left_open_is_settled_by_what_the_pointer_says(
    services, opened, data_dir, published
):
    a, b = published(data_dir), published(data_dir)
    await services.lora.activate(a)
    await services.database.write("UPDATE lora_events SET success = NULL")  # killed right after the switch
    async with opened(data_dir) as again:
        assert (await last(again)).success is True
        await again.lora._audit.open(b, a, "user")  # killed before the switch
    (data_dir / "lora-adapters" / ".active.json.1.tmp").write_text("{")
    async with opened(data_dir) as again:
        event = await last(again)
        assert (event.success, event.error_message) == (
            False,
            "TMDE ended before it was done; nothing changed.",
        )
        assert await live(again) == a
    assert not (data_dir / "lora-adapters" / ".active.json.1.tmp").exists()


async def test_a_damaged_pointer_is_the_base_model_until_one_activates(services, active, data_dir, published):
    (data_dir / "lora-adapters" / "active.json").write_text("{")
    assert await services.lora.get_active() is None
    await services.lora.deactivate()
    assert json.loads((data_dir / "lora-adapters" / "active.json").read_text())["adapterId"] is None
    await services.lora.activate(active)
    assert await live(services) == active


async def test_the_lock_is_free_again_after_every_switch(services, active):
    with (Path(services.settings.data_dir) / "lora-adapters" / ACTIVATION_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(ConflictError):
            await services.lora.deactivate()


async def test_the_list_can_be_narrowed(services, data_dir, published):
    tagged, sound = published(data_dir, tags=("stable",)), published(data_dir)
    broken = published(data_dir)
    (services.stores.adapters.path(broken) / "manifest.json").unlink()
    assert [adapter.id for adapter in await services.lora.list(tag="stable")] == [tagged]
    assert {adapter.id for adapter in await services.lora.list(valid=True)} == {tagged, sound}
    assert [adapter.id for adapter in await services.lora.list(valid=False)] == [broken]
