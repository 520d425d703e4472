"""The server of the training page's tests: the real composition, with a backend whose worker pretends.

`python -m tests.tmde_ui.finetune.server DATA_DIR [PORT]`; see `scripted_server.py` for how it is given commands.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

import msgspec
import structlog
import uvicorn

from tests.core.backends.tiny import make_lock
from tests.core.finetune.supervision.waiting_plugin import write_plugin
from tests.tmde_ui.scripted_server import add_traces, say
from tmde_core.backends.building import InstallProgress
from tmde_core.backends.progress import InstallationFile
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.runtimes import Availability
from tmde_core.records.training import ResourceEstimate, TrainingJob, WorkerCommand
from tmde_core.sdk.environments import EnvironmentSettings, InstallMode
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.services import Services, open_services
from tmde_core.storage.locks import FileLock
from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings
from tmde_ui.compose import create_app

WORKER = Path(__file__).with_name("pretend_trainer.py")


class PretendBackend:
    """Trains nothing, as slowly as it is told."""

    def __init__(self, lacking: str = "") -> None:
        self._availability = Availability(ok=not lacking, reason=lacking)

    def availability(self) -> Availability:
        return self._availability

    def estimate(self, job: TrainingJob) -> ResourceEstimate:
        return ResourceEstimate()

    def plan(self, job: TrainingJob) -> WorkerCommand:
        return self._command("train", job)

    def preview(self, job: TrainingJob) -> WorkerCommand:
        return self._command("preview", job)

    def _command(self, what: str, job: TrainingJob) -> WorkerCommand:
        return WorkerCommand(argv=(sys.executable, str(WORKER), what, str(Path(job.run_dir) / "job.json")))


class Automatic(EnvironmentSettings, frozen=True, kw_only=True):
    """Settings of a backend whose packages the server installs by itself."""

    install: InstallMode = "automatic"


class Elsewhere:
    """A backend whose packages another process seems to install."""

    def __init__(self, directory: Path, services: Services) -> None:
        write_plugin(directory / "plugin", make_lock(directory))
        os.environ["PYTHONPATH"] = f"{directory / 'plugin'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        sys.path.insert(0, str(directory / "plugin"))
        descriptor = importlib.import_module("waiting_plugin.plugin").tmde_training_backends()[0]
        services.plugins.backends.add(msgspec.structs.replace(descriptor, settings=Automatic), "tests")
        envs = directory / "envs"
        envs.mkdir()
        self._lock = FileLock.acquire(envs / ".waiting.lock")
        self._file = InstallationFile(envs / "waiting.progress.json", "waiting", "cpu")

    def tell(self, done: int) -> None:
        self._file.tell(InstallProgress(step="Packages", done=done, total=9, detail="torch, 200 MB"))

    def end(self) -> None:
        """End as a killed process does."""
        self._lock.release()


async def obey(services: Services, directory: Path) -> None:
    loop = asyncio.get_running_loop()
    elsewhere: Elsewhere | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer: object = None
        if command["do"] == "traces":
            await add_traces(services, command["number"])
        elif command["do"] == "place":
            msgspec.structs.force_setattr(services.settings.supervisor, "place", command["place"])
        elif command["do"] == "start":
            answer = str((await services.finetune.start(triggered_by=command.get("by", "api"))).id)
        elif command["do"] == "settled":
            if (run := await services.finetune.get_current()) is not None:
                await services.finetune.wait(run.id)
        elif command["do"] == "install":
            elsewhere = elsewhere or Elsewhere(directory, services)
            elsewhere.tell(command["done"])
        elif command["do"] == "end_install":
            assert elsewhere is not None
            elsewhere.end()
        elif command["do"] == "config":
            answer = services.finetune.config().lora_rank
        say({"done": answer})


async def serve(directory: Path, port: int) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for answers
    plugins = scripted_plugins(ScriptedRuntime())
    plugins.backends.add(
        BackendDescriptor(name="pretend", summary="Trains nothing.", create=lambda _: PretendBackend()), "tests"
    )
    lacking = "No graphics card is installed."
    plugins.backends.add(
        BackendDescriptor(name="lacking", summary="Would be fast.", create=lambda _: PretendBackend(lacking)), "tests"
    )
    async with open_services(scripted_settings(directory), plugins, serving=True) as services:
        if services.finetune.config().backend != "pretend":
            await services.finetune.set_config(FineTuneConfig(backend="pretend", min_traces=20))
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
        await obey(services, directory)
        server.should_exit = True
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
