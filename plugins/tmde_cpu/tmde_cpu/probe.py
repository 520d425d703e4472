"""Examine this environment: versions, and whether PyTorch computes. Prints a `ProbeReport` as one JSON line."""

from __future__ import annotations

import msgspec

from tmde_core.sdk.environments import Lack, ProbeReport
from tmde_core.sdk.probing import add_lacks, examine_packages, find_arithmetic_problem, print_report

NEEDED = ("torch", "transformers", "peft", "safetensors", "gguf", "numpy")
REMEDY = "Install it anew: `tmde backends remove cpu`, then `tmde backends install cpu`."


def examine() -> ProbeReport:
    """Return what this environment has."""
    report = examine_packages("cpu", NEEDED)
    if report.lacks:
        return report
    if problem := find_arithmetic_problem("cpu"):
        return add_lacks(report, Lack(what=f"PyTorch does not work: {problem}", remedy=REMEDY))
    return msgspec.structs.replace(report, device="cpu")


if __name__ == "__main__":
    print_report(examine())
