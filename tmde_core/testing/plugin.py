"""Provide the pytest plugin `tmde`: fixtures for tests of plugins.

pytest imports this module in every run where TMDE is installed. Therefore the module imports nothing of TMDE until a
fixture is used, and every name that it adds contains `tmde`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tmde_core.sdk.context import PluginContext, PluginSettings

__all__ = ["pytest_addoption", "tmde_base_model", "tmde_context", "tmde_data_dir"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--tmde-base-model`."""
    parser.getgroup("tmde").addoption(
        "--tmde-base-model",
        metavar="PATH",
        default=None,
        help="the base model that contracts of training backends train; without one they train nothing",
    )


@pytest.fixture
def tmde_data_dir(tmp_path: Path) -> Path:
    """Return an empty data directory."""
    path = tmp_path / "tmde"
    path.mkdir()
    return path


@pytest.fixture
def tmde_context(tmde_data_dir: Path) -> Callable[..., PluginContext[Any]]:
    """Return a function that makes a context on an empty data directory: `tmde_context(MySettings, per_point=50)`."""

    def make(settings: type[PluginSettings] | None = None, **values: Any) -> PluginContext[Any]:
        from tmde_core.testing.contexts import make_context

        return make_context(settings, tmde_data_dir, **values)

    return make


@pytest.fixture(scope="session")
def tmde_base_model(request: pytest.FixtureRequest) -> str | None:
    """Return the value of `--tmde-base-model`."""
    chosen: str | None = request.config.getoption("--tmde-base-model")
    return chosen
