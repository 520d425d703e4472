"""The server of the versions page's tests: the real composition, small adapters that were really published, scripted answers.

`python -m tests.tmde_ui.versions.server DATA_DIR [PORT]`; see `scripted_server.py` for how it is given commands.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog
import uvicorn

from tests.core.lora.archive.archives import CONFIG, safetensors, weights
from tests.tmde_ui.scripted_server import add_traces, say
from tmde_core.prompts import role_of
from tmde_core.records.benchmark import BenchmarkRun, DomainComparison, PairedComparison, RunComparison
from tmde_core.records.chat import ChatRequest
from tmde_core.records.lora import Manifest
from tmde_core.records.training import WorkerCommand
from tmde_core.sdk.adapters import publish, staging_directory
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import Services, open_services
from tmde_core.testing.scripted import (
    DEFAULT_SCRIPT,
    Answer,
    Reply,
    ScriptedRuntime,
    scripted_plugins,
    scripted_settings,
)
from tmde_ui.compose import create_app
from tmde_ui.kit import tending
from tmde_ui.kit.shell import live

HOSTILE = "<script>alert(1)</script><img src='http://elsewhere.invalid/x.png'> **bold** "
THOUGHT = "Let me think about whom they ask."

LOOK_SECONDS = 0.3
"""Pages look more often than usual, so that tests wait less."""


class Script:
    """The base model and each adapter answer differently; a question that says `slow` waits in the middle."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.broken: set[str] = set()

    def __call__(self, request: ChatRequest) -> Answer:
        role = role_of(request)
        if role != "proposer":
            return DEFAULT_SCRIPT[role]  # type: ignore[return-value]
        who = f"adapter {request.adapter.id[:8]}" if request.adapter else "the base model"
        if request.adapter is not None and request.adapter.id in self.broken:
            return Reply("no " * 30)
        asked = request.messages[-1].content
        text = f"I am {who}, and {HOSTILE if 'hostile' in asked else 'this is **my** answer to it, word by word'}"
        gate = self.gate if "slow" in asked else None
        if "thinking" in asked:
            return Reply(text, thought=THOUGHT, gate=gate, gate_after=3, finish_reason="length")
        return Reply(text, gate=gate, gate_after=5)


def publish_adapter(directory: Path, given: dict[str, Any]) -> str:
    """A small adapter; `age` in minutes, the rest goes into its manifest."""
    identity = UUID(given.pop("id")) if "id" in given else uuid4()
    adapters = directory / "lora-adapters"
    staging = staging_directory(adapters, identity)
    staging.mkdir(parents=True)
    (staging / "adapter_model.safetensors").write_bytes(safetensors(weights(seed=identity.int % 2**32)))
    base = given.pop("base_model", "scripted-1")
    (staging / "adapter_config.json").write_text(json.dumps(CONFIG | {"base_model_name_or_path": base}))
    training = given.pop("training", {"config": {"epochs": 3, "loraRank": 16}})
    (staging / "training_args.json").write_text(json.dumps(training))
    if given.pop("served", True):
        (staging / "adapter.gguf").write_bytes(b"GGUF" + identity.bytes)
    created = datetime.now(UTC) - timedelta(minutes=given.pop("age", 0))
    manifest = {name: tuple(value) if name == "tags" else value for name, value in given.items()}
    publish(staging, adapters, Manifest(id=identity, created_at=created, base_model=base, **manifest))
    return str(identity)


async def benchmarked(a: UUID, b: UUID) -> RunComparison:
    """What a benchmark of ten questions would say of the two."""
    runs = [
        BenchmarkRun(
            id=uuid4(),
            type="quick",
            mode="proposer",
            suite="default",
            status="completed",
            started_at=datetime.now(UTC),
            adapter_id=one,
        )
        for one in (a, b)
    ]
    better = PairedComparison(n=10, a=6.0, b=7.25, difference=1.25, low=0.5, high=2.0, p=0.01, outcome="better")
    science = PairedComparison(n=2, a=5.0, b=4.5, difference=-0.5, low=-2.0, high=1.0, p=0.8, outcome="inconclusive")
    domains = (DomainComparison(domain="science", quality=science),)
    return RunComparison(a=runs[0], b=runs[1], comparable=True, quality=better, domains=domains)


