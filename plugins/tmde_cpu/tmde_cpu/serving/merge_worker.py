"""Write an adapter and its base model as one GGUF file, and compare it with both. Runs in a subprocess only.

    python -m tmde_cpu.serving.merge_worker DATA_DIR ADAPTER_DIR BASE TARGET QUANTIZATION

BASE is a GGUF file, or a directory of safetensors: then the form that the embedded runtime serves is merged. The worker
prints lines of `tmde_core.sdk.training.MergeProgress`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Literal, cast

import httpx
import msgspec

from tmde_core.sdk.adapters import GGUF_FILE, MANIFEST_FILE
from tmde_core.sdk.context import PluginContext
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.records import to_json
from tmde_core.sdk.training import MergeProgress, MergeResult, Quantization
from tmde_cpu.gguf.merge import Merged, MergeError, NoRoomError, merge
from tmde_cpu.serving.merge_check import compare_merged
from tmde_cpu.serving.options import EmbeddedSettings
from tmde_cpu.serving.runtime import EmbeddedRuntime
from tmde_cpu.serving.served_form import ensure_gguf
from tmde_cpu.serving.server_log import ServerLog
from tmde_cpu.serving.simple_questions import QualityReport, measure_quality

TELLING_SECONDS = 0.25
"""The shortest time between two lines of progress."""
NICENESS = 5
"""A merge is background work: a debate that runs meanwhile comes first."""

Step = Literal["preparing", "merging", "checking"]


class Teller:
    """Prints the progress, though not too often."""

    def __init__(self) -> None:
        self._last = 0.0
        self._step = ""

    def tell(self, step: Step, share: float) -> None:
        """Print a line if the step is new or the last line is old."""
        now = time.monotonic()
        if step != self._step or now - self._last >= TELLING_SECONDS:
            self._step, self._last = step, now
            _print(MergeProgress(step=step, share=min(1.0, share)))


async def run(data_dir: Path, adapter_dir: Path, base: Path, target: Path, quantization: Quantization) -> MergeResult:
    """Merge and compare.

    Raises:
        TmdeError: the base model cannot be converted, or a model cannot be served.
        ValueError, OSError: a file is damaged or cannot be read or written.
    """
    teller, adapter = Teller(), adapter_dir / GGUF_FILE
    teller.tell("preparing", 0.0)
    base_name = base.name
    if base.is_dir():
        base = await _served_form(data_dir, base)

    def write() -> Merged:
        name = _name(adapter_dir)
        return merge(
            base, adapter, target, quantization, name=name, tell=lambda done, size: teller.tell("merging", done / size)
        )

    try:
        merged = await asyncio.to_thread(write)
    except MergeError as error:
        return MergeResult(reasons=(str(error),), out_of_space=isinstance(error, NoRoomError))
    log = ServerLog(data_dir / "logs" / "embedded.log")
    quality, notes = None, _notes(merged)
    try:
        quality = await compare_merged(base, adapter, target, log, lambda share: teller.tell("checking", share))
    except (TmdeError, httpx.HTTPError) as error:
        told = error.detail if isinstance(error, TmdeError) else f"{type(error).__name__}: {error}"
        notes = (*notes, f"The merged model could not be compared with what was merged: {' '.join(told.split())[:300]}")
    return MergeResult(base_file=base_name, size_bytes=merged.size, types=merged.types, notes=notes, quality=quality)


async def _served_form(data_dir: Path, directory: Path) -> Path:
    """Return the GGUF form of a directory of safetensors, which the embedded runtime serves too."""

    async def check(file: Path) -> QualityReport:
        trial = EmbeddedRuntime(PluginContext(data_dir, EmbeddedSettings(model=str(file), slots=1)))
        try:
            return await measure_quality(trial)
        finally:
            await trial.stop()

    models = PluginContext(data_dir, EmbeddedSettings()).models_dir
    return await ensure_gguf(directory, models / "converted", check)


def _name(adapter_dir: Path) -> str:
    """Return how the adapter is called in the merged model."""
    try:
        identity = msgspec.json.decode((adapter_dir / MANIFEST_FILE).read_bytes())["id"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return "an adapter of TMDE"
    return f"the TMDE adapter {str(identity)[:36]}"


def _notes(merged: Merged) -> tuple[str, ...]:
    return tuple(
        f"Weights of the type {name} cannot be written here, so the {count} matrices of this type that the adapter changes "
        "became Q8_0. All other matrices of this type are byte for byte those of the base model."
        for name, count in sorted(merged.requantized.items())
    )


def _print(line: MergeProgress) -> None:
    sys.stdout.write(to_json(line).decode() + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run the worker. The exit status is 0 even if the merge is impossible, because this is a valid result."""
    os.nice(NICENESS)
    data_dir, adapter_dir, base, target = map(Path, arguments[:4])
    try:
        result = asyncio.run(run(data_dir, adapter_dir, base, target, cast("Quantization", arguments[4])))
    except (TmdeError, OSError, ValueError, KeyError, httpx.HTTPError) as error:
        told = error.detail if isinstance(error, TmdeError) else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"{' '.join(told.split())[:600]}\n")
        return 1
    _print(MergeProgress(step="done", share=1.0, result=result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
