"""However a process that switches adapters dies, the pointer, the trail and the directory are in order afterwards."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = 8

SWITCHER = """
import asyncio, random, runpy, sys
from pathlib import Path
from tmde_core.errors import ConflictError
from tmde_core.services import open_services
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

async def main(data_dir, conftest):
    runtime = ScriptedRuntime(script=runpy.run_path(conftest)["sane"])
    async with open_services(scripted_settings(data_dir), scripted_plugins(runtime)) as services:
        adapters = [adapter.id for adapter in await services.lora.list(valid=True)]
        sys.stdout.write("ready\\n"); sys.stdout.flush()
        while True:
            try:
                act = random.choice(("activate", "rollback", "deactivate"))
                await (services.lora.activate(random.choice(adapters)) if act == "activate" else getattr(services.lora, act)())
            except ConflictError:
                pass
asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def kill_while_switching(data_dir: Path, seconds: float) -> None:
    command = [sys.executable, "-c", SWITCHER, str(data_dir), str(Path(__file__).with_name("conftest.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line == "ready\n" for line in process.stdout), "it died by itself"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()


async def test_killed_at_any_moment_the_next_start_finds_everything_in_order(opened, data_dir, published):
    for age in range(3):
        published(data_dir, age=age)
    moments = random.Random(11)
    for _ in range(ROUNDS):
        await asyncio.to_thread(kill_while_switching, data_dir, 0.05 + moments.random() * 0.2)
        async with opened(data_dir) as services:
            pointer = services.lora.store.active()
            active = services.lora.store.active_id()
            assert pointer is None or pointer.adapter_id == active, "it points at an adapter that is not there"
            if active is not None:
                services.lora.store.verified(active)
            events = await services.lora.events(limit=10_000)
            assert all(event.success is not None for event in events)
            switched = [event.adapter_id for event in events if event.success]
            assert not switched or switched[0] == active, "the trail and the pointer disagree"
            assert not list(services.lora.store.directory.rglob(".*.tmp"))
