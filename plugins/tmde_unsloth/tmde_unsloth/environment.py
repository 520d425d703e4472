"""Describe the Python environment of Unsloth: one lock file for each build of PyTorch."""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.environments import EnvironmentSpec, torch_builds

ENVIRONMENT = EnvironmentSpec(
    package="tmde_unsloth",
    probe="tmde_unsloth.probe",
    python=("3.12", "3.11", "3.13"),  # numpy and pandas of the lock files need 3.11
    builds=torch_builds(Path(__file__).parent / "locks", cu130=(2.8, 7.5), cu128=(3.5, 8.5), cpu=(0.4, 1.8)),
)
