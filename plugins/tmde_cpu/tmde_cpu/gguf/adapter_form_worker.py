"""Compare an adapter with its base model and write the adapter's GGUF form.

    python -m tmde_cpu.gguf.adapter_form_worker ADAPTER_DIR BASE

BASE is a GGUF file or a directory with config.json and safetensors. Only the headers are read, which takes a second;
loading the model would take half a minute. The worker prints a `tmde_core.sdk.training.ConversionResult`. Runs in a
subprocess only.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tmde_core.sdk.adapters import CONFIG_FILE, GGUF_FILE, WEIGHTS_FILE
from tmde_core.sdk.errors import TmdeError
from tmde_core.sdk.gguf_header import read_header, read_shapes
from tmde_core.sdk.plain_lora import is_lora_matrix
from tmde_core.sdk.records import to_json
from tmde_core.sdk.safetensors_header import SafetensorsError, Tensor, read_tensors
from tmde_core.sdk.training import ConversionResult
from tmde_cpu.gguf.families import Names, UnsupportedModelError, find_family, find_kind, language_config
from tmde_cpu.gguf.lora import write_form

SHOWN = 3
"""The number of matrices that a reason names. Further matrices are counted."""

Shapes = Mapping[str, tuple[int, ...]]


class Base:
    """The content of the headers of the base model's files."""

    def __init__(self, config: Mapping[str, Any], shapes: Shapes) -> None:
        self.config = language_config(config)
        """The fields of config.json that the conversion needs."""
        self._names = Names(find_family(self.config), int(self.config["num_hidden_layers"]))
        # Adapters and directories of models that also see do not agree on where the language model is.
        named = {name: self._names.of_tensor(name) for name in shapes}
        self._shapes = {**shapes, **{name: shapes[tensor] for tensor, name in named.items() if name is not None}}

    def matrix(self, module: str) -> tuple[int, ...] | None:
        """Return the shape [out, in] of a module's weight by the module's name in transformers, or None."""
        return self._shapes.get(f"{module}.weight") or self._shapes.get(f"{self._names.of_module(module)}.weight")


def main(adapter_dir: Path, base: Path) -> int:
    """Run the conversion. The exit status is 0 even if the adapter does not fit, because this is a valid result."""
    try:
        form = make(adapter_dir, base)
    except (TmdeError, SafetensorsError, OSError, ValueError, KeyError) as error:
        told = error.detail if isinstance(error, TmdeError) else f"{type(error).__name__}: {error}"
        sys.stderr.write(f"The GGUF form could not be made: {' '.join(told.split())[:300]}\n")
        return 1
    sys.stdout.write(to_json(form).decode() + "\n")
    return 0


def make(adapter_dir: Path, base_path: Path) -> ConversionResult:
    """Write `adapter.gguf`, unless the adapter does not fit or the model has no GGUF form for adapters."""
    try:
        base = _of_directory(base_path) if base_path.is_dir() else _of_gguf(base_path)
        weights = adapter_dir / WEIGHTS_FILE
        tensors = read_tensors(weights)
        if reasons := find_misfits(tensors, base, base_path.name):
            return ConversionResult(reasons=tuple(reasons))
        lora = msgspec.json.decode((adapter_dir / CONFIG_FILE).read_bytes())
        write_form(load_tensors(weights, tensors), lora, base.config, adapter_dir / GGUF_FILE)
    except UnsupportedModelError as error:
        (adapter_dir / GGUF_FILE).unlink(missing_ok=True)
        return ConversionResult(note=f"{error} It cannot be served by llama.cpp.")
    return ConversionResult()


def find_misfits(tensors: tuple[Tensor, ...], base: Base, name: str) -> list[str]:
    """Return why the matrices do not fit the base model, in sentences."""
    unknown, misshapen = [], []
    for tensor in tensors:
        found = is_lora_matrix(tensor.name)
        matrix = base.matrix(found["module"]) if found else None
        if found is None or matrix is None or len(matrix) != 2:
            unknown.append(tensor.name)
            continue
        # B · A has the shape of the matrix, [out, in]: A is [rank, in], B is [out, rank].
        place = 1 if found["side"] == "A" else 0
        if tensor.shape[place] != matrix[place]:
            misshapen.append(f"{tensor.name} {list(tensor.shape)} for {list(matrix)}")
    told = []
    if unknown:
        told.append(f"The base model {name} has no matrix for {_some(unknown)}.")
    if misshapen:
        told.append(f"These have the wrong shape for the base model {name}: {_some(misshapen)}.")
    return told


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _of_directory(path: Path) -> Base:
    config = msgspec.json.decode((path / "config.json").read_bytes())
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(path.glob("*.safetensors")):
        shapes |= {tensor.name: tensor.shape for tensor in read_tensors(file)}
    return Base(config, shapes)


def _of_gguf(path: Path) -> Base:
    header = read_header(path)
    kind = header.architecture
    model_type = find_kind(kind)

    def figure(key: str) -> Any:
        return header.metadata.get(f"{kind}.{key}")

    if model_type is None or figure("block_count") is None or figure("attention.head_count") is None:
        raise UnsupportedModelError(f"Models of the kind {kind!r} have no GGUF form of an adapter here.")
    config = {
        "model_type": model_type,
        "num_hidden_layers": figure("block_count"),
        "num_attention_heads": figure("attention.head_count"),
        "num_key_value_heads": figure("attention.head_count_kv"),
    }
    return Base(config, read_shapes(path))


def load_tensors(path: Path, tensors: tuple[Tensor, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors by name, with bfloat16 converted to float32.

    numpy has no bfloat16. A bfloat16 is the upper half of a float32.
    """
    content = np.memmap(path, np.uint8, "r")
    loaded: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in tensors:
        raw = content[tensor.begin : tensor.end]
        if tensor.dtype == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(raw, "<f4" if tensor.dtype == "F32" else "<f2")
        loaded[tensor.name] = values.reshape(tensor.shape)
    return loaded


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
