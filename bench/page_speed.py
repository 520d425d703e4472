"""Measures how long the benchmark page takes to paint a thousand runs, in a real Chromium."""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
import tempfile
from datetime import timedelta
from pathlib import Path
from statistics import median
from uuid import uuid4

import uvicorn
from playwright.async_api import Page, async_playwright

from tmde_core.benchmark.results.metrics import tmde_score
from tmde_core.benchmark.service import comparable_hash
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import BenchmarkMetrics, BenchmarkRun, DomainMetrics, Interval, MetricIntervals
from tmde_core.services import Services, open_services
from tmde_core.settings import load_settings
from tmde_ui.compose import create_app

RUNS = 1_000
LOADS = 11
TARGET_MS = 600
PAUSE_SECONDS = 1.5
"""The pause between two loads, so that work after the paint of one page does not slow down the next load."""

PAINTED = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".zoom path.line")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => performance.mark("painted")));
}).observe(document, { childList: true, subtree: true });
"""
"""Marks the moment when the line is in the document and its frame has been drawn."""

REPAINTED = """
window.repainted = new Promise((resolve) => {
  const began = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
  }).observe(document.querySelector(".zoom > div"), { childList: true, subtree: true, attributes: true });
});
null
"""


async def _fill(services: Services) -> None:
    """Store runs six hours apart over eight months, each with its interval."""
    for index in range(RUNS):
        quality = 5 + 2 * math.sin(index / 40) + 0.6 * math.sin(index * 1.7)
        found = Interval(mean=quality, low=quality - 1, high=quality + 1, n=10)
        metrics = BenchmarkMetrics(
            tmde_score=tmde_score(quality, 0.9), avg_quality_score=quality, avg_response_time_ms=quality,
            avg_tokens_per_second=quality, avg_debate_rounds=quality, early_termination_rate=None,
            domain_scores=dict.fromkeys(("mathematics", "coding", "science"), quality),
            intervals=MetricIntervals(found, found, found, found, found), questions=10,
            domains=tuple(DomainMetrics(domain=domain, quality=found) for domain in ("mathematics", "coding", "science")),
        )  # fmt: skip
        at = utc_now() - timedelta(hours=6 * (RUNS - index))
        run = BenchmarkRun(
            id=uuid4(), type="quick", mode="proposer", suite="tmde-50", status="completed", started_at=at, completed_at=at,
            metrics=metrics, answer_count=10, completed_answers=10,
        )  # fmt: skip
        await services.stores.benchmark.insert(run, [], comparable_hash(run))
        await services.stores.benchmark.update(run)


async def _load(page: Page, address: str) -> float:
    """Return the milliseconds from the start of the navigation to the painted chart."""
    await page.goto(address)
    await page.wait_for_function("performance.getEntriesByName('painted').length")
    await asyncio.sleep(PAUSE_SECONDS)
    return float(await page.evaluate("performance.getEntriesByName('painted')[0].startTime"))


async def _zoom(page: Page, button: str) -> float:
    """Return the milliseconds from the press of a button to the repainted chart."""
    await page.evaluate(REPAINTED)
    await page.get_by_test_id(button).click()
    return float(await page.evaluate("window.repainted"))


async def _measured(folder: Path) -> tuple[list[float], list[float]]:
    async with open_services(load_settings(folder, environ={})) as services:
        await _fill(services)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(services), access_log=False, log_level="warning"))
        serving = asyncio.create_task(server.serve([listening]))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/benchmark"
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            context = await browser.new_context(viewport={"width": 1280, "height": 900})
            await context.add_init_script(PAINTED)
            page = await context.new_page()
            loads = [await _load(page, address) for _ in range(LOADS + 1)][1:]
            zooms = [await _zoom(page, "zoom-all" if number % 2 else "zoom-closer") for number in range(LOADS - 1)]
            await browser.close()
        server.should_exit = True
        await serving
    return loads, zooms


def main() -> str:
    """Run the benchmark and return a Markdown section."""
    with tempfile.TemporaryDirectory() as folder:
        loads, zooms = asyncio.run(_measured(Path(folder)))
    return (
        f"| `/benchmark` with {RUNS:,} runs, in Chromium | median | fastest | slowest | target |\n|---|---:|---:|---:|---:|\n"
        f"| warm load, navigation to painted chart | {median(loads):.0f} ms | {min(loads):.0f} ms | {max(loads):.0f} ms | ≤ {TARGET_MS} ms |\n"
        f"| zoom, press to painted chart | {median(zooms):.0f} ms | {min(zooms):.0f} ms | {max(zooms):.0f} ms | |\n\n"
        f"{len(loads)} loads and {len(zooms)} presses; the server and the browser share the machine.\n"
    )
