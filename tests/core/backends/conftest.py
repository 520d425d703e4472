"""The service of environments, with a backend that has one tiny package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from tests.core.backends.tiny import PACKAGE, make_lock, make_package, pip_variables, tiny_backend
from tmde_core.backends.service import BackendEnvironments
from tmde_core.plugins import Plugins
from tmde_core.records.runtimes import Availability
from tmde_core.sdk.training import BackendDescriptor
from tmde_core.settings import load_settings


class Plain:
    """A backend that needs no environment of its own."""

    def availability(self) -> Availability:
        return Availability(ok=True)


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in pip_variables(tmp_path / "wheels").items():
        monkeypatch.setenv(name, value)
    return make_lock(tmp_path)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The plugin's package, with its probe."""
    make_package(tmp_path / "plugin")
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    importlib.invalidate_caches()
    yield PACKAGE
    sys.modules.pop(PACKAGE, None)


@pytest.fixture
def environments(tmp_path: Path, lock: Path, package: str) -> Callable[..., BackendEnvironments]:
    """Make the service. `settings` are those of the backend `mine`."""

    def make(disk_bytes: int = 1, own: Mapping[str, str] | None = None, **settings: str) -> BackendEnvironments:
        plugins = Plugins()
        plugins.backends.add(tiny_backend(lock, disk_bytes, own), "tests")
        plugins.backends.add(
            BackendDescriptor(name="plain", summary="trains", default=True, create=lambda _: Plain()), "tests"
        )
        found = load_settings(tmp_path / "data", environ={})
        found = msgspec.structs.replace(found, backends={"mine": dict(settings)})
        return BackendEnvironments(plugins, lambda: found)

    return make
