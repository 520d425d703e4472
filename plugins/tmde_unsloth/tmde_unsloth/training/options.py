"""Parse the command line of a worker: the job, and the settings that matter to the worker."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What `[backends.unsloth]` says. See `tmde_unsloth.options`."""

    job: Path
    allow_cpu: bool = False
    allow_16bit: bool = False
    allow_no_checkpointing: bool = False
    micro_batch: int = 0
    device: str = ""
    """For a preview: the name of the card that the probe has found, or `CPU`."""
    device_bytes: int = 0
    """For a preview: the memory of this card; 0: unknown."""
    cores: int = 1
    """For a preview: the number of physical cores."""


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--allow-cpu", action="store_true")
    parser.add_argument("--allow-16bit", action="store_true")
    parser.add_argument("--allow-no-checkpointing", action="store_true")
    parser.add_argument("--micro-batch", type=int, default=0)
    parser.add_argument("--device", default="")
    parser.add_argument("--device-bytes", type=int, default=0)
    parser.add_argument("--cores", type=int, default=1)
    return Options(**vars(parser.parse_args(arguments)))


def prepare_environment(options: Options, run_dir: Path) -> None:
    """Set the variables that Unsloth reads when it is imported, also where a person runs the worker by hand."""
    os.environ["UNSLOTH_DISABLE_CPU_FALLBACK"] = "0" if options.allow_cpu else "1"
    for name, value in {
        "UNSLOTH_AUTO_INSTALL": "0",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(run_dir / "unsloth-compiled"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
