"""Plan the work on adapters in GGUF: the conversion, and the merge. The server calls this, so the module is light."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath

from tmde_core.sdk.errors import InvalidInputError
from tmde_core.sdk.training import Quantization, WorkerCommand
from tmde_cpu.base_name import resolve_base_model


def plan_conversion(data_dir: Path, adapter_dir: Path, base_model: str) -> WorkerCommand | None:
    """Return the worker that compares the adapter with its base model and writes `adapter.gguf`.

    The result is None if the base model is not installed.
    """
    base = _known(data_dir, base_model)
    if base is None:
        return None
    return WorkerCommand(argv=(sys.executable, "-m", "tmde_cpu.gguf.adapter_form_worker", str(adapter_dir), str(base)))


def plan_merge(
    data_dir: Path, adapter_dir: Path, base_model: str, target: Path, quantization: Quantization
) -> WorkerCommand | None:
    """Return the worker that writes base model and adapter as one file, and compares it with both.

    The result is None if the base model is not installed.
    """
    base = _known(data_dir, base_model)
    if base is None:
        return None
    arguments = (str(data_dir), str(adapter_dir), str(base), str(target), quantization)
    return WorkerCommand(
        argv=(sys.executable, "-m", "tmde_cpu.serving.merge_worker", *arguments),
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def _known(data_dir: Path, base_model: str) -> Path | None:
    """Return the base model's file or directory, or None.

    A name such as `HuggingFaceTB/SmolLM2-135M-Instruct` is also looked up without its publisher.
    """
    for name in (base_model, PurePosixPath(base_model).name):
        if name:
            try:
                return resolve_base_model(data_dir, name)
            except (InvalidInputError, OSError, ValueError):
                continue
    return None
