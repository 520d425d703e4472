"""The families of models that are converted to GGUF: how llama.cpp names, orders and shifts their weights.

A table, for three users: the converter of models (`convert`), the converter of adapters (`lora`), and the worker that
compares an adapter with its base model. Runs in a subprocess only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import gguf
import msgspec
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class UnsupportedModelError(Exception):
    """This kind of base model has no known GGUF form. The message says why."""


class Family(msgspec.Struct, frozen=True):
    """What is special about a family in llama.cpp."""

    architecture: gguf.MODEL_ARCH
    interleaved: bool = False
    """llama.cpp rotates neighbouring pairs of a head, while transformers rotates its halves. The rows of q and k of the
    base model are stored in llama.cpp's order, so the rows of the adapter's B matrices need the same order."""
    shifted_norms: bool = False
    """transformers adds 1 to the weights of the norms when it computes; llama.cpp stores the sum."""
    biases: tuple[str, ...] = ()
    """The modules that may have a bias. llama.cpp refuses a file with a tensor that it does not use."""
    activation: str = "silu"
    """The only activation that llama.cpp computes for this family."""
    rotations: tuple[str, ...] = ("default", "linear", "yarn")
    """The ways to scale rotary positions that llama.cpp computes as transformers does."""

    @property
    def name(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(gguf.MODEL_ARCH_NAMES[self.architecture])


_ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LLAMA = Family(gguf.MODEL_ARCH.LLAMA, interleaved=True, biases=_ALL, rotations=("default", "linear", "yarn", "llama3"))
_GEMMA3 = Family(
    gguf.MODEL_ARCH.GEMMA3, shifted_norms=True, activation="gelu_pytorch_tanh", rotations=("default", "linear")
)

FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "smollm3": Family(gguf.MODEL_ARCH.SMOLLM3, interleaved=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, biases=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3),
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "phi3": Family(gguf.MODEL_ARCH.PHI3, rotations=("default", "longrope")),
}
"""`model_type` in config.json → the family. Phi-4-mini is of the type phi3."""

GEMMA_3: Mapping[str, Any] = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "max_position_embeddings": 131_072, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "query_pre_attn_scalar": 256,
    "sliding_window": 4096, "tie_word_embeddings": True,
}  # fmt: skip
"""What transformers assumes where a configuration of Gemma 3 says nothing. Published ones leave most of it out."""

_INNER = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?")
"""Where a model that also sees keeps its language model."""

SEEING = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
"""The beginnings of the tensors with which a model sees. They are no part of the language model."""


def find_family(config: Mapping[str, Any]) -> Family:
    """Return the family of a model by its config.json.

    Raises:
        UnsupportedModelError: the family is not in the table.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        raise UnsupportedModelError(
            f"Models of the kind {kind!r} have no GGUF form here; known are {', '.join(sorted(FAMILIES))}."
        )
    return family


def find_kind(architecture: str) -> str | None:
    """Return the `model_type` of a GGUF file's architecture, or None if its family is not in the table."""
    return next((kind for kind, family in FAMILIES.items() if family.name == architecture), None)


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of config.json that describes the language model. Models that also see have it in `text_config`."""
    inner = config.get("text_config")
    usual = GEMMA_3 if str(config.get("model_type")).startswith("gemma3") else {}
    if not isinstance(inner, dict):
        return {**usual, **config}
    outer = {key: config[key] for key in ("model_type", "architectures", "tie_word_embeddings") if key in config}
    return {**usual, **inner, **outer}


class Names:
    """The names of a model's tensors in llama.cpp."""

    def __init__(self, family: Family, layers: int) -> None:
        self._family = family
        self._names = gguf.get_tensor_name_map(family.architecture, layers)

    def of_module(self, module: str) -> str | None:
        """Return llama.cpp's name of a module of transformers, or None."""
        name = self._names.get_name(_INNER.sub("model.", module))
        return str(name) if name is not None else None

    def of_tensor(self, tensor: str) -> str | None:
        """Return llama.cpp's name of a tensor, or None if the family has no such tensor."""
        module, _, kind = tensor.rpartition(".")
        name = self.of_module(module) if kind in ("weight", "bias") else None
        if name is None or (kind == "bias" and module.rpartition(".")[2] not in self._family.biases):
            return None
        return f"{name}.{kind}"


def heads_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of heads of queries, and of keys and values."""
    heads = int(config["num_attention_heads"])
    return heads, int(config.get("num_key_value_heads") or heads)


def in_order(family: Family, module: str, rows: Array, config: Mapping[str, Any]) -> Array:
    """Return what produces the outputs of `module` (a weight, a bias, or a B matrix) in llama.cpp's order of rows."""
    if not family.interleaved:
        return rows
    heads, key_heads = heads_of(config)
    if module.endswith("q_proj"):
        return permute(rows, heads)
    return permute(rows, key_heads) if module.endswith("k_proj") else rows


def permute(rows: Array, heads: int) -> Array:
    """Reorder the rows of each head from halves to neighbouring pairs. The shape [heads · width, …] stays the same."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
