"""Write adapters of a few hundred bytes, for workers that only pretend to train."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from tmde_core.sdk.adapters import CONFIG_FILE, WEIGHTS_FILE

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
RANK, WIDTH = 4, 8

Values = Mapping[str, tuple[tuple[int, ...], Sequence[float]]]
"""Maps the name of a tensor to its shape and numbers."""


def write_adapter(directory: Path, seed: object = 0, base_model: str = "scripted-1") -> None:
    """Write an adapter's weights and configuration in PEFT's format.

    Args:
        directory: an existing directory that contains neither of the two files.
        seed: the same seed gives the same weights.
        base_model: the name of the base model in the configuration.
    """
    draws = random.Random(repr(seed))
    tensors: dict[str, tuple[tuple[int, ...], Sequence[float]]] = {}
    for module in MODULES:
        for side, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK))):
            name = f"base_model.model.{module}.lora_{side}.weight"
            tensors[name] = (shape, [draws.gauss(0, 1) for _ in range(RANK * WIDTH)])
    write_safetensors(directory / WEIGHTS_FILE, tensors)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "inference_mode": True,
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_safetensors(path: Path, tensors: Values) -> None:
    """Write float32 tensors as a safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, (shape, numbers) in tensors.items():
        block = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(content), len(content) + len(block)],
        }
        content += block
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
