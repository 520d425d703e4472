"""A damaged active adapter: the base model answers, everything says so, and what its manifest says stays visible."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.core.lora.archive.archives import packed, peft_files, pieces
from tmde_core.errors import ConflictError
from tmde_core.lora.patrol import Patrol
from tmde_core.notifications.listener import EventNotifier, describe_event
from tmde_core.records.debate import DebateConfig
from tmde_core.sdk.events import AdapterDamaged


async def activated(services, data_dir, published, **fields):
    identity = published(data_dir, **fields)
    await services.lora.activate(identity)
    return identity


def lose(services, identity, name="adapter.gguf") -> None:
    (services.stores.adapters.path(identity) / name).unlink()


async def test_an_active_adapter_answers_until_its_files_are_damaged(services, data_dir, published):
    identity = await activated(services, data_dir, published)
    assert (await services.lora.get_active()).is_answering
    assert services.lora.find_active_flaw() is None
    lose(services, identity)
    active = await services.lora.get_active()
    assert (active.id, active.is_active, active.is_answering, active.is_valid) == (identity, True, False, False)
    assert "adapter.gguf is missing" in services.lora.find_active_flaw()
    (listed,) = await services.lora.list()
    assert (listed.is_active, listed.is_answering) == (True, False)


async def test_an_inactive_adapter_answers_nothing(services, data_dir, published):
    published(data_dir)
    (listed,) = await services.lora.list()
    assert (listed.is_valid, listed.is_answering) == (True, False)


async def test_a_damaged_adapters_metrics_tags_and_traces_stay_visible(services, data_dir, published):
    metrics = {"bestValLoss": 0.5}
    identity = await activated(services, data_dir, published, metrics=metrics, tags=("mine",), traces_used=7)
    before = await services.lora.get(identity)
    lose(services, identity)
    after = await services.lora.get(identity)
    assert not after.is_valid
    for name in ("metrics", "tags", "traces_used", "base_model", "created_at", "sha256", "gate"):
        assert getattr(after, name) == getattr(before, name)
    assert (await services.lora.get_details(identity)).metrics == metrics


async def test_a_damaged_adapter_that_is_tagged_stable_can_be_deleted(services, data_dir, published):
    identity = published(data_dir, tags=("stable",))
    lose(services, identity)
    await services.lora.delete(identity)
    assert await services.lora.list() == []


async def test_the_base_model_answers_a_debate_and_the_debate_says_why(services, data_dir, published, runtime):
    identity = await activated(services, data_dir, published)
    lose(services, identity, "adapter_config.json")  # the form that the runtime reads is still there
    debate = await services.debates.start("What is two and two?", DebateConfig(max_rounds=1))
    ended = await services.debates.wait(debate.id)
    log = await services.debates.events(debate.id)
    told = [one async for one in log.follow(0)]
    warnings = [one for one in told if one.type == "warning"]
    assert [one.data["adapterId"] for one in told if one.type == "round_start"] == [None]
    assert any(
        f"{str(identity)[:8]} does not take part, the base model answers" in one.data["detail"] for one in warnings
    )
    assert ended.status == "completed"


async def test_damage_of_the_active_adapter_is_told_once_with_what_to_do(services, data_dir, published):
    identity = await activated(services, data_dir, published)
    lose(services, identity)
    for _ in range(3):
        services.lora.find_active_flaw()
    await until_told(services)
    told, _ = await services.notifications.list()
    (damage,) = [one for one in told if one.kind == "lora.damaged"]
    name = (await services.lora.get(identity)).name
    assert name in damage.title
    assert str(identity)[:8] in damage.title
    assert damage.title.endswith("is damaged, so the base model answers")
    assert "Roll back or activate another one" in damage.detail
    assert damage.href.endswith(str(identity))


async def until_told(services) -> None:
    async with asyncio.timeout(10):
        while not (await services.notifications.list())[1]:
            await asyncio.sleep(0.01)


async def test_a_server_notices_it_without_being_asked(services, data_dir, published):
    identity = await activated(services, data_dir, published)
    lose(services, identity)
    patrol = Patrol(services.lora, services.stores.adapters, lambda _: asyncio.sleep(0))
    await patrol.start()
    try:
        await until_told(services)
    finally:
        await patrol.stop()


def test_no_notification_names_a_command() -> None:
    event = AdapterDamaged(adapter_id=uuid4(), is_active=True, reason="It is damaged.")
    words = describe_event(event)
    assert words is not None
    assert "`" not in words.title + words.detail


# ------------------------------------------------------------------------------------------- rollback


async def test_a_rollback_after_the_last_one_says_what_answered_before(services, data_dir, published):
    identity = await activated(services, data_dir, published)
    assert await services.lora.rollback() is None
    with pytest.raises(ConflictError) as error:
        await services.lora.rollback()
    assert "every activation has been undone" in error.value.detail
    assert str(identity)[:8] in error.value.detail


async def test_a_rollback_before_any_activation_says_that_nothing_else_answered(services):
    with pytest.raises(ConflictError, match="no other version ever answered"):
        await services.lora.rollback()


# ---------------------------------------------------------------------------------------------- twins


async def test_the_same_adapter_twice_is_told_and_marked(services):
    content = packed(peft_files())
    first = await services.archives.import_archive(pieces(content))
    assert first.twin_of is None
    with pytest.raises(ConflictError) as error:
        await services.archives.import_archive(pieces(content), again=False)
    assert error.value.context["twinOf"] == str(first.id)
    assert len(await services.lora.list()) == 1
    second = await services.archives.import_archive(pieces(content))
    assert second.twin_of == first.id
    third = await services.archives.import_archive(pieces(content))
    assert third.twin_of == first.id
    assert {one.id: one.twin_of for one in await services.lora.list()} == {
        first.id: None, second.id: first.id, third.id: first.id,
    }  # fmt: skip
    assert (await services.lora.get_details(second.id)).twin_of == first.id


async def test_an_exported_adapter_that_comes_back_is_a_copy_of_itself(services):
    first = await services.archives.import_archive(pieces(packed(peft_files())))
    export = await services.archives.export(first.id)
    content = b"".join([piece async for piece in export.chunks])
    back = await services.archives.import_archive(pieces(content))
    assert back.twin_of == first.id
    assert {one.id: one.twin_of for one in await services.lora.list()} == {first.id: None, back.id: first.id}


async def test_the_same_weights_with_another_scale_are_no_copy(services):
    first = await services.archives.import_archive(pieces(packed(peft_files())))
    other = await services.archives.import_archive(pieces(packed(peft_files(lora_alpha=16))), again=False)
    assert (first.twin_of, other.twin_of) == (None, None)


async def test_a_copy_whose_original_was_deleted_is_no_copy_any_more(services):
    content = packed(peft_files())
    first = await services.archives.import_archive(pieces(content))
    second = await services.archives.import_archive(pieces(content))
    await services.lora.delete(first.id)
    (left,) = await services.lora.list()
    assert (left.id, left.twin_of) == (second.id, None)


async def test_a_restart_does_not_tell_the_same_damage_again_until_it_was_dismissed(services):
    notifier = EventNotifier(services.notifications)
    event = AdapterDamaged(adapter_id=uuid4(), is_active=True, reason="Its file adapter.gguf is missing.")
    for _ in range(2):
        await notifier.hear(event)
    (told,), count = await services.notifications.list()
    assert count == 1
    await services.notifications.dismiss(told.id)
    await notifier.hear(event)
    assert (await services.notifications.list())[1] == 1
