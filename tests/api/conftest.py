"""A real server on a loopback port, one for each module: uvicorn in a thread, services with scripted models."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn

from tmde_core.api.app import Api, create_app
from tmde_core.finetune.supervision import supervisor
from tmde_core.plugins import Plugins
from tmde_core.prompts import role_of
from tmde_core.records.chat import ChatRequest, TokenAlternative, TokenLogprob
from tmde_core.records.runtimes import Availability
from tmde_core.records.training import ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import (
    ACCEPT,
    Answer,
    Reply,
    ScriptedRuntime,
    digit_logprobs,
    scripted_plugins,
    scripted_settings,
)

T = TypeVar("T")

WORKER = Path(__file__).parents[1] / "core" / "finetune" / "stand_in_worker.py"
"""A training worker without training; what it does is the job's base model, a word."""


class StandInBackend:
    """Plans the stand-in worker."""

    def availability(self) -> Availability:
        return Availability(ok=True)

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        return ResourceEstimate()

    def plan(self, job: TrainingJob) -> WorkerCommand:
        return WorkerCommand(argv=(sys.executable, str(WORKER), str(Path(job.run_dir) / "job.json")))


@dataclass
class Script:
    """What the models say: one round that is accepted; a question that holds "wait" waits for `gate` after one word."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, request: ChatRequest) -> Answer:
        role = role_of(request)
        if role == "skeptic":
            return ACCEPT
        if role == "judge":
            return Reply("4", logprobs=digit_logprobs({"4": 0.6, "5": 0.3, "3": 0.1}))
        if any("wait" in message.content for message in request.messages):
            return Reply("The answer is 42.", gate=self.gate, gate_after=1)
        # The probe of an activation wants an adapter that changes the probabilities.
        probability = 0.8 if request.adapter else 0.7
        top = (TokenAlternative(token="The", logprob=math.log(probability)),)
        return Reply("The answer is 42.", logprobs=(TokenLogprob(token="The", logprob=top[0].logprob, top=top),))


@dataclass
class Live:
    """The running server, and its insides for arranging what HTTP cannot."""

    url: str
    client: httpx.Client
    services: Services
    app: Api
    script: Script
    loop: asyncio.AbstractEventLoop
    server: uvicorn.Server
    thread: threading.Thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def let_go(self) -> None:
        """Let the debates that wait go on."""
        self.loop.call_soon_threadsafe(self.script.gate.set)

    def close(self) -> None:
        """Stop, and leave no worker behind."""
        self.client.close()
        self.stop()
        assert not self.thread.is_alive()
        for run_dir in (self.services.settings.data_path / "runs").glob("*"):
            supervisor.end(run_dir.name, run_dir, grace_seconds=0)

    def stop(self) -> None:
        """Stop as `tmde serve` does: streams first."""
        self.app.shutdown_streams()
        self.server.should_exit = True
        self.thread.join(60)


def serve(directory: Path) -> Live:
    """Start a server on a free port."""
    script = Script()
    started = threading.Event()
    made: dict[str, Any] = {}
    # Named as TCP, so that asyncio turns Nagle's delay off, as it does for the sockets it opens itself.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(200)

    async def main() -> None:
        directory.mkdir()
        plugins = scripted_plugins(ScriptedRuntime(script=script), Plugins.load())
        plugins.backends.add(
            BackendDescriptor(name="stand-in", summary="pretends", create=lambda _: StandInBackend()), "tests"
        )
        async with open_services(scripted_settings(directory), plugins) as services:
            app = create_app(services)
            config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
            server = uvicorn.Server(config)
            made.update(services=services, app=app, server=server, loop=asyncio.get_running_loop())
            asyncio.get_running_loop().call_soon(started.set)
            with listening:
                await server.serve([listening])

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(60)
    assert "app" in made, "the server did not start"
    host, port = listening.getsockname()[:2]
    url = f"http://{host}:{port}"
    return Live(url=url, client=httpx.Client(base_url=url, timeout=30), script=script, thread=thread, **made)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for a module."""
    server = serve(tmp_path_factory.mktemp("api") / "data")
    yield server
    server.close()


@pytest.fixture
def own_live(tmp_path: Path) -> Iterator[Live]:
    """A server that only this test uses, and may stop."""
    server = serve(tmp_path / "data")
    yield server
    server.close()


@pytest.fixture
def events() -> Callable[[str], list[tuple[int, str, Any]]]:
    """Parse a stream of server-sent events into id, type and data."""

    def parsed(text: str) -> list[tuple[int, str, Any]]:
        found = []
        for block in text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith((":", "retry")))
            if lines:
                assert list(lines) == ["id", "event", "data"]
                found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
        return found

    return parsed


@pytest.fixture
def refused() -> Callable[[httpx.Response, int, str], dict[str, Any]]:
    """Check that an answer is a problem of that status and code; gives its members."""

    def check(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert response.status_code == status, response.text[:300]
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, Any] = response.json()
        assert {"type", "title", "status", "detail", "code"} <= set(body)
        assert (body["status"], body["code"]) == (status, code)
        assert body["type"] == f"urn:tmde:problem:{code}"
        assert "Traceback" not in response.text
        return body

    return check


@pytest.fixture
def raw() -> Callable[..., dict[str, Any]]:
    """Send lines as they are, which no client would, and read the problem that is answered."""

    def send(live: Live, *lines: bytes, host: bytes | None = b"127.0.0.1") -> dict[str, Any]:
        port = int(live.url.rsplit(":", 1)[1])
        named = [] if host is None else [b"Host: " + host]
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(b"\r\n".join([lines[0], *named, *lines[1:], b"Connection: close", b"", b""]))
            received = b""
            while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
                block = connection.recv(65_536)
                if not block:
                    break
                received += block
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        return dict(json.loads(body), status=int(head.split()[1]))

    return send
