"""Notifications: kept, followed, dismissed, sent on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import msgspec
import pytest

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.notifications import service as module
from tmde_core.notifications.listener import EventNotifier, describe_event
from tmde_core.notifications.service import NotificationService, check_webhook
from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.sdk.events import AdapterDamaged, RunFinished
from tmde_core.settings import LiveSettings, NotifySettings, Settings
from tmde_core.storage.database import Database


@pytest.fixture
async def database(tmp_path):
    async with Database.open(tmp_path / "tmde.db") as opened:
        yield opened


@pytest.fixture
def notifications(database) -> NotificationService:
    return NotificationService(database, LiveSettings(Settings()))


async def test_what_is_told_is_listed_newest_first_until_it_is_dismissed(notifications):
    first = await notifications.notify("a", "info", "First")
    second = await notifications.notify("b", "error", "Second", "Why.", "/finetune")
    items, total = await notifications.list()
    assert ([one.title for one in items], total) == (["Second", "First"], 2)
    assert items[0] == second
    dismissed = await notifications.dismiss(first.id)
    assert await notifications.dismiss(first.id) == dismissed
    assert [one.title for one in (await notifications.list())[0]] == ["Second"]
    assert (await notifications.list(dismissed=True))[1] == 2
    assert await notifications.dismiss_all() == 1
    with pytest.raises(NotFoundError):
        await notifications.dismiss(uuid4())


async def test_followers_see_what_there_is_and_what_comes_each_once(notifications):
    await notifications.notify("a", "info", "Before")
    seen: list[str] = []
    enough = asyncio.Event()

    async def follow():
        async with aclosing(notifications.follow()) as events:
            async for event in events:
                seen.append(event.data["title"])
                if len(seen) == 3:
                    enough.set()

    task = asyncio.create_task(follow())
    await notifications.notify("a", "info", "Then")
    await notifications.notify("a", "info", "Last")
    await asyncio.wait_for(enough.wait(), 60)
    task.cancel()
    assert seen == ["Before", "Then", "Last"]


async def test_a_follower_that_comes_back_gets_only_what_it_has_not(notifications):
    one = await notifications.notify("a", "info", "One")
    await notifications.notify("a", "info", "Two")
    async with aclosing(notifications.follow(one.seq)) as events:
        assert (await anext(events)).data["title"] == "Two"


async def test_a_follower_whose_number_no_notification_has_yet_gets_the_next_one(notifications):
    await notifications.notify("a", "info", "Before")
    async with aclosing(notifications.follow(9999)) as events:
        upcoming = asyncio.ensure_future(anext(events))
        while not upcoming.done():
            await notifications.notify("a", "info", "Next")
        assert upcoming.result().data["title"] == "Next"


async def test_what_another_process_tells_reaches_the_followers_here(notifications, database, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    elsewhere = NotificationService(database, LiveSettings(Settings()))
    async with aclosing(notifications.follow()) as events:
        upcoming = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await elsewhere.notify("a", "info", "From elsewhere")
        assert (await asyncio.wait_for(upcoming, 60)).data["title"] == "From elsewhere"


async def test_nobody_looks_while_nobody_follows(notifications):
    async with aclosing(notifications.follow()) as events:
        upcoming = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await notifications.notify("a", "info", "x")
        await upcoming
        assert notifications._looking is not None
    assert notifications._looking is None


class Receiver:
    """A webhook: answers with `answers` in turn, and keeps what it got."""

    def __init__(self, *answers: int) -> None:
        self.got: list[bytes] = []
        self.enough = threading.Event()
        receiver = self
        remaining = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                receiver.got.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(remaining.pop(0) if len(remaining) > 1 else remaining[0])
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret-path"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receive() -> Iterator:
    made: list[Receiver] = []

    def make(*answers: int) -> Receiver:
        made.append(Receiver(*answers))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


async def told(database, url: str) -> NotificationService:
    service = NotificationService(database, LiveSettings(Settings(notify=NotifySettings(webhook_url=url))))
    await service.notify("a", "info", "Hello")
    await asyncio.gather(*service._calls)
    return service


async def test_the_webhook_gets_each_as_json(database, receive):
    receiver = receive(204)
    service = await told(database, receiver.url)
    (body,) = receiver.got
    assert msgspec.json.decode(body)["title"] == "Hello"
    assert service.webhook_problem is None


async def test_a_webhook_that_is_set_while_it_runs_gets_the_next_one(database, receive, tmp_path):
    receiver = receive(204)
    live = LiveSettings(Settings(data_dir=str(tmp_path)))
    service = NotificationService(database, live)
    await service.notify("a", "info", "Before")
    await live.change({"notify": {"webhookUrl": receiver.url}})
    await service.notify("a", "info", "After")
    await asyncio.gather(*service._calls)
    assert [msgspec.json.decode(body)["title"] for body in receiver.got] == ["After"]


async def test_a_webhook_that_stumbles_is_called_again_and_one_that_falls_costs_nothing(database, receive, monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    stumbles = receive(500, 200)
    assert (await told(database, stumbles.url)).webhook_problem is None
    assert len(stumbles.got) == 2
    falls = receive(500)
    service = await told(database, falls.url)
    assert len(falls.got) == 3
    assert "it answered 500" in service.webhook_problem
    assert "secret-path" not in service.webhook_problem
    assert (await service.list())[1] == 2


async def test_a_webhook_that_redirects_is_not_followed(database, receive, monkeypatch):
    monkeypatch.setattr(module, "PAUSES", ())
    redirects = receive(307)
    assert "307" in (await told(database, redirects.url)).webhook_problem
    assert len(redirects.got) == 1


@pytest.mark.parametrize("url", ["ftp://example.org/x", "example.org", "file:///etc/passwd", "http://", "http://[x"])
async def test_what_is_no_web_address_switches_only_the_webhook_off(database, url, tmp_path):
    settings = Settings(data_dir=str(tmp_path), notify=NotifySettings(webhook_url=url))
    live = LiveSettings(settings, [check_webhook])
    service = NotificationService(database, live)
    assert "notify.webhook_url" in service.webhook_problem
    await service.notify("a", "info", "x")
    assert (await service.list())[1] == 1
    assert not service._calls
    await live.change({"port": 8322})
    with pytest.raises(InvalidInputError, match=r"notify\.webhook_url"):
        await live.change({"notify": {"webhookUrl": "ftp://elsewhere"}})


def ended(status, **fields) -> RunFinished:
    return RunFinished(run_id=uuid4(), status=status, triggered_by="manual", traces_used=60, **fields)


async def test_notifications_call_runs_and_adapters_by_their_names(notifications):
    async def name(_identity) -> str:
        return "Fractions"

    cancelled = ended("cancelled")
    await EventNotifier(notifications, name).hear(cancelled)
    damaged = AdapterDamaged(adapter_id=uuid4(), is_active=True, reason="A file is missing.")
    await EventNotifier(notifications, name).hear(damaged)
    (second, first), _ = await notifications.list()
    assert first.detail.startswith(f"Run Fractions ({str(cancelled.run_id)[:8]}) ")
    assert second.title == f"Adapter Fractions ({str(damaged.adapter_id)[:8]}) is damaged, so the base model answers"


async def test_what_has_no_name_is_called_by_its_short_id(notifications):
    async def nameless(_identity) -> None:
        return None

    run = ended("cancelled")
    await EventNotifier(notifications, nameless).hear(run)
    (told,), _ = await notifications.list()
    assert told.detail.startswith(f"Run {str(run.run_id)[:8]} ")


async def test_one_trace_is_told_as_one(notifications):
    run = RunFinished(run_id=uuid4(), status="completed", triggered_by="manual", traces_used=1)
    assert describe_event(run).detail == "1 trace."


async def test_the_end_of_a_training_run_is_told_with_its_figures_or_its_reason(notifications):
    tell = EventNotifier(notifications).hear
    run = ended("completed", metrics=FineTuneMetrics(best_val_loss=0.5))
    await tell(run)
    await tell(ended("failed", error_message="The disk is full."))
    (failed, completed), _ = await notifications.list()
    assert (completed.level, completed.detail) == ("success", "60 traces, validation loss 0.500.")
    assert completed.href == f"/finetune/versions?adapter={run.run_id}"
    assert (failed.kind, failed.detail) == ("finetune.failed", "The disk is full.")
    assert failed.href == f"/finetune/{failed.subject_id}"
    assert describe_event(ended("cancelled")).level == "info"
