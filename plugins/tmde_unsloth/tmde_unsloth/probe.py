"""Examine this environment: versions, the card, and 4 bits. Prints a `ProbeReport` as one JSON line.

The probe imports PyTorch and bitsandbytes but not Unsloth, whose import takes half a minute.
"""

from __future__ import annotations

from tmde_core.sdk.environments import ProbeReport
from tmde_core.sdk.probing import examine_card, examine_packages, print_report

NEEDED = ("torch", "unsloth", "unsloth_zoo", "transformers", "peft", "safetensors", "msgspec", "psutil")
SHOWN = ("torch", "unsloth", "unsloth_zoo", "transformers", "peft", "trl", "bitsandbytes", "triton")

OLDEST_CAPABILITY = (7, 0)
"""The oldest compute capability (Volta) that Unsloth supports."""


def examine() -> ProbeReport:
    """Return what this environment has."""
    return examine_card(examine_packages("unsloth", NEEDED, SHOWN), "Unsloth", OLDEST_CAPABILITY)


if __name__ == "__main__":
    print_report(examine())
