"""Examine this environment: versions, the card, and 4 bits. Prints a `ProbeReport` as one JSON line.

The probe imports PyTorch and bitsandbytes but not Axolotl, whose import takes many seconds.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys

import msgspec

from tmde_core.sdk.environments import Lack, ProbeReport
from tmde_core.sdk.records import to_json

PACKAGES = ("torch", "axolotl", "transformers", "peft", "trl", "bitsandbytes", "triton")
NEEDED = ("torch", "axolotl", "transformers", "peft", "safetensors", "msgspec", "psutil")

OLDEST_CAPABILITY = (7, 0)
"""The oldest compute capability (Volta) that Axolotl's libraries support."""

MADE_FOR = "0.19."
"""The version of Axolotl whose trainer and plugins this plugin extends. Others may have changed."""


def examine() -> ProbeReport:
    """Return what this environment has."""
    lacks: list[Lack] = []
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        lacks.append(
            Lack(
                what=f"The environment lacks {', '.join(missing)}.",
                remedy="Install it anew: `tmde backends remove axolotl`, then `tmde backends install axolotl`.",
            )
        )
    version = _version("axolotl")
    if version is not None and not version.startswith(MADE_FOR):
        lacks.append(
            Lack(
                what=f"The environment has Axolotl {version}; TMDE was made for {MADE_FOR}0.",
                remedy="If training fails, install the environment with `tmde backends install axolotl`.",
                fatal=False,
            )
        )
    report = ProbeReport(
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := _version(name))},
        lacks=tuple(lacks),
    )
    if "torch" in missing:
        return report
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        lacks.append(
            Lack(
                what=f"PyTorch finds no NVIDIA card (it is {built}).",
                remedy="With a card: look whether `nvidia-smi` shows it, then install the environment anew.",
                fatal=False,
            )
        )
        lacks.append(Lack(what="Base models cannot be held in 4 bits without a card.", fatal=False))
        return msgspec.structs.replace(report, device="cpu", lacks=tuple(lacks))
    major, minor = torch.cuda.get_device_capability(0)
    card = torch.cuda.get_device_properties(0)
    if (major, minor) < OLDEST_CAPABILITY:
        lacks.append(
            Lack(
                what=f"{card.name} has compute capability {major}.{minor}; Axolotl needs 7.0 or newer.",
                remedy="Train with the backend `cpu`.",
            )
        )
    elif problem := _arithmetic_problem():
        lacks.append(
            Lack(
                what=f"PyTorch cannot compute on {card.name}: {problem}",
                remedy="Update the driver, or install the environment anew.",
            )
        )
    problem = _four_bit_problem()
    if problem:
        lacks.append(
            Lack(
                what=f"bitsandbytes cannot hold weights in 4 bits: {problem}",
                remedy="Install the environment anew; its CUDA version must be that of PyTorch.",
            )
        )
    return msgspec.structs.replace(
        report,
        device="cuda",
        device_name=card.name,
        compute_capability=f"{major}.{minor}",
        memory_bytes=card.total_memory,
        four_bit=not problem,
        lacks=tuple(lacks),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _arithmetic_problem() -> str | None:
    import torch

    try:
        ones = torch.ones(16, 16, device="cuda", dtype=torch.float16)
        return None if float((ones @ ones).sum()) == 16**3 else "a product came out wrong."
    except Exception as error:
        return _short(error)


def _four_bit_problem() -> str | None:
    """Quantise a small matrix on the card, and compare a product with the exact one."""
    import torch

    try:
        from bitsandbytes.nn import Linear4bit

        layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float16, quant_type="nf4").to("cuda")
        found = layer(torch.ones(1, 64, device="cuda", dtype=torch.float16))
        return None if bool(torch.isfinite(found).all()) else "a product is not finite."
    except Exception as error:
        return _short(error)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    sys.stdout.write(f"\n{to_json(examine()).decode()}\n")
