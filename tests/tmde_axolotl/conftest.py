"""The environment of Axolotl, built by `./run test backends`. Tests that need it are skipped where it is not built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tmde_core.sdk.environments import Environment, EnvironmentSpec

REPOSITORY = Path(__file__).parents[2]
BACKENDS_HOME = Path(os.environ.get("TMDE_BACKENDS_DIR") or REPOSITORY / ".backends")
"""The data directory whose environments the tests use."""


@pytest.fixture(scope="session")
def axolotl_python() -> str:
    """The interpreter of Axolotl's environment."""
    unbuilt = EnvironmentSpec(package="tmde_axolotl", probe="tmde_axolotl.probe", builds=())
    environment = Environment(BACKENDS_HOME, "axolotl", unbuilt)
    if environment.stamp() is None:
        pytest.skip("The environment of Axolotl is not built: `./run test backends` builds it.")
    return str(environment.interpreter)
