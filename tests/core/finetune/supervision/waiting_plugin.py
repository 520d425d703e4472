"""A plugin whose workers need an environment of their own, found by every process through an entry point on the path.

Its environment has one tiny package, so that installing takes seconds and needs no network. Its worker says where it
runs, and fails.
"""

from __future__ import annotations

from pathlib import Path

PLUGIN = """
from pathlib import Path

from tmde_core.sdk import hookimpl
from tmde_core.sdk.environments import Environment, EnvironmentSettings, EnvironmentSpec, InstallMode, TorchBuild
from tmde_core.sdk.training import BackendDescriptor, ResourceEstimate, WorkerCommand

SPEC = EnvironmentSpec(
    package="waiting_plugin",
    probe="waiting_plugin.probe",
    python=("3.11", "3.12", "3.13", "3.14"),
    builds=(TorchBuild(name="cpu", lock={lock!r}, download_bytes=1, disk_bytes=1),),
)


class OnDemand(EnvironmentSettings, frozen=True, kw_only=True):
    install: InstallMode = "on-demand"


class Backend:
    def __init__(self, context):
        self.environment = Environment.of(context, "waiting", SPEC)

    def availability(self):
        return self.environment.availability()

    def estimate(self, job):
        return ResourceEstimate()

    def plan(self, job):
        return WorkerCommand(argv=(str(self.environment.interpreter), {worker!r}), env=dict(self.environment.variables))

    def preview(self, job):
        return self.plan(job)


@hookimpl
def tmde_training_backends():
    return [
        BackendDescriptor(
            name="waiting", summary="waits", settings=OnDemand, environment_spec=SPEC, create=lambda context: Backend(context)
        )
    ]
"""

PROBE = """
import sys
sys.stdout.write('{"python": "3", "device": "cpu", "lacks": []}')
"""

WORKER = """
import sys, tiny_package
sys.stderr.write(f"It ran in {sys.prefix} with version {tiny_package.VERSION}.\\n")
sys.exit(1)
"""


def write_plugin(folder: Path, lock: Path) -> None:
    """Write the plugin, installed: with the entry point by which TMDE finds it."""
    package, info = folder / "waiting_plugin", folder / "waiting_plugin-1.0.dist-info"
    for directory in (package, info):
        directory.mkdir(parents=True)
    worker = package / "worker.py"
    (package / "__init__.py").touch()
    (package / "plugin.py").write_text(PLUGIN.format(lock=str(lock), worker=str(worker)))
    (package / "probe.py").write_text(PROBE)
    worker.write_text(WORKER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tmde.plugins]\nwaiting = waiting_plugin.plugin\n")
