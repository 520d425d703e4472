"""The server of the tests of training backends on `/plugins`: the real composition, with environments in every state.

`python -m tests.tmde_ui.plugins.server DATA_DIR`; see `scripted_server.py` for how it is given commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn

from tests.core.backends.tiny import PACKAGE, Backend, make_lock, make_package, tiny_backend
from tests.tmde_ui.scripted_server import say
from tmde_core.backends import service
from tmde_core.backends.building import InstallProgress
from tmde_core.backends.progress import InstallationFile
from tmde_core.plugins import Plugins
from tmde_core.records.base import to_json
from tmde_core.sdk.environments import STAMP_FILE, Environment, EnvironmentStamp, Lack, ProbeReport, TorchBuild
from tmde_core.services import Services, open_services
from tmde_core.storage.durable import hash_file
from tmde_core.storage.locks import FileLock
from tmde_core.testing.scripted import Reply, ScriptedRuntime, scripted_plugins, scripted_settings
from tmde_ui.compose import create_app

CARD = ProbeReport(
    python="3.12.4",
    versions={"torch": "2.13.0+cu130", "unsloth": "2026.10.9", "transformers": "5.17.0", "bitsandbytes": "0.50.2"},
    device="cuda",
    device_name="NVIDIA GeForce RTX 3090",
    compute_capability="8.6",
    memory_bytes=25_300_000_000,
    four_bit=True,
)
LACKING = ProbeReport(
    python="3.12.4",
    versions={"torch": "2.13.0"},
    device="cpu",
    lacks=(
        Lack("The environment lacks peft.", "Install it anew: `tmde backends remove lacking`, then install."),
        Lack("Base models cannot be held in 4 bits without a card.", fatal=False),
    ),
)


class QuickBuild:
    """Takes the place of pip: an environment is a link to this interpreter, made when it is told."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(
        self, directory: Path, build: TorchBuild, python: Any, log: Path, lock: FileLock, niceness: int, tell: Any
    ) -> None:
        tell(InstallProgress(step="Packages", done=1, total=2, detail="tiny-package 1.0"))
        await self.go_on.wait()
        (directory / "bin").mkdir(parents=True)
        (directory / "bin" / "python").symlink_to(sys.executable)
        stamp = EnvironmentStamp(build=build.name, lock_sha256=hash_file(Path(build.lock)), python=python[1])
        (directory / STAMP_FILE).write_bytes(to_json(stamp))


class Elsewhere:
    """What another process that installs leaves to be seen."""

    def __init__(self, envs: Path) -> None:
        self._envs = envs

    async def begin(self) -> None:
        self._file = InstallationFile(self._envs / "mine.progress.json", "mine", "cpu")
        self._failing = asyncio.Event()
        begun = asyncio.Event()
        self._working = asyncio.create_task(self._work(begun))
        await begun.wait()

    async def _work(self, begun: asyncio.Event) -> None:
        with FileLock.acquire(self._envs / ".mine.lock"), contextlib.suppress(service.TmdeError):
            async with self._file.cancellable():
                with self._file.recording_the_end():
                    self.tell(3)
                    begun.set()
                    await self._failing.wait()
                    raise service.PluginUnavailableError(
                        "The step 'Packages' failed: no network. The output is in /log."
                    )

    def tell(self, done: int) -> None:
        self._file.tell(InstallProgress(step="Packages", done=done, total=9, detail="torch, 200 MB"))

    def fail(self) -> None:
        self._failing.set()


def prepare(directory: Path, plugins: Plugins) -> None:
    """Add backends with an environment in every state."""
    envs = directory / "envs"
    mine = tiny_backend(make_lock(directory / "wheelhouse"))
    assert mine.environment_spec is not None
    plugins.backends.add(mine, "tests")
    for name, report in (
        ("card", CARD),
        ("lacking", LACKING),
        ("unseen", None),
        ("halfway", None),
        ("foreign", LACKING),
    ):
        (build,) = mine.environment_spec.builds
        spec = msgspec.structs.replace(
            mine.environment_spec, builds=(msgspec.structs.replace(build, name="cu130", cuda="13.0"), build)
        )
        plugins.backends.add(
            msgspec.structs.replace(
                mine,
                name=name,
                summary="trains LoRA adapters on an NVIDIA card, the base model in 4 bits",
                preference=20 if name == "card" else 1,
                create=lambda context, name=name, spec=spec: Backend(Environment.of(context, name, spec)),
            ),
            "tests",
        )
        environment = Environment(directory, name, spec, sys.executable if name == "foreign" else "")
        if name != "foreign":
            (envs / name).mkdir(parents=True)
        if name not in ("foreign", "halfway"):
            stamp = EnvironmentStamp(build="cu130", lock_sha256=hash_file(Path(build.lock)), python="3.12")
            (envs / name / STAMP_FILE).write_bytes(to_json(stamp))
        if report is not None:
            environment.keep_report(report)
    make_package(directory / "plugin")
    report = '{"python": "3.12.4", "device": "cpu", "versions": {"tiny": "1.0"}}'
    (directory / "plugin" / PACKAGE / "probe.py").write_text(f"print({report!r})")
    sys.path.insert(0, str(directory / "plugin"))
    service.find_driver = lambda: None


async def obey(services: Services, elsewhere: Elsewhere, quick: QuickBuild) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: object = None
        match command["do"]:
            case "begin":
                await elsewhere.begin()
            case "tell":
                elsewhere.tell(command["done"])
            case "fail":
                elsewhere.fail()
            case "go_on":
                quick.go_on.set()
            case "default":
                await services.finetune.set_config({"backend": command["backend"]})
        say({"done": answer})


async def serve(directory: Path) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for answers
    plugins = scripted_plugins(ScriptedRuntime(script=lambda _request: Reply("Yes.")), Plugins())
    prepare(directory, plugins)
    service.build_environment = quick = QuickBuild()
    settings = msgspec.structs.replace(scripted_settings(directory), backends={"foreign": {"python": sys.executable}})
    async with open_services(settings, plugins, serving=True) as services:
        config = uvicorn.Config(create_app(services), host="127.0.0.1", port=0, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            if task.done():
                task.result()
                raise SystemExit("the server did not start")
            await asyncio.sleep(0.02)
        say({"url": f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"})
        await obey(services, Elsewhere(directory / "envs"), quick)
        server.should_exit = True
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
