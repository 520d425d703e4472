"""Unsloth's real worker in its own environment, through its CPU fallback, held to the rules of every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tmde_unsloth.support import make_backend
from tmde_core.testing.contracts import TrainingBackendContract
from tmde_unsloth.backend import UnslothBackend

pytestmark = [pytest.mark.backends, pytest.mark.slow]


class TestUnsloth(TrainingBackendContract):
    name = "unsloth"

    def backend(self, tmde_data_dir: Path, unsloth_python: str) -> UnslothBackend:
        return make_backend(tmde_data_dir, unsloth_python)

    def base_model(self, tiny_model: Path) -> str:
        return str(tiny_model)
