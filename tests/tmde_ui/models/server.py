"""The server of the tests of `/models`: the real composition, with runtimes whose models are made up.

`python -m tests.tmde_ui.models.server DATA_DIR`; see `scripted_server.py` for how it is given commands.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import structlog
import uvicorn

from tests.core.models.pulling.hub_files import gguf, gguf_repository
from tests.tmde_ui.scripted_server import add_traces, say
from tests.tmde_ui.versions.server import publish_adapter
from tmde_core.errors import WorkerFailedError
from tmde_core.plugins import Plugins
from tmde_core.records.runtimes import Availability, ModelInfo, RuntimeCapabilities
from tmde_core.sdk.runtimes import RuntimeDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.fake_hub import FakeHub
from tmde_core.testing.fake_servers import serving
from tmde_core.testing.scripted import Reply, ScriptedRuntime, scripted_plugins, scripted_settings
from tmde_ui.compose import create_app

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> red, green, blue"


def write_toy(path: Path) -> Path:
    """A GGUF file with the header of a model of 135 million weights, and without the weights."""
    few = struct.pack("<IQIQ", 1, 100, 0, 0)
    path.write_bytes(gguf(400).replace(few, struct.pack("<IQIQ", 1, 134_515_008, 0, 0)))
    return path


class ToyRuntime(ScriptedRuntime):
    """Serves a toy that comes with TMDE, and more models when it is told."""

    def __init__(self, file: Path) -> None:
        super().__init__(script=lambda _request: Reply(HOSTILE))
        self.file = write_toy(file)
        self.more: list[str] = []
        self.away = asyncio.Event()
        self.away.set()

    async def models(self) -> Sequence[ModelInfo]:
        await self.away.wait()
        toy = ModelInfo(
            name=self.model, runtime=self.name, aliases=("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
            path=str(self.file), size_bytes=98_000_000, default=True, shipped=True,
        )  # fmt: skip
        return [toy, *(ModelInfo(name=name, runtime=self.name, size_bytes=2_500_000_000) for name in self.more)]


class GoneRuntime(ScriptedRuntime):
    """A server that does not respond."""

    async def models(self) -> Sequence[ModelInfo]:
        raise WorkerFailedError("Nothing answers.")


class ServerRuntime(ScriptedRuntime):
    """A server elsewhere: it has another quantisation of the toy, and a model that breaks."""

    async def models(self) -> Sequence[ModelInfo]:
        return [
            ModelInfo(name="smollm2-135m-instruct:q8_0", runtime=self.name, loaded=True, default=True),
            ModelInfo(name="broken:7b", runtime=self.name),
        ]

    def _refuse(self, request: object) -> None:
        if getattr(request, "model", "") == "broken:7b":
            raise WorkerFailedError("The server has no memory left. Close other programs, then try again.")


async def obey(services: Services, toy: ToyRuntime, hub: FakeHub) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: object = None
        match command["do"]:
            case "more":
                toy.more = command["names"]
            case "away":
                toy.away.clear()
            case "back":
                toy.away.set()
            case "faults":
                hub.faults = type(hub.faults)(*command["faults"])
            case "adapters":
                toy.capabilities = RuntimeCapabilities(adapters=command["served"])
            case "roles":
                await services.live.change({"roles": command["roles"]})
            case "setting":
                answer = getattr(services.settings.roles, command["role"]).model
            case "traces":
                await add_traces(services, command["number"])
            case "activate":
                answer = publish_adapter(services.settings.data_path, {"base_model": command["base"]})
                await services.lora.activate(UUID(answer))
            case "deactivate":
                await services.lora.deactivate()
        say({"done": answer})


async def serve(directory: Path) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for answers
    toy, other = (
        ToyRuntime(directory / "toy.Q4_1.gguf"),
        ServerRuntime(name="elsewhere", model="smollm2-135m-instruct:q8_0"),
    )
    plugins = scripted_plugins(toy, Plugins())
    scripted_plugins(other, plugins)
    plugins.runtimes.add(
        RuntimeDescriptor(
            name="gone",
            summary="does not respond",
            create=lambda _context: GoneRuntime(name="gone"),
            availability=lambda _context: Availability(ok=False, reason="Nothing answers at `gone:1`. Start it."),
        ),
        "tests",
    )
    repositories = directory / "hub"
    gguf_repository(repositories / "tiny" / "Tiny-1B-GGUF", "tiny/Tiny-1B")
    hub = FakeHub(repositories)
    async with serving(hub) as address, open_services(scripted_settings(directory), plugins, serving=True) as services:
        os.environ["HF_ENDPOINT"] = address
        config = uvicorn.Config(create_app(services), host="127.0.0.1", port=0, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                task.result()
                raise SystemExit("the server did not start")
            await asyncio.sleep(0.02)
        say({"url": f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"})
        await obey(services, toy, hub)
        server.should_exit = True
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
