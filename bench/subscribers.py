"""Measures how much many subscribers to one training run cost the server.

The server is a real `tmde serve`; the training run reports progress twice per second.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
from _server import served

from tmde_core.finetune.store import RunStore
from tmde_core.finetune.supervision import supervisor
from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun, RunAttempt
from tmde_core.sdk.worker.kit import RunEvents
from tmde_core.sdk.worker.run_files import EVENTS_FILE
from tmde_core.sdk.worker.vitals import write_heartbeat
from tmde_core.storage.database import Database
from tmde_core.storage.locks import FileLock

SUBSCRIBERS = (1, 500)
SECONDS = 20.0
STEP_SECONDS = 0.5
"""The time of one step. A step of the embedded model takes several seconds, so this is a fast run."""
ASK_SECONDS = 0.02
P99_LIMIT_MS = 100.0

IDS = re.compile(rb"id: (\d+)$")


class Cost(NamedTuple):
    """The cost of one number of subscribers."""

    subscribers: int
    cpu_percent: float
    p50_ms: float
    p99_ms: float
    resident_mb: float


async def running(data_dir: Path) -> tuple[FineTuneRun, FileLock]:
    """Create a run that appears to be in progress in this process: its database row and its locked leash."""
    run = FineTuneRun(
        id=uuid4(), started_at=utc_now(), status="running", base_model="none", config=FineTuneConfig(),
        attempts=(RunAttempt(number=1, started_at=utc_now(), batch_size=4, gradient_accumulation_steps=4),),
    )  # fmt: skip
    run_dir = data_dir / "runs" / str(run.id)
    run_dir.mkdir(parents=True)
    leash = supervisor.take_leash(run_dir)
    async with Database.open(data_dir / "tmde.db") as database:
        await RunStore(database).insert(run, [], [])
    return run, leash


async def report(run_dir: Path, told: list[int], stop: asyncio.Event) -> None:
    """Report steps until `stop` is set; append the number of each event to `told`."""
    events = RunEvents(run_dir / EVENTS_FILE)
    while not stop.is_set():
        step = len(told) + 1
        await asyncio.to_thread(events.progress, step, 1_000_000, loss=1.0, learning_rate=1e-4, tokens_per_second=60.0)
        told.append(step)
        await asyncio.to_thread(write_heartbeat, run_dir)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), STEP_SECONDS)


async def subscribe(url: str, seen: list[int]) -> None:
    """Append the id of every event to `seen` until the stream ends."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    with closing(writer):
        writer.write(f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        while line := await reader.readline():
            if found := IDS.match(line.rstrip()):
                seen.append(int(found[1]))


async def until(true: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    while not true():  # noqa: ASYNC110 - 500 tasks would set one event
        await asyncio.sleep(0.05)


async def crowd(url: str, number: int) -> None:
    """Run `number` subscribers.

    Prints "ready" when every subscriber has received an event. Then reads an event id from standard input and waits
    until every subscriber has received this event.

    Raises:
        SystemExit: A subscriber missed an event or received one twice.
    """
    seen: list[list[int]] = [[] for _ in range(number)]
    tasks = [asyncio.create_task(subscribe(url, one)) for one in seen]
    await until(lambda: all(seen))
    print("ready", flush=True)
    last = int(await asyncio.to_thread(sys.stdin.readline))
    async with asyncio.timeout(20):
        await until(lambda: all(one[-1] >= last for one in seen))
    if any(one != list(range(1, len(one) + 1)) for one in seen):
        raise SystemExit("A subscriber missed an event, or saw one twice.")
    for task in tasks:
        task.cancel()


def measured(url: str, server: psutil.Process, path: str, number: int, told: list[int]) -> Cost:
    """Measure for `SECONDS` the cost of `number` subscribers, which run in a separate process.

    Raises:
        SystemExit: A subscriber did not receive every event exactly once.
    """
    command = [sys.executable, __file__, f"{url}{path}", str(number)]
    crowd = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert crowd.stdout is not None
    if not crowd.stdout.readline():
        raise SystemExit("The subscribers were not served.")
    with httpx.Client(base_url=url) as client:
        client.get("/api/health")
        begun, before, taken = time.perf_counter(), sum(server.cpu_times()[:2]), []
        while (passed := time.perf_counter() - begun) < SECONDS:
            asked = time.perf_counter()
            client.get("/api/health").raise_for_status()
            taken.append((time.perf_counter() - asked) * 1000)
            time.sleep(ASK_SECONDS)
    used = sum(server.cpu_times()[:2]) - before
    resident = server.memory_info().rss / 1e6
    crowd.communicate(f"{told[-1]}\n")
    if crowd.returncode:
        raise SystemExit("Not every subscriber saw every event once.")
    cuts = quantiles(taken, n=100)
    return Cost(number, 100 * used / passed, cuts[49], cuts[98], resident)


async def measure(data_dir: Path) -> list[Cost]:
    """Measure all numbers of subscribers, one after the other, with the same run."""
    data_dir.mkdir()
    run, leash = await running(data_dir)
    told: list[int] = []
    stop = asyncio.Event()
    reporting = asyncio.create_task(report(data_dir / "runs" / str(run.id), told, stop))
    try:
        with served(data_dir) as (url, server):
            path = f"/api/finetune/{run.id}/progress"
            return [await asyncio.to_thread(measured, url, server, path, number, told) for number in SUBSCRIBERS]
    finally:
        stop.set()
        await reporting
        leash.release()


def main() -> str:
    """Run the benchmark and return a Markdown section; raise SystemExit if the limit is missed."""
    with tempfile.TemporaryDirectory() as folder:
        costs = asyncio.run(measure(Path(folder) / "data"))
    text = "| watching one run | server's CPU | `GET /api/health` p50 | p99 | limit | resident |\n|---:|---:|---:|---:|---:|---:|\n"
    for cost in costs:
        text += (
            f"| {cost.subscribers} | {cost.cpu_percent:.0f} % of a core | {cost.p50_ms:.1f} ms | {cost.p99_ms:.1f} ms | "
            f"{P99_LIMIT_MS:g} ms | {cost.resident_mb:.0f} MB |\n"
        )
    text += (
        f"\nServer-sent events of a run that makes a step every {STEP_SECONDS} s, {SECONDS:.0f} s for each row; the file is read "
        "once for all. Everyone saw every event once.\n"
    )
    if any(cost.p99_ms > P99_LIMIT_MS for cost in costs):
        print(text)
        raise SystemExit("A limit was missed.")
    return text


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(crowd(sys.argv[1], int(sys.argv[2])))
    else:
        print(main())