MERGES = """
import json, pathlib, sys
pathlib.Path(sys.argv[1]).write_bytes(b"GGUF merged")
print(json.dumps({"step": "checking", "share": 0.5}), flush=True)
print(json.dumps({"step": "done", "share": 1.0, "result": json.loads(sys.argv[2])}), flush=True)
"""


class Merging:
    """A backend that merges without weights; it trains nothing."""

    result: dict[str, Any] = {}  # noqa: RUF012 - replaced by a command

    def merge(self, adapter_dir: Path, base_model: str, target: Path, quantization: str) -> WorkerCommand:
        return WorkerCommand(argv=(sys.executable, "-c", MERGES, str(target), json.dumps(self.result)))


async def obey(services: Services, script: Script, merging: Merging) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        do = command.pop("do")
        answer: object = None
        if do == "publish":
            answer = publish_adapter(services.settings.data_path, command)
        elif do == "look":
            tending.LOOK_SECONDS = command.get("every", LOOK_SECONDS)
        elif do == "clear":
            await clear(services)
            script.broken.clear()
        elif do == "traces":
            await add_traces(services, command["number"])
        elif do == "delete":
            await services.lora.delete(UUID(command["id"]))
        elif do == "activate":
            await services.lora.activate(UUID(command["id"]), "api", force=command.get("force", False))
        elif do == "clear-active":
            await services.lora.deactivate("api")
        elif do == "active":
            active = await services.lora.get_active()
            answer = str(active.id) if active else None
        elif do == "spoil":
            file = services.stores.adapters.path(UUID(command["id"])) / "adapter_model.safetensors"
            file.write_bytes(b"x" * file.stat().st_size)
        elif do == "break":
            script.broken.add(command["id"])
        elif do == "serve-adapters":
            runtime = services.runtimes.made(services.workspace.settings.roles.proposer.runtime)
            assert isinstance(runtime, ScriptedRuntime)
            runtime.capabilities = msgspec.structs.replace(runtime.capabilities, adapters=command["on"])
        elif do == "gate":
            await services.lora.set_gate(UUID(command["id"]), command["gate"])
        elif do == "events":
            answer = [(one.operation, one.success, one.note) for one in await services.lora.list_events()]
        elif do == "benchmarked":
            services.lora._benchmarks = benchmarked
        elif do == "merging":
            merging.result = command["result"]
        elif do == "open":
            script.gate.set()
        elif do == "close":
            script.gate = asyncio.Event()
        elif do == "notify":
            subject = command.get("subject")
            await services.notifications.notify(
                command.get("kind", "test"),
                command["level"],
                command["title"],
                command.get("detail", ""),
                command.get("href"),
                UUID(subject) if subject else None,
            )
        elif do == "dismiss-all":
            await services.notifications.dismiss_all()
        say({"done": answer})


async def clear(services: Services) -> None:
    await services.lora.deactivate("api")
    for adapter in await services.lora.list():
        if "stable" in adapter.tags:
            await services.lora.tag(adapter.id, remove=("stable",))
        await services.lora.delete(adapter.id, "api")
    async with services.database.transaction() as connection:
        await connection.execute("DELETE FROM lora_events")


async def serve(directory: Path, port: int) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for answers
    tending.LOOK_SECONDS = live.LOOK_SECONDS = live.NAMES_SECONDS = LOOK_SECONDS
    script = Script()
    runtime = ScriptedRuntime(script=script)
    merging, plugins = Merging(), scripted_plugins(runtime)
    plugins.backends.add(BackendDescriptor(name="merging", summary="merges", create=lambda _: merging), "tests")
    async with open_services(scripted_settings(directory), plugins, serving=True) as services:
        config = uvicorn.Config(
            create_app(services), host="127.0.0.1", port=port, log_level="warning", access_log=False
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                task.result()
                raise SystemExit("the server did not start")
            await asyncio.sleep(0.02)
        say({"url": f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"})
        await obey(services, script, merging)
        server.should_exit = True
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
