"""Measures how soon the program and the server answer, and how much memory an idle server takes.

Each figure comes from a fresh process: `tmde --help` and three lists from start to end, and `tmde serve` from start to
the first byte of the first page. The lists are shown in an empty data directory, and in one with a thousand adapters
and a thousand traces.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psutil
from adapters import thousand

from tmde_core.records.traces import Trace
from tmde_core.storage.database import Database
from tmde_core.traces.store import TraceStore

RUNS = 7
HELP_LIMIT_S = 0.2
LIST_LIMIT_S = 0.4
LISTS = ("lora", "traces", "finetune")
TRACES = 1_000
FIRST_BYTE_LIMIT_S = 2.5
IDLE_LIMIT_MB = 250
SHUTDOWN_LIMIT_S = 1.0
GIVE_UP_S = 60.0
TMDE = Path(sys.executable).with_name("tmde")


def main() -> str:
    """Run the benchmark and return a Markdown section; raise SystemExit if a limit is missed."""
    helped = [_timed("--help") for _ in range(RUNS)]
    with tempfile.TemporaryDirectory() as directory:
        served = [_serve(Path(directory) / "data") for _ in range(RUNS)]
        empty, full = Path(directory) / "empty", Path(directory) / "full"
        asyncio.run(_fill(full))
        listed = [
            (f"`tmde {word} list`, {what}", _listed(word, data), LIST_LIMIT_S, "s")
            for word in LISTS
            for what, data in (("nothing there", empty), ("a thousand adapters and traces", full))
        ]
    first, resident, stopped = (statistics.median(column) for column in zip(*served, strict=True))
    rows = (
        ("`tmde --help`", statistics.median(helped), HELP_LIMIT_S, "s"),
        *listed,
        ("`tmde serve` to the first byte of the first page", first, FIRST_BYTE_LIMIT_S, "s"),
        ("the server's resident memory when idle, without the model", resident, IDLE_LIMIT_MB, "MB"),
        ("SIGTERM to the end of the process", stopped, SHUTDOWN_LIMIT_S, "s"),
    )
    text = f"Medians of {RUNS} fresh processes.\n\n| | median | limit | within |\n|---|---:|---:|---|\n"
    for name, value, limit, unit in rows:
        text += f"| {name} | {value:.3g} {unit} | {limit:g} {unit} | {'yes' if value <= limit else 'NO'} |\n"
    if any(value > limit for _, value, limit, _ in rows):
        print(text)
        raise SystemExit("A limit was missed.")
    return text


def _timed(*arguments: str | Path) -> float:
    """Return the seconds that one command takes as a whole process."""
    began = time.perf_counter()
    subprocess.run([TMDE, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def _listed(word: str, data: Path) -> float:
    """Return the median seconds of a list; ignore the first call, which creates the database."""
    seconds = [_timed("--data-dir", data, word, "list") for _ in range(RUNS + 1)]
    return statistics.median(seconds[1:])


async def _fill(data: Path) -> None:
    """Create a thousand adapters and a thousand traces."""
    thousand(data)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    traces = [
        Trace(
            id=uuid4(),
            created_at=start + timedelta(minutes=number),
            query=f"What is {number} + {number}?",
            final_answer="A number.",
        )
        for number in range(TRACES)
    ]
    async with Database.open(data / "tmde.db") as database, database.transaction() as connection:
        await TraceStore(database).insert(connection, traces)


def _serve(data: Path) -> tuple[float, float, float]:
    """Run the server once.

    Returns:
        The seconds to the first byte, the idle memory in MB, and the seconds from SIGTERM to the end of the process.
    """
    port = _free_port()
    environment = {**os.environ, "TMDE_LOG_LEVEL": "warning"}
    began = time.perf_counter()
    server = subprocess.Popen(
        [TMDE, "--data-dir", data, "serve", "--port", str(port)], stdout=subprocess.DEVNULL, env=environment
    )
    try:
        first = _first_byte(f"http://127.0.0.1:{port}/", began)
        resident = psutil.Process(server.pid).memory_info().rss / 1e6
        ending = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        server.wait(GIVE_UP_S)
        return first, resident, time.perf_counter() - ending
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def _first_byte(url: str, began: float) -> float:
    while time.perf_counter() - began < GIVE_UP_S:
        try:
            with urllib.request.urlopen(url, timeout=GIVE_UP_S) as answer:
                answer.read(1)
                return time.perf_counter() - began
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.01)
    raise SystemExit("The server did not answer.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    print(main())
