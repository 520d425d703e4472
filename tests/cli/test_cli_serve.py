"""`tmde serve`, as a process: where it listens, how it refuses, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tmde_core.testing.fake_servers import FakeVllm, serving


@asynccontextmanager
async def _server(data: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running server and its URL."""
    process = await _start(data, "serve", "--port", "0", *arguments)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("TMDE is at http://127.0.0.1:"), (line, await _errors(process))
        yield process, line.split()[3]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _start(data: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tmde_core.cli", "--data-dir", str(data), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _errors(process: asyncio.subprocess.Process) -> str:
    return (await process.communicate())[1].decode()


async def _tmde(data: Path, *arguments: str) -> tuple[int | None, str, str]:
    process = await _start(data, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_with_streams_open(tmp_path: Path, number: signal.Signals) -> None:
    model = FakeVllm()
    model.hold = asyncio.Event()
    data = tmp_path / "data"
    data.mkdir()
    async with serving(model) as url:
        roles = "".join(
            f'[roles.{role}]\nruntime = "openai"\n' for role in ("proposer", "skeptic", "synthesizer", "judge")
        )
        (data / "tmde.toml").write_text(f'{roles}[runtimes.openai]\nbase_url = "{url}"\n')
        async with _server(data) as (process, address), httpx.AsyncClient(base_url=address, timeout=None) as client:
            started = (await client.post("/api/debates", json={"query": "2 + 2?"})).json()
            async with (
                client.stream("GET", started["eventsUrl"]) as debate,
                client.stream("GET", "/api/events") as bell,
            ):
                lines = debate.aiter_lines()
                async for line in lines:
                    if line.startswith("event: token"):
                        break
                process.send_signal(number)
                # The streams end with the server: their readers see the end, not a time-out.
                async for line in lines:
                    assert "complete" not in line
                async for _ in bell.aiter_lines():
                    pass
            assert await process.wait() == 0
        assert "Traceback" not in await _errors(process)
    code, out, _ = await _tmde(data, "traces", "stats", "--json")
    assert (code, json.loads(out)["total"]) == (0, 0)


async def test_the_command_line_works_beside_the_server_and_a_second_server_does_not(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with _server(data, "--no-ui") as (process, address):
        file = tmp_path / "t.jsonl"
        file.write_text('{"query": "q", "finalAnswer": "a"}\n')
        assert (await _tmde(data, "traces", "import", str(file)))[0] == 0
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await client.get("/api/traces")).json()["total"] == 1
        code, _, errors = await _tmde(data, "serve", "--port", "0")
        assert code == 1
        assert errors.startswith(f"Error: Another TMDE server (process {process.pid})")
        assert len(errors.splitlines()) == 1


async def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, errors = await _tmde(tmp_path / "data", "serve", "--port", port)
    assert (code, out) == (1, "")
    assert errors == (
        f"Error: Another program already listens on 127.0.0.1 port {port}. "
        "Stop it, or choose another port with --port (0 takes a free one).\n"
    )


async def test_an_address_of_another_machine_is_one_sentence(tmp_path: Path) -> None:
    for host in ("203.0.113.7", "no such host"):
        code, _, errors = await _tmde(tmp_path / "data", "serve", "--port", "0", "--host", host)
        assert code == 2
        assert "--host" in errors
        assert len(errors.splitlines()) == 1
