"""Write the GGUF form of an adapter, which llama.cpp reads. Runs in a subprocess only.

The format has `general.type=adapter`, `adapter.type=lora`, `adapter.lora.alpha`, and two tensors for each adapted
matrix of the base model, named after the matrix: `….lora_a` [rank, in] and `….lora_b` [out, rank] (llama.cpp,
convert_lora_to_gguf.py). llama.cpp computes with alpha / rank, where alpha is one number for the whole file and rank is
that of the matrix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from safetensors.numpy import load_file

from tmde_core.sdk.adapters import CONFIG_FILE, WEIGHTS_FILE
from tmde_core.sdk.plain_lora import is_lora_matrix, scale_of
from tmde_cpu.gguf.families import Array, Names, UnsupportedModelError, find_family, in_order, language_config

SAME_SCALE = 1e-9
"""Two scales whose ratio differs from 1 by less than this are the same scale."""


def write_gguf_lora(adapter_dir: Path, base_dir: Path, target: Path) -> None:
    """Convert the PEFT adapter in `adapter_dir`, trained on the model in `base_dir`, to the file `target`.

    Raises:
        UnsupportedModelError: the GGUF form for this kind of model is unknown.
    """
    base = msgspec.json.decode((base_dir / "config.json").read_bytes())
    lora = msgspec.json.decode((adapter_dir / CONFIG_FILE).read_bytes())
    write_form(load_file(adapter_dir / WEIGHTS_FILE), lora, base, target)


def write_form(tensors: Mapping[str, Array], lora: Mapping[str, Any], base: Mapping[str, Any], target: Path) -> None:
    """Write the GGUF form from the adapter's tensors by name, its configuration, and the base model's config.json.

    Raises:
        UnsupportedModelError: see `write_gguf_lora`.
    """
    base = language_config(base)
    family = find_family(base)
    names = Names(family, int(base["num_hidden_layers"]))
    alphas = _alphas(tensors, lora)
    alpha = Counter(alphas.values()).most_common(1)[0][0] if alphas else float(lora["lora_alpha"])

    writer = gguf.GGUFWriter(target, family.name)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, tensor in sorted(tensors.items()):
        found = is_lora_matrix(name)
        mapped = names.of_module(found["module"]) if found else None
        if found is None or mapped is None:
            raise UnsupportedModelError(f"The adapter's tensor {name} has no place in llama.cpp's {family.name}.")
        if found["side"] == "B":
            tensor = in_order(family, found["module"], tensor, base)
            ratio = alphas[found["module"]] / alpha
            if abs(ratio - 1) > SAME_SCALE:  # B takes what the file's one alpha cannot say
                tensor = tensor.astype(np.float32) * np.float32(ratio)
        writer.add_tensor(f"{mapped}.weight.lora_{found['side'].lower()}", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _alphas(tensors: Mapping[str, Array], lora: Mapping[str, Any]) -> dict[str, float]:
    """Return for each module the alpha with which llama.cpp's alpha / rank is the scale that PEFT uses."""
    found = {}
    for name, tensor in tensors.items():
        matrix = is_lora_matrix(name)
        if matrix is not None and matrix["side"] == "A":
            found[matrix["module"]] = scale_of(lora, matrix["module"]) * tensor.shape[0]
    return found
