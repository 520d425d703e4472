"""Parse the command line of a worker: the job, and the settings that matter to the worker."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tmde_axolotl.configuration import OFFLINE


@dataclass(frozen=True)
class Options:
    """What `[backends.axolotl]` says. See `tmde_axolotl.options`."""

    job: Path
    allow_cpu: bool = False
    four_bit: bool = True
    extra: Path | None = None
    device: str = ""
    """For a preview: the name of the card that the probe has found, or `CPU`."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--allow-cpu", action="store_true")
    parser.add_argument("--no-four-bit", dest="four_bit", action="store_false")
    parser.add_argument("--extra", type=Path)
    parser.add_argument("--device", default="")
    return Options(**vars(parser.parse_args(arguments)))


def prepare_environment() -> None:
    """Set the variables that the libraries read when they are imported, also where a person runs the worker by hand.

    With several cards the trainer would divide each batch among them, so it sees one only: the one that TMDE chose, or
    the first.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
