"""Fixtures that every folder of tests may ask for.

Each test has a data directory of its own. The only thing shared is the embedded model, which is fetched once and linked.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tmde_core.settings import ENVIRONMENT, Settings, load_settings

if TYPE_CHECKING:
    from tmde_core.services import Services

# How long an example takes says nothing about right and wrong, on a machine that does other things beside.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")

# Tests start hundreds of processes; each would compile the modules of TMDE anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

REPOSITORY = Path(__file__).parents[1]
MODELS_HOME = Path(os.environ.get("TMDE_DATA_DIR") or REPOSITORY / "data")
"""Where `./run` keeps the embedded model."""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches a test."""
    for name in ("TMDE_DATA_DIR", *ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The embedded model's GGUF file, where `./run` keeps it, fetched if need be."""
    from tmde_cpu.embedded import fetch_embedded

    models = MODELS_HOME / "models"
    models.mkdir(parents=True, exist_ok=True)
    with (models / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist starts several sessions at once
        return fetch_embedded(models)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of a few thousand parameters, made once for all workers of pytest-xdist. Not to be changed."""
    from tmde_cpu.testing import make_tiny_model

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = shared / "tiny"
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make_tiny_model(shared / "tiny-draft").rename(made)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The shipped settings on an empty data directory."""
    return load_settings(tmp_path / "data", environ={})


@pytest.fixture
async def services(settings: Settings, embedded_model: Path) -> AsyncIterator[Services]:
    """Every service on an empty data directory, with the real plugins and the real embedded model at hand."""
    from tmde_core.services import open_services

    link_models(settings.data_path)
    async with open_services(settings) as opened:
        yield opened


@pytest.fixture
async def fake_services(tmp_path: Path) -> AsyncIterator[Services]:
    """Every service on an empty data directory; every role is played by the runtime called "scripted".

    The runtime itself is `services.runtimes.made("scripted")`. The shipped plugins are there as well.
    """
    from tmde_core.plugins import Plugins
    from tmde_core.services import open_services
    from tmde_core.testing.scripted import ScriptedRuntime, scripted_plugins, scripted_settings

    directory = tmp_path / "data"
    directory.mkdir()
    plugins = scripted_plugins(ScriptedRuntime(), Plugins.load())
    async with open_services(scripted_settings(directory), plugins) as opened:
        yield opened


def link_models(data_dir: Path) -> None:
    """Let a test's data directory use the shared model files."""
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "models").symlink_to(MODELS_HOME / "models", target_is_directory=True)
