"""A real server on a loopback port, one for each module: uvicorn in a thread, services with scripted models."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn

from tmde_core.api.app import Api, create_app
from tmde_core.plugins import Plugins
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

T = TypeVar("T")


@dataclass
class Live:
    """The running server, and its insides for arranging what HTTP cannot."""

    url: str
    client: httpx.Client
    services: Services
    app: Api
    runtime: ScriptedRuntime
    loop: asyncio.AbstractEventLoop
    server: uvicorn.Server
    thread: threading.Thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        """Stop as `tmde serve` does: streams first."""
        self.app.shutdown_streams()
        self.server.should_exit = True
        self.thread.join(20)


def serve(directory: Path, runtime: ScriptedRuntime) -> Live:
    """Start a server on a free port."""
    started = threading.Event()
    made: dict[str, Any] = {}
    # Named as TCP, so that asyncio turns Nagle's delay off, as it does for the sockets it opens itself.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(200)

    async def main() -> None:
        directory.mkdir()
        plugins = scripted_plugins(runtime, Plugins.load())
        async with open_services(scripted_settings(directory), plugins) as services:
            app = create_app(services)
            config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
            server = uvicorn.Server(config)
            made.update(services=services, app=app, server=server, loop=asyncio.get_running_loop())
            asyncio.get_running_loop().call_soon(started.set)
            await server.serve([listening])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(30)
    host, port = listening.getsockname()[:2]
    url = f"http://{host}:{port}"
    return Live(url=url, client=httpx.Client(base_url=url, timeout=30), runtime=runtime, thread=thread, **made)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for a module."""
    server = serve(tmp_path_factory.mktemp("api") / "data", ScriptedRuntime())
    yield server
    server.client.close()
    server.stop()
    assert not server.thread.is_alive()


@pytest.fixture
def own_live(tmp_path: Path) -> Iterator[Live]:
    """A server that only this test uses, and may stop."""
    server = serve(tmp_path / "data", ScriptedRuntime())
    yield server
    server.client.close()
    server.stop()
    assert not server.thread.is_alive()


@pytest.fixture
def refused() -> Callable[[httpx.Response, int, str], dict[str, Any]]:
    """Check that an answer is a problem of that status and code; gives its members."""

    def check(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert {"type", "title", "status", "detail", "code"} <= set(body)
        assert (body["status"], body["code"]) == (status, code)
        assert body["type"] == f"urn:tmde:problem:{code}"
        assert "Traceback" not in response.text
        return body

    return check
