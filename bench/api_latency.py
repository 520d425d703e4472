"""Measures how long the API takes to answer with 100,000 stored traces.

The server is real and runs in a separate process. There is one client and no model.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import httpx

TRACES = 100_000
REQUESTS = 100
"""The number of requests for each path; with 100 requests, the 99th percentile is the second slowest."""


async def fill(directory: Path) -> None:
    """Store the traces directly through the store, because the import of traces is not measured here."""
    from datetime import UTC, datetime, timedelta
    from random import Random
    from uuid import UUID

    from tmde_core.records.debate import Round
    from tmde_core.records.traces import Trace
    from tmde_core.storage.database import Database
    from tmde_core.traces.store import TraceStore

    random = Random(1)
    words = [f"word{number}" for number in range(5_000)]
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def text(length: int) -> str:
        return " ".join(random.choices(words, k=length))

    traces = (
        Trace(
            id=UUID(int=random.getrandbits(128), version=4),
            created_at=start + timedelta(seconds=number),
            query=text(15),
            final_answer=text(100),
            rounds=(Round(number=1, proposal=text(80), critique_text=text(20)),),
            auto_score=random.choice([None, 3.0, 6.5, 8.5, 9.0]),
            source="api",
        )
        for number in range(TRACES)
    )
    async with Database.open(directory / "tmde.db") as database, database.transaction() as connection:
        await TraceStore(database).insert(connection, traces)


async def serve(directory: Path, port: int) -> None:
    """Serve the API alone, on the data directory."""
    import uvicorn

    from tmde_core.api.app import create_app
    from tmde_core.services import open_services
    from tmde_core.settings import load_settings

    async with open_services(load_settings(directory, environ={})) as services:
        config = uvicorn.Config(create_app(services), port=port, access_log=False, log_level="warning")
        await uvicorn.Server(config).serve()


@contextmanager
def server(directory: Path) -> Iterator[httpx.Client]:
    """Start a server and yield a client that keeps its connection open."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, str(directory), str(port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while True:
                try:
                    client.get("/api/health")
                    break
                except httpx.ConnectError:
                    if process.poll() is not None:
                        raise RuntimeError("the server did not start") from None
                    time.sleep(0.05)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def timed(client: httpx.Client, path: str, **params: str) -> tuple[float, float]:
    """Return the 50th and the 99th percentile in milliseconds."""
    taken = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        client.get(path, params=params).raise_for_status()
        taken.append((time.perf_counter() - began) * 1000)
    cuts = quantiles(taken, n=100)
    return cuts[49], cuts[98]


def main() -> str:
    """Run the benchmark and return a Markdown section."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        asyncio.run(fill(directory))
        with server(directory) as client:
            middle = json.loads(client.get("/api/traces", params={"limit": 200}).content)["nextCursor"]
            cases = [
                ("`GET /api/health`", timed(client, "/api/health")),
                ("`GET /api/traces` (newest 50)", timed(client, "/api/traces")),
                ("`GET /api/traces?cursor=…`", timed(client, "/api/traces", cursor=middle)),
                ("`GET /api/traces?eligible=true`", timed(client, "/api/traces", eligible="true")),
                ("`GET /api/traces?q=word17 word18`", timed(client, "/api/traces", q="word17 word18")),
                ("`GET /api/traces/stats`", timed(client, "/api/traces/stats")),
            ]
    least = cases[0][1][0]
    rows = [f"| {name} | {p50:.1f} | {p99:.1f} | {p50 / least:.1f}× |" for name, (p50, p99) in cases]
    head = "| request | p50 ms | p99 ms | p50 against health |\n|---|---:|---:|---:|\n"
    note = f"\n\n{TRACES:,} traces, one client on one connection, {REQUESTS} requests each.\n"
    return head + "\n".join(rows) + note


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
    else:
        print(main())
