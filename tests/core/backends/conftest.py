"""A backend whose environment has one tiny package, so that installing takes seconds and needs no network."""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tmde_core.backends.service import BackendEnvironments
from tmde_core.plugins import Plugins
from tmde_core.sdk.environments import Environment, EnvironmentSettings, EnvironmentSpec, TorchBuild
from tmde_core.sdk.runtimes import Availability
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.settings import load_settings

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
    folder.mkdir(exist_ok=True)
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


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_wheel(tmp_path / "wheels", "1.0")
    make_wheel(tmp_path / "wheels", "2.0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    file = tmp_path / "lock.txt"
    file.write_text("# one package\ntiny-package==1.0\n")
    return file


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The plugin's package, with its probe."""
    folder = tmp_path / "plugin" / "tiny_plugin"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()
    yield "tiny_plugin"
    sys.modules.pop("tiny_plugin", None)


@pytest.fixture
def environments(tmp_path: Path, lock: Path, package: str) -> Callable[..., BackendEnvironments]:
    """Make the service. `settings` are those of the backend `mine`."""

    def make(disk_bytes: int = 1, **settings: str) -> BackendEnvironments:
        spec = EnvironmentSpec(
            package=package,
            probe=f"{package}.probe",
            python=("3.11", "3.12", "3.13", "3.14"),
            builds=(TorchBuild(name="cpu", lock=str(lock), download_bytes=1, disk_bytes=disk_bytes),),
        )
        plugins = Plugins()
        plugins.backends.add(
            BackendDescriptor(
                name="mine",
                summary="trains",
                settings=EnvironmentSettings,
                environment_spec=spec,
                preference=1,
                create=lambda context: Backend(Environment.of(context, "mine", spec)),
            ),
            "tests",
        )
        plugins.backends.add(
            BackendDescriptor(
                name="plain", summary="trains", default=True, create=lambda _: Backend(Environment(tmp_path, "", spec))
            ),
            "tests",
        )
        found = load_settings(tmp_path / "data", environ={})
        found = msgspec.structs.replace(found, backends={"mine": dict(settings)})
        return BackendEnvironments(plugins, lambda: found)

    return make
