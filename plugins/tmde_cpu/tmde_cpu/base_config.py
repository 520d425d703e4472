"""Complete what transformers reads of a GGUF file's configuration. Runs in a subprocess only.

transformers (5.23) leaves out how rotary positions are scaled, the width of heads, biases, and how Gemma scales its
attention. The model would load without a warning, compute something else than the runtime, and be trained on that.
Everything here is held by a test that compares both on a tiny model of each family.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

READABLE = ("llama", "qwen2", "qwen3", "gemma3", "phi3")
"""The architectures that are compared by a test."""

GEMMA_27B_LAYERS = 62
"""The number of layers by which llama.cpp recognises the one Gemma 3 that scales its attention otherwise."""

LLAMA_3 = tuple((factor, 1.0, 4.0, 8192) for factor in (8.0, 32.0))
"""How Llama 3.1 (and 3.3) and Llama 3.2 scale: factor, low and high frequency factor, former context length. A GGUF file
has only the factors that follow from them."""


class UnreadableModelError(ValueError):
    """The model in a GGUF file cannot be read as it is. The message says why."""


def require_readable(model: GGUFReader) -> None:
    """Check that the architecture is one that is read correctly.

    Raises:
        UnreadableModelError: it is another one.
    """
    architecture = _told(model, "general.architecture")
    if architecture not in READABLE:
        raise UnreadableModelError(
            f"models of the kind {architecture!r} cannot be read from GGUF here; use a directory of the model's safetensors."
        )


def complete_config(config: Any, model: GGUFReader) -> None:
    """Set the fields of a transformers configuration that transformers does not read from the file.

    Raises:
        UnreadableModelError: the file scales its rotary positions in a way that is not known here.
    """
    architecture = _told(model, "general.architecture")
    heads = int(config.num_attention_heads)
    usual = int(config.hidden_size) // heads
    width = int(_told(model, f"{architecture}.attention.key_length") or usual)
    if width != (getattr(config, "head_dim", None) or usual):
        config.head_dim = width
    if architecture == "llama" and any(tensor.name == "blk.0.attn_q.bias" for tensor in model.tensors):
        config.attention_bias = True
    if architecture == "gemma3":
        config.query_pre_attn_scalar = usual if int(config.num_hidden_layers) == GEMMA_27B_LAYERS else width
    rotation = _rotation(model, architecture, width, config)
    current = dict(config.rope_parameters or {})
    if architecture == "gemma3":
        local = float(_told(model, "gemma3.rope.freq_base_swa") or 10_000.0)
        wanted: dict[str, Any] = {
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
            "full_attention": rotation,
        }
    else:
        wanted = rotation
    if any(current.get(key) != value for key, value in wanted.items()):
        config.rope_parameters = wanted
    if architecture == "phi3":
        config.sliding_window = int(_told(model, "phi3.attention.sliding_window") or 0) or None
        if "original_max_position_embeddings" in rotation:
            config.original_max_position_embeddings = rotation["original_max_position_embeddings"]


def _rotation(model: GGUFReader, architecture: str, width: int, config: Any) -> dict[str, Any]:
    """Return transformers' description of the rotary positions."""

    def told(key: str) -> Any:
        return _told(model, f"{architecture}.rope.{key}")

    theta = float(told("freq_base") or 10_000.0)
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    turned = int(told("dimension_count") or width)
    if turned != width:
        found["partial_rotary_factor"] = turned / width
    factors = {
        tensor.name: tensor for tensor in model.tensors if tensor.name.startswith(("rope_freqs", "rope_factors"))
    }
    former = int(told("scaling.original_context_length") or config.max_position_embeddings)
    kind = told("scaling.type") or "none"
    if "rope_factors_long.weight" in factors:
        long, short = (_values(factors[f"rope_factors_{name}.weight"]).tolist() for name in ("long", "short"))
        attention = told("scaling.attn_factor")
        found |= {"rope_type": "longrope", "long_factor": long, "short_factor": short}
        found |= {"original_max_position_embeddings": former}
        return found | ({"attention_factor": float(attention)} if attention else {})
    if "rope_freqs.weight" in factors:
        return found | _llama_3(_values(factors["rope_freqs.weight"]), theta, width)
    if kind in ("linear", "yarn"):
        found |= {"rope_type": kind, "factor": float(told("scaling.factor") or 1.0)}
        return found | ({"original_max_position_embeddings": former} if kind == "yarn" else {})
    if kind != "none":
        raise UnreadableModelError(f"it scales its rotary positions in the way {kind!r}, which is not known here.")
    return found


def _llama_3(factors: Any, theta: float, width: int) -> dict[str, Any]:
    """Return the description from which these factors follow."""
    waves = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    for factor, low, high, former in LLAMA_3:
        smooth = np.clip((former / waves - low) / (high - low), 0, 1)
        if np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": former,
            }  # fmt: skip
    raise UnreadableModelError(
        "it scales its rotary positions otherwise than Llama 3.1 and 3.2; use a directory of the model's safetensors."
    )


def _values(tensor: Any) -> Any:
    return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(-1)


def _told(model: GGUFReader, key: str) -> Any:
    field = model.get_field(key)
    return None if field is None else field.contents()
