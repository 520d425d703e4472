"""Make the backend as `create` makes it, on an environment that counts as examined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tmde_core.sdk.environments import Environment, Lack, ProbeReport
from tmde_core.sdk.model_shape import Shape
from tmde_core.testing import make_context
from tmde_unsloth.backend import UnslothBackend
from tmde_unsloth.environment import ENVIRONMENT
from tmde_unsloth.options import UnslothSettings

NO_CARD = ProbeReport(python="3.11", device="cpu", lacks=(Lack(what="There is no card.", fatal=False),))
CARD = ProbeReport(
    python="3.12",
    device="cuda",
    device_name="NVIDIA GeForce RTX 3090",
    compute_capability="8.6",
    memory_bytes=24 * 1024**3,
    four_bit=True,
)

MEASURED = Shape(hidden=2048, inner=8192, layers=16, attention=2048, keys=512, vocabulary=49_152, tied=True)
"""The Llama of 1.07 billion weights whose memory and speed were measured on an H100."""


def make_backend(data_dir: Path, python: str, report: ProbeReport | None = NO_CARD, **settings: Any) -> UnslothBackend:
    """Return the backend. `report` is what its probe has found."""
    values = {"allow_cpu": True, **settings}
    context = make_context(UnslothSettings, data_dir, table="backends.unsloth", python=python, **values)
    if report is not None:
        Environment.of(context, "unsloth", ENVIRONMENT).keep_report(report)
    return UnslothBackend(context)
