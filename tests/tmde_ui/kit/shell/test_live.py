"""The header's picture of what is going on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from tmde_core.records.chat import AdapterRef
from tmde_core.records.finetune import TrainingProgress
from tmde_ui.kit.shell.live import Job, ServerStatus, Situation


class Pretence:
    """Services with just what the header asks."""

    def __init__(self) -> None:
        self.debates_running: list = []
        self.adapter: AdapterRef | None = None
        self.looks = 0
        self.debates = SimpleNamespace(running=lambda: self.debates_running)
        self.adapters: list = []
        self.lora = SimpleNamespace(
            get_active_ref=lambda: self.adapter, find_active_flaw=lambda: None, list=self._adapters
        )
        self.finetune = SimpleNamespace(get_current=self._current, metrics=self._metrics)
        self.measured: SimpleNamespace | None = None
        self.benchmark = SimpleNamespace(get_running=lambda: self.measured)
        self.run: SimpleNamespace | None = None
        self.steps: list[TrainingProgress] = []
        self.serves = True
        self.paused: str | None = None
        proposer = SimpleNamespace(runtime="scripted")
        idle = "The Proposer's runtime 'scripted' cannot serve adapters, so the base model answers."
        self.workspace = SimpleNamespace(
            settings=SimpleNamespace(roles=SimpleNamespace(proposer=proposer)),
            find_why_idle=lambda _adapter: None if self.serves else idle,
            examine_base=self._examined,
            find_why_paused=lambda: self.paused,
        )
        self.runtimes = SimpleNamespace(
            made=lambda _name: SimpleNamespace(capabilities=SimpleNamespace(adapters=self.serves)),
            get=self._started,
        )
        self.notices: list = []
        self.notifications = SimpleNamespace(list=self._list)

    async def _examined(self, _adapter):
        return None

    async def _started(self, _name):
        return None

    async def _adapters(self):
        return self.adapters

    async def _list(self, _limit):
        return self.notices, len(self.notices)

    async def _current(self):
        self.looks += 1
        return self.run

    async def _metrics(self, _run_id):
        return self.steps


async def test_nobody_looks_while_no_page_is_open():
    services = Pretence()
    live = ServerStatus(services)
    async with live.running():
        for _ in range(20):
            await asyncio.sleep(0)
        assert services.looks == 0


async def test_pages_are_told_of_changes_only():
    services = Pretence()
    live = ServerStatus(services)
    told: list[Situation] = []
    stop = live.listen(told.append)
    await live.look()
    assert told == []
    services.adapter = AdapterRef(id="abc", directory="/nowhere")
    services.debates_running = [SimpleNamespace(id="d1")]
    await live.look()
    await live.look()
    assert told == [Situation("abc", (Job("1 debate running", "/debates/d1"),), adapter_name="abc")]
    stop()
    services.debates_running = []
    await live.look()
    assert len(told) == 1


async def test_an_adapter_is_called_by_its_name_as_soon_as_it_is_active():
    services = Pretence()
    live = ServerStatus(services)
    await live.look()
    services.adapters = [SimpleNamespace(id="named-1", name="Fractions")]
    services.adapter = AdapterRef(id="named-1", directory="/nowhere")
    assert (await live.look()).adapter_name == "Fractions"


async def test_an_active_adapter_is_told_as_idle_if_the_proposers_runtime_serves_none():
    services = Pretence()
    services.adapter = AdapterRef(id="5e7a-0001", directory="")
    services.serves = False
    live = ServerStatus(services)
    idle = asyncio.Event()
    async with live.running():
        live.listen(lambda found: idle.set() if found.adapter_idle else None)
        await asyncio.wait_for(idle.wait(), 5)
        assert (
            live.now.adapter_idle
            == "The Proposer's runtime 'scripted' cannot serve adapters, so the base model answers."
        )


async def test_training_says_how_far_it_is_and_how_long_it_takes():
    services = Pretence()
    live = ServerStatus(services)
    services.run = SimpleNamespace(id="r1", status="pending")
    assert (await live.look()).jobs[0].label == "Training starts"
    services.run = SimpleNamespace(id="r1", status="running")
    assert (await live.look()).jobs[0].label == "Training"
    services.steps = [TrainingProgress(step=34, total_steps=100, eta_seconds=185.0)]
    assert (await live.look()).jobs[0].label == "Training 34 %, 3 min 05 s left"
    services.paused = "The model is paused."
    assert (await live.look()).jobs[0].label == "Training 34 %, 3 min 05 s left (model paused)"


async def test_a_nudge_is_followed_at_once():
    services = Pretence()
    live = ServerStatus(services)
    seen = asyncio.Event()
    async with live.running():
        live.listen(lambda _: seen.set())
        services.adapter = AdapterRef(id="abc", directory="/nowhere")
        live.nudge()
        await asyncio.wait_for(seen.wait(), 60)


async def test_notifications_and_their_dismissal_are_told():
    services = Pretence()
    live = ServerStatus(services)
    told: list[Situation] = []
    live.listen(told.append)
    services.notices = ["one", "two"]
    await live.look()
    assert (told[-1].notices, told[-1].waiting) == (("one", "two"), 2)

    async def dismiss_all() -> None:
        services.notices = []

    services.notifications.dismiss_all = dismiss_all
    await live.dismiss_all()
    assert (told[-1].notices, told[-1].waiting) == ((), 0)


async def test_a_benchmark_is_told_with_its_share():
    services = Pretence()
    services.measured = SimpleNamespace(id="b1", completed_answers=3, answer_count=10)
    assert (await ServerStatus(services).look()).jobs == (Job("Benchmark 30 %", "/benchmark/b1"),)
