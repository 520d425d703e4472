"""Every example passes `tmde plugins check`: the contracts that hold for what it provides."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.examples_environment import PACKAGES, Environment, make_environment


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment into which pip has installed the examples."""
    return make_environment(tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_an_example_passes_its_contracts(package: Path, environment: Environment, tiny_model: Path, tmp_path: Path):
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name,) = project["entry-points"]["tmde.plugins"]
    checked = environment.tmde("plugins", "check", name, "--base-model", str(tiny_model), data_dir=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
