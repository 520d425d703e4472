"""Examine this environment: versions, and whether PyTorch computes. Prints a `ProbeReport` as one JSON line."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from tmde_core.sdk.environments import Lack, ProbeReport
from tmde_core.sdk.records import to_json

NEEDED = ("torch", "transformers", "peft", "safetensors", "gguf", "numpy")
REMEDY = "Install it anew: `tmde backends remove cpu`, then `tmde backends install cpu`."


def examine() -> ProbeReport:
    """Return what this environment has."""
    versions = {name: found for name in NEEDED if (found := _version(name))}
    missing = [name for name in NEEDED if name not in versions]
    lacks: tuple[Lack, ...] = ()
    if missing:
        lacks = (Lack(what=f"The environment lacks {', '.join(missing)}.", remedy=REMEDY),)
    elif problem := _problem():
        lacks = (Lack(what=f"PyTorch does not work: {problem}", remedy=REMEDY),)
    return ProbeReport(python=platform.python_version(), versions=versions, device="" if lacks else "cpu", lacks=lacks)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _problem() -> str | None:
    """Compute something small and compare it with the exact result."""
    try:
        import torch

        ones = torch.ones(16, 16)
        return None if float((ones @ ones).sum()) == 16**3 else "a product came out wrong."
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    sys.stdout.write(f"\n{to_json(examine()).decode()}\n")
