"""Examine this environment: versions, the card, and 4 bits. Prints a `ProbeReport` as one JSON line.

The probe imports PyTorch and bitsandbytes but not Axolotl, whose import takes many seconds.
"""

from __future__ import annotations

from tmde_core.sdk.environments import Lack, ProbeReport
from tmde_core.sdk.probing import add_lacks, examine_card, examine_packages, print_report

NEEDED = ("torch", "axolotl", "transformers", "peft", "safetensors", "msgspec", "psutil")
SHOWN = ("torch", "axolotl", "transformers", "peft", "trl", "bitsandbytes", "triton")

OLDEST_CAPABILITY = (7, 0)
"""The oldest compute capability (Volta) that Axolotl's libraries support."""

MADE_FOR = "0.19."
"""The version of Axolotl whose trainer and plugins this plugin extends. Others may have changed."""


def examine() -> ProbeReport:
    """Return what this environment has."""
    return examine_card(_with_version(examine_packages("axolotl", NEEDED, SHOWN)), "Axolotl", OLDEST_CAPABILITY)


def _with_version(report: ProbeReport) -> ProbeReport:
    version = report.versions.get("axolotl")
    if version is None or version.startswith(MADE_FOR):
        return report
    other = Lack(
        what=f"The environment has Axolotl {version}; TMDE was made for {MADE_FOR}0.",
        remedy="If training fails, install the environment with `tmde backends install axolotl`.",
        fatal=False,
    )
    return add_lacks(report, other)


if __name__ == "__main__":
    print_report(examine())
