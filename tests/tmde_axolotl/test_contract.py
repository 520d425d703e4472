"""Axolotl's real worker in its own environment, through its CPU fallback, held to the rules of every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tmde_axolotl.support import make_backend
from tmde_axolotl.backend import AxolotlBackend
from tmde_core.testing.contracts import TrainingBackendContract

pytestmark = [pytest.mark.backends, pytest.mark.slow]


class TestAxolotl(TrainingBackendContract):
    name = "axolotl"

    def backend(self, tmde_data_dir: Path, axolotl_python: str) -> AxolotlBackend:
        return make_backend(tmde_data_dir, axolotl_python)

    def base_model(self, tiny_model: Path) -> str:
        return str(tiny_model)
