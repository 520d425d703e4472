"""Who listens is told, and no observer harms anybody."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from tests.core.lora.conftest import publish_adapter, sane
from tmde_core import observers
from tmde_core.debate.service import derive_trace_id
from tmde_core.errors import WorkerFailedError
from tmde_core.observers import Observers
from tmde_core.plugins import Plugins
from tmde_core.sdk import hookimpl
from tmde_core.sdk.context import PluginSettings
from tmde_core.sdk.events import AdapterActivated, AdapterDamaged, DebateEnded, Event
from tmde_core.services import open_services
from tmde_core.testing import ScriptedRuntime, scripted_plugins, scripted_settings


def happened(reason: str = "A bit flipped.") -> AdapterDamaged:
    return AdapterDamaged(adapter_id=uuid4(), is_active=False, reason=reason)


def plugins_with(**functions) -> Plugins:
    plugins = Plugins()
    for name, function in functions.items():
        function.__name__ = "tmde_event"
        plugins.add(name, SimpleNamespace(tmde_event=hookimpl(function)))
    return plugins


def problems(plugins: Plugins, name: str) -> list[tuple[str, str]]:
    (info,) = (one for one in plugins.infos() if one.name == name)
    return [(problem.stage, problem.detail) for problem in info.problems]


async def test_an_observer_hears_of_every_event_in_order():
    heard: list[Event] = []

    def observe(event):
        heard.append(event)

    plugins = plugins_with(one=observe)
    assert [(one.kind, one.name) for one in plugins.infos()[0].provides] == [("observer", "one")]
    told = Observers(plugins, Path())
    events = [happened(str(number)) for number in range(50)]
    for event in events:
        told.publish(event)
    await told.stop()
    assert heard == events


async def test_an_observer_that_asks_for_its_context_is_given_the_data_directory(tmp_path):
    heard = []

    def observe(event, context):
        heard.append((event, context.data_dir, context.settings))

    told = Observers(plugins_with(one=observe), tmp_path)
    event = happened()
    told.publish(event)
    await told.stop()
    assert heard == [(event, tmp_path, PluginSettings())]


async def test_an_observer_whose_signature_cannot_be_read_is_given_the_event():
    heard: list[Event] = []

    class Odd:
        __signature__ = "none"

        def __call__(self, event):
            heard.append(event)

    event = happened()
    observers.bind(Odd(), "odd", Path())(event)
    assert heard == [event]


async def test_an_observer_that_raises_is_named_once_and_the_others_hear_all():
    heard: list[Event] = []

    def bad(event):
        raise SystemExit("I do not care")

    def good(event):
        heard.append(event)

    plugins = plugins_with(bad=bad, good=good)
    told = Observers(plugins, Path())
    told.publish(happened())
    told.publish(happened())
    await told.stop()
    assert len(heard) == 2
    assert problems(plugins, "bad") == [("event", "Its tmde_event raised SystemExit: I do not care")]
    assert problems(plugins, "good") == []


async def test_an_observer_that_hangs_delays_neither_publishing_nor_the_end(monkeypatch):
    monkeypatch.setattr(observers, "OBSERVER_SECONDS", 0.05)
    monkeypatch.setattr(observers, "MOST_WAITING", 2)
    begun, leave = threading.Event(), threading.Event()

    def slow(event):
        begun.set()
        leave.wait(60)

    plugins = plugins_with(slow=slow)
    told = Observers(plugins, Path())
    told.publish(happened())
    assert await asyncio.to_thread(begun.wait, 60)
    for _ in range(4):
        told.publish(happened())
    await told.stop()
    assert problems(plugins, "slow") == [("event", "Its tmde_event is 2 events behind and misses some.")]
    leave.set()


async def test_an_asynchronous_observer_is_told_what_it_should_be():
    async def observe(event):
        pytest.fail("it was awaited")

    plugins = plugins_with(wrong=observe)
    told = Observers(plugins, Path())
    told.publish(happened())
    await told.stop()
    assert problems(plugins, "wrong") == [("event", "Its tmde_event is asynchronous; it must be a plain function.")]


async def test_an_observer_without_an_argument_is_refused_when_it_is_loaded():
    def observe():
        pytest.fail("it was called")

    plugins = plugins_with(wrong=observe)
    assert problems(plugins, "wrong") == [
        ("register", "tmde_event does not take `event`, the argument that it is called with.")
    ]


async def test_a_listener_of_ours_that_fails_keeps_the_event_from_nobody():
    heard: list[Event] = []

    async def bad(event):
        raise ZeroDivisionError

    async def good(event):
        heard.append(event)

    told = Observers(Plugins(), Path())
    told.subscribe(bad)
    told.subscribe(good)
    event = happened()
    await told.publish(event)
    assert heard == [event]


async def test_the_end_waits_for_what_a_listener_has_begun():
    gate, done = asyncio.Event(), []

    async def slow(event):
        await gate.wait()
        done.append(event)

    told = Observers(Plugins(), Path())
    told.subscribe(slow)
    told.publish(happened())
    ending = asyncio.create_task(told.stop())
    await asyncio.sleep(0)
    gate.set()
    await ending
    assert len(done) == 1


async def test_a_plugin_hears_what_services_do(tmp_path):
    heard: list[Event] = []

    def observe(event):
        heard.append(event)

    observe.__name__ = "tmde_event"
    runtime = ScriptedRuntime()
    plugins = scripted_plugins(runtime, Plugins.load())
    plugins.add("watcher", SimpleNamespace(tmde_event=hookimpl(observe)))
    async with open_services(scripted_settings(tmp_path), plugins) as services:
        good = await services.debates.start("What is 6 times 7?")
        await services.debates.wait(good.id)
        runtime.script = {"proposer": WorkerFailedError("It broke.")}
        bad = await services.debates.start("What is 6 times 8?")
        await services.debates.wait(bad.id)
        adapter = publish_adapter(tmp_path)
        runtime.script = sane
        await services.lora.activate(adapter)
        await services.lora.rollback()
    ended = [event for event in heard if isinstance(event, DebateEnded)]
    assert [(one.debate_id, one.status) for one in ended] == [(good.id, "completed"), (bad.id, "failed")]
    assert ended[0].trace_id == derive_trace_id(good.id)
    assert ended[1].error_message == "It broke."
    switched = [event for event in heard if isinstance(event, AdapterActivated)]
    assert [(one.adapter_id, one.previous_adapter_id, one.triggered_by) for one in switched] == [
        (adapter, None, "user"),
        (None, adapter, "rollback"),
    ]
