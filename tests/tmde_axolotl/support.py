"""Make the backend as `create` makes it, on an environment that counts as examined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tmde_axolotl.backend import AxolotlBackend
from tmde_axolotl.environment import ENVIRONMENT
from tmde_axolotl.options import AxolotlSettings
from tmde_core.sdk.environments import Environment, Lack, ProbeReport
from tmde_core.testing import make_context

NO_CARD = ProbeReport(python="3.11", device="cpu", lacks=(Lack(what="There is no card.", fatal=False),))
CARD = ProbeReport(
    python="3.12",
    device="cuda",
    device_name="NVIDIA GeForce RTX 3090",
    compute_capability="8.6",
    memory_bytes=24 * 1024**3,
    four_bit=True,
)


def make_backend(data_dir: Path, python: str, report: ProbeReport | None = NO_CARD, **settings: Any) -> AxolotlBackend:
    """Return the backend. `report` is what its probe has found."""
    values = {"allow_cpu": True, **settings}
    context = make_context(AxolotlSettings, data_dir, table="backends.axolotl", python=python, **values)
    if report is not None:
        Environment.of(context, "axolotl", ENVIRONMENT).keep_report(report)
    return AxolotlBackend(context)
