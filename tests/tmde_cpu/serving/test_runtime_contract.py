"""What must hold of every runtime holds of the embedded one, on the real model."""

from pathlib import Path

import pytest

from tmde_core.testing import make_context
from tmde_core.testing.contracts import ServedModelContract
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime

pytestmark = pytest.mark.slow


class TestContract(ServedModelContract):
    def runtime(self, tmde_data_dir: Path, embedded_model: Path) -> EmbeddedRuntime:
        (tmde_data_dir / "models").mkdir()
        (tmde_data_dir / "models" / embedded_model.name).symlink_to(embedded_model)
        return EmbeddedRuntime(make_context(EmbeddedSettings, tmde_data_dir))
