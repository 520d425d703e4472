"""Measures how long a benchmark takes, how much it delays a concurrent debate, and how fast its dashboard answers."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from uuid import uuid4

import httpx
import msgspec
import uvicorn

from tmde_core.benchmark.results.metrics import measure
from tmde_core.benchmark.service import comparable_hash
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import BenchmarkPlan, BenchmarkResult, BenchmarkRun
from tmde_core.records.debate import DebateConfig
from tmde_core.services import Services, open_services
from tmde_core.settings import load_settings

MODELS = Path(os.environ.get("TMDE_DATA_DIR") or Path(__file__).parents[1] / "data") / "models"
RUNS = 1_000
REQUESTS = 50
DEBATES = 4
EVERY = 2
"""Every second question of the full suite is asked, which is half of each domain.

These questions compare asking several questions at once with asking one at a time.
"""
QUESTION = "Which is heavier, a kilogram of lead or a kilogram of feathers, and why?"
ONE_ROUND = DebateConfig(max_rounds=1, synthesis="never", judge="none", seed=1, max_tokens=96)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Services]:
    """Open the services on an empty data directory that has the embedded model."""
    settings = load_settings(folder, environ={})
    (folder / "models").symlink_to(MODELS, target_is_directory=True)
    async with open_services(settings) as services:
        runtime = await services.runtimes.get("embedded")
        await runtime.models()
        yield services


async def run(services: Services, plan: BenchmarkPlan, parallel: int) -> tuple[float, BenchmarkRun]:
    """Run a benchmark and return its duration in seconds, and the run."""
    services.benchmark.parallel = parallel
    began = time.perf_counter()
    started = await services.benchmark.start(plan)
    ended = await services.benchmark.wait(started.id)
    assert ended.status == "completed", ended.error_message
    return time.perf_counter() - began, ended


async def debate(services: Services) -> tuple[float, float]:
    """Run a debate of one round and return the seconds to its first word and to its end."""
    began = time.perf_counter()
    started = await services.debates.start(QUESTION, ONE_ROUND)
    first = 0.0
    async for event in (await services.debates.events(started.id)).follow():
        if event.type == "token" and not first:
            first = time.perf_counter() - began
    return first, time.perf_counter() - began


async def measured(folder: Path) -> list[str]:
    """Measure everything that needs the model and return the table's rows."""
    lines = []
    async with opened(folder) as services:
        asked = [one.id for one in await services.benchmark.questions(suite="tmde-50")][::EVERY]
        full = BenchmarkPlan(type="custom", mode="proposer", repeats=1, question_ids=tuple(asked))
        await debate(services)
        side, run_side = await run(services, full, 8)
        alone, run_alone = await run(services, full, 1)
        quick, _ = await run(services, BenchmarkPlan(type="quick"), 8)
        lines += [
            f"| every second question of the full suite, proposer, {run_side.answer_count} answers, side by side | {side:.0f} s | {side / alone:.2f}× | ≤ 0.5× |",
            f"| the same, one at a time | {alone:.0f} s | 1× | |",
            f"| quick, whole debates, 10 answers | {quick:.0f} s | | ≤ 600 s |",
            f"| quality side by side and one at a time | {_quality(run_side)} and {_quality(run_alone)} | | |",
        ]
        idle = [await debate(services) for _ in range(DEBATES)]
        services.benchmark.parallel = 8
        busy_run = await services.benchmark.start(BenchmarkPlan(type="full", mode="proposer", repeats=4))
        await asyncio.sleep(3)
        busy = [await debate(services) for _ in range(DEBATES)]
        still = services.benchmark.get_running() is not None
        await services.benchmark.cancel(busy_run.id)
        for name, index in (("first word", 0), ("end", 1)):
            before, beside = median(one[index] for one in idle), median(one[index] for one in busy)
            lines.append(f"| a debate's {name}, beside a benchmark | {beside:.2f} s | {beside / before:.2f}× idle | |")
        assert still, "the benchmark ended before the debates did"
    return lines


def _quality(run: BenchmarkRun) -> str:
    assert run.metrics is not None
    return f"{run.metrics.avg_quality_score or 0:.2f}"


async def dashboard(folder: Path) -> str:
    """Measure the summary with 1,000 stored runs over HTTP and return the table's row."""
    from tmde_core.api.app import create_app

    async with open_services(load_settings(folder, environ={})) as services:
        await _fill(services)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(services), access_log=False, log_level="warning"))
        serving = asyncio.create_task(server.serve([listening]))
        taken = []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            for _ in range(REQUESTS + 1):
                began = time.perf_counter()
                (await client.get("/api/benchmark/summary")).raise_for_status()
                taken.append((time.perf_counter() - began) * 1000)
        server.should_exit = True
        await serving
    cuts = quantiles(taken[1:], n=20)
    return f"| `GET /api/benchmark/summary`, {RUNS:,} runs | {median(taken[1:]):.1f} ms | 95 %: {cuts[18]:.1f} ms | < 50 ms |"


async def _fill(services: Services) -> None:
    results = [
        BenchmarkResult(
            id=uuid4(), run_id=uuid4(), question_id=f"q{n}", repeat=0, status="scored", domain="science", difficulty="easy", query="?",
            quality_score=float(n % 11), response_time_ms=1000.0,
        )
        for n in range(10)
    ]  # fmt: skip
    metrics = measure(results, "proposer")
    for _ in range(RUNS):
        run = BenchmarkRun(
            id=uuid4(), type="quick", mode="proposer", suite="tmde-50", status="completed", started_at=utc_now(),
            completed_at=utc_now(), metrics=metrics, question_count=10, completed_questions=10, answer_count=10,
            completed_answers=10,
        )  # fmt: skip
        await services.stores.benchmark.insert(msgspec.structs.replace(run), [], comparable_hash(run))
        await services.stores.benchmark.update(run)


def main() -> str:
    """Run the benchmark and return a Markdown section."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        lines = [*asyncio.run(measured(Path(one))), asyncio.run(dashboard(Path(other)))]
    head = "| | | | target |\n|---|---:|---:|---:|\n"
    return head + "\n".join(lines) + f"\n\nThe embedded model; medians of {DEBATES} debates of one round.\n"


if __name__ == "__main__":
    print(main())
