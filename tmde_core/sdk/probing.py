"""What the probe of a training environment examines: packages, PyTorch, the card, and 4 bits.

A probe is a module that prints a `ProbeReport`. It runs in the environment of the backend.

    def examine() -> ProbeReport:
        return examine_card(examine_packages("mine", NEEDED, ("trl",)), "My Library", oldest=(7, 0))

    if __name__ == "__main__":
        print_report(examine())
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Sequence

import msgspec

from tmde_core.records.base import to_json
from tmde_core.sdk.environments import Lack, ProbeReport

__all__ = [
    "add_lacks",
    "examine_card",
    "examine_packages",
    "find_arithmetic_problem",
    "find_four_bit_problem",
    "package_version",
    "print_report",
]


def examine_packages(backend: str, needed: Sequence[str], more: Sequence[str] = ()) -> ProbeReport:
    """Return a report of the versions of packages. A needed package that is missing is a fatal lack. None is imported.

    Args:
        backend: the name of the backend.
        needed: the packages without which it cannot train.
        more: further packages whose versions are of interest.
    """
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    report = ProbeReport(
        python=platform.python_version(),
        versions={name: found for name in dict.fromkeys((*needed, *more)) if (found := package_version(name))},
    )
    if not missing:
        return report
    remedy = f"Install it anew: `tmde backends remove {backend}`, then `tmde backends install {backend}`."
    return add_lacks(report, Lack(what=f"The environment lacks {', '.join(missing)}.", remedy=remedy))


def examine_card(report: ProbeReport, title: str, oldest: tuple[int, int]) -> ProbeReport:
    """Return the report with what PyTorch says of the first card, and with what is wrong with it.

    Args:
        report: the report of `examine_packages`. Nothing is examined if it has no PyTorch.
        title: the name of the library, for people.
        oldest: the oldest compute capability that the library supports, such as (7, 0).
    """
    if importlib.util.find_spec("torch") is None:
        return report
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        no_card = Lack(
            what=f"PyTorch finds no NVIDIA card (it is {built}).",
            remedy="With a card: look whether `nvidia-smi` shows it, then install the environment anew.",
            fatal=False,
        )
        no_four_bit = Lack(what="Base models cannot be held in 4 bits without a card.", fatal=False)
        return msgspec.structs.replace(add_lacks(report, no_card, no_four_bit), device="cpu")
    major, minor = torch.cuda.get_device_capability(0)
    card = torch.cuda.get_device_properties(0)
    lacks: list[Lack] = []
    if (major, minor) < oldest:
        lacks.append(
            Lack(
                what=f"{card.name} has compute capability {major}.{minor}; {title} needs {oldest[0]}.{oldest[1]} or newer.",
                remedy="Train with the backend `cpu`.",
            )
        )
    elif problem := find_arithmetic_problem("cuda"):
        lacks.append(
            Lack(
                what=f"PyTorch cannot compute on {card.name}: {problem}",
                remedy="Update the driver, or install the environment anew.",
            )
        )
    four_bit = find_four_bit_problem()
    if four_bit:
        lacks.append(
            Lack(
                what=f"bitsandbytes cannot hold weights in 4 bits: {four_bit}",
                remedy="Install the environment anew; its CUDA version must be that of PyTorch.",
            )
        )
    return msgspec.structs.replace(
        add_lacks(report, *lacks),
        device="cuda",
        device_name=card.name,
        compute_capability=f"{major}.{minor}",
        memory_bytes=card.total_memory,
        four_bit=not four_bit,
    )


def find_arithmetic_problem(device: str) -> str | None:
    """Compute a small product with PyTorch, and return what is wrong with it; None if it is right.

    Args:
        device: `cuda` or `cpu`.
    """
    try:
        import torch

        ones = torch.ones(16, 16, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
        return None if float((ones @ ones).sum()) == 16**3 else "a product came out wrong."
    except Exception as error:
        return _short(error)


def find_four_bit_problem() -> str | None:
    """Quantise a small matrix on the card with bitsandbytes, and return what is wrong with it; None if it works."""
    try:
        import torch
        from bitsandbytes.nn import Linear4bit

        layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.float16, quant_type="nf4").to("cuda")
        found = layer(torch.ones(1, 64, device="cuda", dtype=torch.float16))
        return None if bool(torch.isfinite(found).all()) else "a product is not finite."
    except Exception as error:
        return _short(error)


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def add_lacks(report: ProbeReport, *lacks: Lack) -> ProbeReport:
    """Return a report with further lacks."""
    return msgspec.structs.replace(report, lacks=(*report.lacks, *lacks))


def print_report(report: ProbeReport) -> None:
    """Print a report as TMDE reads it: as one line of its own."""
    sys.stdout.write(f"\n{to_json(report).decode()}\n")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
