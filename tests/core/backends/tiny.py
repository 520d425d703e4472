"""A training backend whose environment has one tiny package, so that installing takes seconds and needs no network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tmde_core.sdk.environments import Environment, EnvironmentSettings, EnvironmentSpec, TorchBuild
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import BackendDescriptor

PACKAGE = "tiny_plugin"
PROBE = """
import sys
import tiny_package
report = '{"python": "3", "device": "cpu", "versions": {"tiny": "%s"}, "lacks": []}'
sys.stdout.write("noise\\n" + report % tiny_package.VERSION + "\\n")
"""


class Backend:
    """A backend that is available when its environment is."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def availability(self) -> Availability:
        return self.environment.availability()


def make_wheel(folder: Path, version: str) -> None:
    """Write a wheel of `tiny_package`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"tiny_package-{version}.dist-info"
    files = {
        "tiny_package.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-package\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}\n"
        for name, text in files.items()
    )
    with zipfile.ZipFile(folder / f"tiny_package-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in (*files.items(), (f"{info}/RECORD", f"{record}{info}/RECORD,,\n")):
            wheel.writestr(name, text)


def pip_variables(wheels: Path) -> dict[str, str]:
    """Return the environment variables with which pip takes packages from a directory only."""
    return {"PIP_FIND_LINKS": str(wheels), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}


def make_lock(folder: Path) -> Path:
    """Write a lock file and the wheels of two versions, in `wheels` of the folder."""
    make_wheel(folder / "wheels", "1.0")
    make_wheel(folder / "wheels", "2.0")
    lock = folder / "lock.txt"
    lock.write_text("# one package\ntiny-package==1.0\n")
    return lock


def make_package(folder: Path) -> None:
    """Write the plugin's package, with its probe. The folder must be on the path of Python."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "probe.py").write_text(PROBE)


def tiny_backend(lock: Path, disk_bytes: int = 1, own: Mapping[str, str] | None = None) -> BackendDescriptor:
    """Return the backend `mine`. `own`: the packages with which its workers run in TMDE's own environment."""
    spec = EnvironmentSpec(
        package=PACKAGE,
        probe=f"{PACKAGE}.probe",
        python=("3.11", "3.12", "3.13", "3.14"),
        builds=(TorchBuild(name="cpu", lock=str(lock), download_bytes=1, disk_bytes=disk_bytes),),
        own=own or {},
    )
    return BackendDescriptor(
        name="mine",
        summary="trains",
        settings=EnvironmentSettings,
        environment_spec=spec,
        preference=1,
        create=lambda context: Backend(Environment.of(context, "mine", spec)),
    )
