"""Asks the NVIDIA driver what it supports, and chooses the packages that fit. No CUDA library is loaded."""

from __future__ import annotations

import re
import subprocess

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record
from tmde_core.sdk.environments import EnvironmentSpec, TorchBuild, version_tuple

__all__ = ["Driver", "choose_build", "find_driver"]

ASK_SECONDS = 20.0
"""The time limit for `nvidia-smi`. It takes seconds when the driver is loaded for the first time."""

_CUDA = re.compile(r"CUDA(?: UMD)? Version\s*:\s*(\d+\.\d+)")
_DRIVER = re.compile(r"(?:Driver|KMD) Version\s*:\s*([\d.]+)")


class Driver(Record, frozen=True):
    """The NVIDIA driver of this machine."""

    version: str
    cuda: str
    """The newest CUDA version that it supports, such as `12.8`."""


def find_driver() -> Driver | None:
    """Return the NVIDIA driver; None if there is none or no card."""
    try:
        told = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return read_driver(told.stdout) if told.returncode == 0 else None


def read_driver(told: str) -> Driver | None:
    """Return the driver that the output of `nvidia-smi` names; None if it names none."""
    cuda, version = _CUDA.search(told), _DRIVER.search(told)
    return Driver(version=version.group(1) if version else "unknown", cuda=cuda.group(1)) if cuda else None


def choose_build(spec: EnvironmentSpec, driver: Driver | None, wanted: str = "auto") -> tuple[TorchBuild, str]:
    """Return the packages to install, and a sentence that says why.

    Args:
        spec: what the plugin offers.
        driver: the driver of this machine.
        wanted: the name of a build; `auto`: the best that the driver supports.

    Raises:
        InvalidInputError: there is no such build, or the driver is too old for every build for cards.
    """
    names = [build.name for build in spec.builds]
    if wanted != "auto":
        chosen = next((build for build in spec.builds if build.name == wanted), None)
        if chosen is None:
            raise InvalidInputError(f"There is no build {wanted!r}; there are {', '.join(names)}.", field="build")
        return chosen, "You chose it."
    without = next((build for build in spec.builds if not build.cuda), None)
    if without is not None and len(spec.builds) == 1:
        return without, "It needs no card."
    if driver is None:
        if without is None:
            raise InvalidInputError("There is no NVIDIA driver, and no build works without one.", field="build")
        return without, "There is no NVIDIA driver on this machine."
    for build in spec.builds:
        if build.cuda and version_tuple(build.cuda) <= version_tuple(driver.cuda):
            return build, f"The NVIDIA driver {driver.version} supports CUDA {driver.cuda}."
    oldest = min((build.cuda for build in spec.builds if build.cuda), key=version_tuple, default="")
    instead = f", or install without a card: --build {without.name}" if without else ""
    raise InvalidInputError(
        f"The NVIDIA driver {driver.version} supports CUDA {driver.cuda}, and the packages need {oldest} or newer. "
        f"Update the driver{instead}.",
        field="build",
    )
