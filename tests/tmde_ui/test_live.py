"""The header's picture of what is going on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from tmde_core.ports import AdapterRef
from tmde_ui.live import Job, Live, Situation


class Pretence:
    """Services with just what the header asks."""

    def __init__(self) -> None:
        self.debates_running: list = []
        self.adapter: AdapterRef | None = None
        self.looks = 0
        self.debates = SimpleNamespace(running=lambda: self.debates_running)
        self.lora = SimpleNamespace(active_ref=lambda: self.adapter)
        self.finetune = SimpleNamespace(current=self._current)

    async def _current(self):
        self.looks += 1


async def test_nobody_looks_while_no_page_is_open():
    services = Pretence()
    live = Live(services)
    async with live.running():
        for _ in range(20):
            await asyncio.sleep(0)
        assert services.looks == 0


async def test_pages_are_told_of_changes_only():
    services = Pretence()
    live = Live(services)
    told: list[Situation] = []
    stop = live.listen(told.append)
    await live.look()
    assert told == []
    services.adapter = AdapterRef(id="abc", directory="/nowhere")
    services.debates_running = [SimpleNamespace(id="d1")]
    await live.look()
    await live.look()
    assert told == [Situation("abc", (Job("1 debate running", "/debates/d1"),))]
    stop()
    services.debates_running = []
    await live.look()
    assert len(told) == 1


async def test_a_nudge_is_followed_at_once():
    services = Pretence()
    live = Live(services)
    seen = asyncio.Event()
    async with live.running():
        live.listen(lambda _: seen.set())
        services.adapter = AdapterRef(id="abc", directory="/nowhere")
        live.nudge()
        await asyncio.wait_for(seen.wait(), 1)
