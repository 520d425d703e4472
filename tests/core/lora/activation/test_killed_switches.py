"""However a process that changes adapters dies, the next start finds pointer, trail and directory in order.

A process that has everything imported forks the ones that are killed, so that more than a hundred of them take no minute. Each looks, after its
own start, at what the one before it left, and then activates, rolls back, imports and deletes until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.core.lora.archive.archives import packed, peft_files

KILLS = 120
LOOPS = 2
"""Side by side, each on a directory of its own."""
LONGEST_SECONDS = 0.12
EARLY = 0.2
"""Share of the kills that come while the process starts, and settles what the one before it left."""


async def run_until_killed(conftest: str, data_dir: Path, archive: Path, seed: int, say) -> None:
    """What a process does that is going to be killed."""
    import runpy

    from tmde_core.errors import ConflictError
    from tmde_core.services import open_services
    from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

    runtime = ScriptedRuntime(script=runpy.run_path(conftest)["sane"])
    draws = random.Random(seed)
    async with open_services(scripted_settings(data_dir), scripted_plugins(runtime)) as services:
        if problem := await disorder(services):
            say(f"disorder: {problem}")
            return
        say("ready")
        lora = services.lora
        while True:
            there = [adapter.id for adapter in await lora.list()]
            ways = ("activate", "rollback", "import", "delete") if len(there) > 2 else ("import",)
            try:
                match "delete" if len(there) > 6 else draws.choice(ways):
                    case "activate":
                        await lora.activate(draws.choice(there))
                    case "rollback":
                        await lora.rollback()
                    case "import":
                        await services.archives.import_archive(whole(archive))
                    case _:
                        await lora.delete(draws.choice(there))
            except ConflictError:  # nothing to roll back; the active one is not deleted
                pass


async def whole(archive: Path):
    yield archive.read_bytes()


async def disorder(services) -> str | None:
    """What is not in order after a start, in words."""
    store = services.stores.adapters
    if not store.directory.is_dir():
        return None
    kept = (".lock", ".readings.json")  # a rewritten manifest carries its reading over, and stores it
    left = [path.name for path in store.directory.rglob(".*") if not path.name.endswith(kept)]
    if left:
        return f"left behind: {left}"
    adapters = {adapter.id for adapter in store.list()}
    for adapter in adapters:
        store.verify_files(adapter)
    pointer = store.active()
    if pointer is not None and pointer.adapter_id is not None and pointer.adapter_id not in adapters:
        return f"the pointer names {pointer.adapter_id}, which is not there"
    for adapter in adapters:
        told = json.loads((store.path(adapter) / "manifest.json").read_text())
        if told["isActive"] != (pointer is not None and pointer.adapter_id == adapter):
            return f"the manifest of {adapter} tells other tools {told['isActive']}"
    answers, there = None, set()
    for event in reversed(await services.lora.list_events(100_000)):
        if event.success is None:
            return f"never settled: {event}"
        if not event.success:
            continue
        if event.operation == "import":
            there.add(event.adapter_id)
        elif event.operation == "delete":
            there.discard(event.adapter_id)
        else:
            answers = event.adapter_id
    if answers != (pointer.adapter_id if pointer else None):
        return f"the trail says that {answers} answers, the pointer says {pointer}"
    return None if there == adapters else f"by the trail there are {there}, on the disk {adapters}"


def live_and_die(conftest: str, data_dir: Path, archive: Path, seed: int, speaking: int) -> None:
    """The forked process; it says on `speaking` what it found, and never returns."""

    def say(text: str) -> None:
        os.write(speaking, text.encode() + b"\n")

    try:
        asyncio.run(run_until_killed(conftest, data_dir, archive, seed, say))
    except BaseException as error:
        say(f"died: {type(error).__name__}: {error}")
    os._exit(1)


def nursery() -> None:
    """Forks a process for each line `seed seconds early` on standard input, kills it, and says what it said."""
    import numpy as np  # noqa: F401 - the import of weights needs it, and the children should not wait for that

    import tmde_core.services  # noqa: F401 - the same

    conftest, data_dir, archive = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    for line in sys.stdin:
        seed, seconds, early = line.split()
        listening, speaking = os.pipe()
        child = os.fork()
        if not child:
            os.close(listening)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            live_and_die(conftest, data_dir, archive, int(seed), speaking)
        os.close(speaking)
        if early == "0":
            select.select([listening], [], [], 30)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = b"".join(iter(lambda: os.read(listening, 65_536), b"")).decode()  # noqa: B023 - used at once
        os.close(listening)
        sys.stdout.write(" ".join(said.split()) + "\n")
        sys.stdout.flush()


def kill_in_a_row(data_dir: Path, archive: Path, seed: int) -> list[str]:
    """Kill so many processes, one after the other, on one directory; what they said."""
    data_dir.mkdir()
    draws = random.Random(seed)
    orders = []
    for _ in range(KILLS // LOOPS):
        early = draws.random() < EARLY
        orders.append(f"{draws.randrange(10**6)} {draws.random() * LONGEST_SECONDS:.4f} {int(early)}\n")
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.lora.activation.test_killed_switches", "nursery", here.parents[1] / "conftest.py", data_dir, archive],
        input="".join(orders),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=here.parents[4],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_hundred_and_twenty_kills_at_random_moments_leave_nothing_that_the_next_start_does_not_put_in_order(
    opened, tmp_path
):
    archive = tmp_path / "adapter.tar.gz"
    archive.write_bytes(packed(peft_files()))
    directories = [tmp_path / f"data-{number}" for number in range(LOOPS)]
    with ThreadPoolExecutor(LOOPS) as threads:
        found = list(threads.map(kill_in_a_row, directories, [archive] * LOOPS, range(LOOPS)))
    said = [line for lines in found for line in lines]
    assert len(said) == KILLS
    assert [line for line in said if line not in ("", "ready")] == []
    assert said.count("ready") > KILLS / 2, "most were killed before they did anything"
    done: Counter[tuple[str, bool | None]] = Counter()
    for data_dir in directories:
        async with opened(data_dir) as services:
            assert await disorder(services) is None
            done.update((event.operation, event.success) for event in await services.lora.list_events(100_000))
    sys.stdout.write(f"{dict(done)}\n")
    for operation in ("activate", "rollback", "import", "delete"):
        assert done[operation, True] > 5, f"hardly any {operation} was carried out: {done}"
    assert sum(done[operation, False] for operation in ("activate", "rollback", "import", "delete")) > 2, (
        f"hardly any was cut off: {done}"
    )


if __name__ == "__main__":
    nursery()
