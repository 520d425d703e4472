"""Write the GGUF form of an adapter, which llama.cpp reads. Runs in a subprocess only.

The format has `general.type=adapter`, `adapter.type=lora`, `adapter.lora.alpha`, and two tensors for each adapted
matrix of the base model, named after the matrix: `….lora_a` [rank, in] and `….lora_b` [out, rank] (llama.cpp,
convert_lora_to_gguf.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from safetensors.numpy import load_file

from tmde_core.sdk.adapters import CONFIG_FILE, WEIGHTS_FILE

ARCHITECTURES: Mapping[str, Any] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
"""Maps `model_type` in config.json to llama.cpp's architecture."""

INTERLEAVED_ROPE = frozenset({gguf.MODEL_ARCH.LLAMA})
"""Architectures for which llama.cpp rotates neighbouring pairs of a head, while transformers rotates its halves. The
rows of q and k of the base model are stored in llama.cpp's order, so the rows of the adapter's B matrices need the same
order."""

_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


class UnsupportedModelError(Exception):
    """This kind of base model has no known GGUF form for adapters."""


def write_gguf_lora(adapter_dir: Path, base_dir: Path, target: Path) -> None:
    """Convert the PEFT adapter in `adapter_dir`, trained on the model in `base_dir`, to the file `target`.

    Raises:
        UnsupportedModelError: the GGUF form for this kind of model is unknown.
    """
    base = msgspec.json.decode((base_dir / "config.json").read_bytes())
    lora = msgspec.json.decode((adapter_dir / CONFIG_FILE).read_bytes())
    write_form(load_file(adapter_dir / WEIGHTS_FILE), float(lora["lora_alpha"]), base, target)


def write_form(
    tensors: Mapping[str, np.ndarray[Any, Any]], alpha: float, base: Mapping[str, Any], target: Path
) -> None:
    """Write the GGUF form from the adapter's tensors by name, its alpha, and the base model's config.json.

    Raises:
        UnsupportedModelError: see `write_gguf_lora`.
    """
    architecture = ARCHITECTURES.get(base["model_type"])
    if architecture is None:
        raise UnsupportedModelError(f"Models of the kind {base['model_type']!r} have no GGUF form of an adapter here.")
    heads = int(base["num_attention_heads"])
    key_heads = int(base.get("num_key_value_heads") or heads)
    names = gguf.get_tensor_name_map(architecture, int(base["num_hidden_layers"]))

    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, tensor in sorted(tensors.items()):
        found = _NAME.fullmatch(name)
        mapped = names.get_name(found["module"]) if found else None
        if found is None or mapped is None:
            raise UnsupportedModelError(
                f"The adapter's tensor {name} has no place in llama.cpp's {base['model_type']}."
            )
        if found["side"] == "B" and architecture in INTERLEAVED_ROPE:
            if found["module"].endswith("q_proj"):
                tensor = permute(tensor, heads)
            elif found["module"].endswith("k_proj"):
                tensor = permute(tensor, key_heads)
        writer.add_tensor(f"{mapped}.weight.lora_{found['side'].lower()}", np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permute(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Reorder the rows of each head from halves to neighbouring pairs. The shape [heads · width, …] stays the same."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
