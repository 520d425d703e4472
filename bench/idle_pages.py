"""Measures what an open page costs the processor while a debate and a benchmark wait, in a real Chromium.

A model on the same machine needs the processor. A page that shows a running debate, and does nothing else, may take
little of it. The debate and the benchmark of this measurement wait for a model that does not answer, so that whatever
is used is used by the pages themselves. The same pages are also watched with one endless CSS animation put back: the pulsing
dot that the header once had.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from pathlib import Path

import psutil
import uvicorn
from playwright.async_api import async_playwright

import tmde_bench_default.plugin
from tmde_core.records.benchmark import BenchmarkPlan
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import ACCEPT, Reply, ScriptedRuntime, scripted_plugins, scripted_settings
from tmde_ui.compose import create_app
from tmde_ui.pages import PAGES

SECONDS = 8.0
"""How long each page is watched."""

SETTLE_SECONDS = 3.0
"""How long a page may draw itself before it is watched."""

LIMIT = 3.0
"""The most that a page may take, percent of one core."""

PULSE = """
@keyframes pulse { 50% { opacity: 0.35; } }
.dot.busy { animation: pulse 2s ease-in-out infinite; }
"""
"""The animation for comparison."""

QUESTION = "Which number comes after 41?"


async def _busy(services: Services, runtime: ScriptedRuntime) -> list[str]:
    """Start a debate and a benchmark that wait in the middle. Return the addresses of all pages."""
    done = await services.debates.start(QUESTION, source="ui")
    await services.debates.wait(done.id)
    runtime.script = lambda _request: Reply("It is forty-two, I think", gate=asyncio.Event(), gate_after=3)
    trace = (await services.debates.get(done.id)).trace_id
    debate = await services.debates.start(QUESTION, source="ui")
    run = await services.benchmark.start(BenchmarkPlan(type="quick", mode="proposer"))
    fixed = [listed.path for listed in PAGES]
    return [*fixed, f"/debates/{debate.id}", f"/traces/{trace}", f"/benchmark/{run.id}"]


def _processor_seconds(root: psutil.Process) -> float:
    total = 0.0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


async def _measured(folder: Path) -> list[tuple[str, float, float, float]]:
    runtime = ScriptedRuntime({"proposer": "It is 42.", "skeptic": ACCEPT, "synthesizer": "It is 42.", "judge": "9"})
    settings = scripted_settings(folder)
    plugins = scripted_plugins(runtime)
    plugins.add("tmde-bench-default", tmde_bench_default.plugin)
    async with open_services(settings, plugins, serving=True) as services:
        addresses = await _busy(services, runtime)
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(create_app(services), access_log=False, log_level="warning"))
        serving = asyncio.create_task(server.serve([listening]))
        home = f"http://127.0.0.1:{listening.getsockname()[1]}"
        here, found = psutil.Process(), []
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            driver = next(child for child in here.children() if child.children())
            for address in addresses:
                context = await browser.new_context(viewport={"width": 1280, "height": 900})
                page = await context.new_page()
                await page.goto(home + address)
                own, server_share = await _watch(driver, here)
                await page.add_style_tag(content=PULSE)
                found.append((address, own, (await _watch(driver, here))[0], server_share))
                await context.close()
            await browser.close()
        server.should_exit = True
        await serving
    return found


async def _watch(driver: psutil.Process, server: psutil.Process) -> tuple[float, float]:
    """Return what the browser and the server use, percent of one core."""
    await asyncio.sleep(SETTLE_SECONDS)
    began, pages, own = time.monotonic(), _processor_seconds(driver), _own_seconds(server)
    await asyncio.sleep(SECONDS)
    passed = time.monotonic() - began
    return 100 * (_processor_seconds(driver) - pages) / passed, 100 * (_own_seconds(server) - own) / passed


def _own_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> str:
    """Run the benchmark and return a Markdown section."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measured(Path(folder)))
    rows = "".join(
        f"| `{_kind(address)}` | {page:.1f} % | {pulsing:.1f} % | {server:.1f} % |\n"
        for address, page, pulsing, server in found
    )
    worst = max(page for _, page, _, _ in found)
    text = (
        f"| page, for {SECONDS:.0f} s each | browser | browser with a pulsing dot | server |\n|---|---:|---:|---:|\n{rows}\n"
        f"Percent of one core, while a debate and a benchmark are running and wait for their model. The limit is {LIMIT:.0f} % in "
        f"the browser; the dearest page takes {worst:.1f} %. The browser draws in software, at 1280 × 900.\n"
    )
    if worst >= LIMIT:
        raise SystemExit(f"{text}\nA page takes more than its limit.")
    return text


def _kind(address: str) -> str:
    parts = address.split("/")
    return f"/{parts[1]}/…" if len(parts) == 3 and len(parts[2]) == 36 else address
