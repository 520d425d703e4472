"""Who listens is told, and no observer harms anybody."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from uuid import uuid4

import pytest

from tmde_core import observers
from tmde_core.observers import Observers
from tmde_core.plugins import Plugins
from tmde_core.sdk import hookimpl
from tmde_core.sdk.events import AdapterDamaged, Event


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
    told = Observers(plugins)
    events = [happened(str(number)) for number in range(50)]
    for event in events:
        told.publish(event)
    await told.stop()
    assert heard == events


async def test_an_observer_that_raises_is_named_once_and_the_others_hear_all():
    heard: list[Event] = []

    def bad(event):
        raise SystemExit("I do not care")

    def good(event):
        heard.append(event)

    plugins = plugins_with(bad=bad, good=good)
    told = Observers(plugins)
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
    told = Observers(plugins)
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
    told = Observers(plugins)
    told.publish(happened())
    await told.stop()
    assert problems(plugins, "wrong") == [("event", "Its tmde_event is asynchronous; it must be a plain function.")]


async def test_an_observer_without_an_argument_is_refused_when_it_is_loaded():
    def observe():
        pytest.fail("it was called")

    plugins = plugins_with(wrong=observe)
    assert problems(plugins, "wrong") == [("register", "tmde_event takes no argument; it is called with the event.")]


async def test_a_listener_of_ours_that_fails_keeps_the_event_from_nobody():
    heard: list[Event] = []

    async def bad(event):
        raise ZeroDivisionError

    async def good(event):
        heard.append(event)

    told = Observers(Plugins())
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

    told = Observers(Plugins())
    told.subscribe(slow)
    told.publish(happened())
    ending = asyncio.create_task(told.stop())
    await asyncio.sleep(0)
    gate.set()
    await ending
    assert len(done) == 1
