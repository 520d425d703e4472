"""Describe the Python environment of Axolotl: one lock file for each build of PyTorch."""

from __future__ import annotations

from pathlib import Path

from tmde_core.sdk.environments import EnvironmentSpec, TorchBuild

_LOCKS = Path(__file__).parent / "locks"

GIGABYTE = 1_000_000_000

ENVIRONMENT = EnvironmentSpec(
    package="tmde_axolotl",
    probe="tmde_axolotl.probe",
    python=("3.12", "3.11", "3.13"),  # Axolotl needs 3.11
    builds=(
        TorchBuild(
            name="cu130",
            lock=str(_LOCKS / "cu130.txt"),
            cuda="13.0",
            index="https://download.pytorch.org/whl/cu130",
            download_bytes=int(3.1 * GIGABYTE),
            disk_bytes=int(8.2 * GIGABYTE),
        ),
        TorchBuild(
            name="cu128",
            lock=str(_LOCKS / "cu128.txt"),
            # Within CUDA 12, a driver runs what was built for a later minor version (NVIDIA's minor version
            # compatibility). PyTorch has no build of this age for CUDA 11.
            cuda="12.0",
            index="https://download.pytorch.org/whl/cu128",
            download_bytes=int(3.8 * GIGABYTE),
            disk_bytes=int(9.2 * GIGABYTE),
        ),
        TorchBuild(
            name="cpu",
            lock=str(_LOCKS / "cpu.txt"),
            index="https://download.pytorch.org/whl/cpu",
            download_bytes=int(0.8 * GIGABYTE),
            disk_bytes=int(2.8 * GIGABYTE),
        ),
    ),
)
