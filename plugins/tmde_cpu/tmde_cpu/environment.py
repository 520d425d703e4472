"""Describe the Python environment of training: PyTorch, transformers and PEFT, which nothing else here needs.

TMDE's own environment is used if it has these packages, as after `./run setup`.
"""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.environments import EnvironmentSettings, EnvironmentSpec, InstallMode, TorchBuild

MEGABYTE = 1_000_000

ENVIRONMENT = EnvironmentSpec(
    package="tmde_cpu",
    probe="tmde_cpu.probe",
    python=("3.12", "3.11", "3.13", "3.14"),  # numpy of the lock file needs 3.11
    builds=(
        TorchBuild(
            name="cpu",
            lock=str(Path(__file__).parent / "locks" / "cpu.txt"),
            index="https://download.pytorch.org/whl/cpu",
            download_bytes=290 * MEGABYTE,
            disk_bytes=1_200 * MEGABYTE,
        ),
    ),
    own={"torch": "2.6", "transformers": "5.23", "peft": "0.18"},
)


class CpuSettings(EnvironmentSettings, frozen=True, kw_only=True):
    """Settings of the backend `cpu`."""

    install: InstallMode = "automatic"
    """When the packages of training are installed."""
