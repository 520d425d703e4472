"""Describe the Python environment of Axolotl: one lock file for each build of PyTorch."""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.environments import EnvironmentSpec, torch_builds

ENVIRONMENT = EnvironmentSpec(
    package="tmde_axolotl",
    probe="tmde_axolotl.probe",
    python=("3.12", "3.11", "3.13"),  # Axolotl needs 3.11
    builds=torch_builds(Path(__file__).parent / "locks", cu130=(3.1, 8.2), cu128=(3.8, 9.2), cpu=(0.8, 2.8)),
)
