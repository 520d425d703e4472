"""Read the shape of a language model, which the memory and the time of training depend on. No weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.sdk.gguf_header import read_header, read_shapes
from tmde_core.sdk.safetensors_header import read_tensors

__all__ = ["Shape"]

TEXT_PARTS = ("thinker_config", "text_config", "llm_config", "language_config", "language_model_config")
"""The parts of the configuration of a model with images or sound that hold the language model."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "model_dim", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_query_heads"),
    "keys": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "kv_n_heads"),
    "head": ("head_dim", "d_head", "d_kv", "attention_head_size"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"),
    "inner": ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "d_ff", "d_inner", "hidden_dim"),
    "vocabulary": ("vocab_size", "padded_vocab_size", "n_vocab"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "expert": ("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size"),
    "shared": ("shared_expert_intermediate_size",),
    "active": ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts"),
}
"""The names that model families give the numbers in `config.json`, the usual one first."""

WITHOUT_GATE = frozenset(
    [
        "bloom",
        "codegen",
        "falcon",
        "gpt2",
        "gpt_bigcode",
        "gpt_neo",
        "gpt_neox",
        "gptj",
        "mpt",
        "nemotron",
        "opt",
        "phi",
        "starcoder2",
    ]
)
"""Model types whose feed-forward layer has two matrices, because it has no gate."""


LARGEST = 10**9
"""No number of a shape is larger. The files are foreign, and what is computed from them must stay a number."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a model that memory and time depend on."""

    hidden: int
    """Width of the hidden state."""
    inner: int
    """Width of the feed-forward layer."""
    layers: int
    """Number of layers."""
    attention: int
    """Width of the queries: heads times the size of a head."""
    keys: int
    """Width of the keys, and of the values."""
    vocabulary: int
    """Number of tokens."""
    tied: bool
    """Whether the head uses the weights of the embedding."""

    experts: int = 1
    """Number of feed-forward layers in a layer that the memory holds; above 1 for a mixture of experts."""
    stored: int = 0
    """Width of all feed-forward weights of a layer together, if it is a mixture of experts: all experts, not only those
    that compute a token. 0: `inner`."""
    matrices: int = 3
    """Matrices of a feed-forward layer: 3 with a gate, 2 without."""

    @classmethod
    def read(cls, directory: Path) -> Shape | None:
        """Return the shape of a model; None if its files name the numbers in an unknown way.

        Where the layers differ, the mean of a width counts.

        Args:
            directory: a directory with `config.json`, or a GGUF file.
        """
        try:
            if directory.is_file():
                return cls._read_gguf(directory)
            return cls._read_config(json.loads((directory / "config.json").read_bytes()), directory)
        except (
            OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, IndexError, RecursionError,
            InvalidInputError,
        ):  # fmt: skip
            return None

    @classmethod
    def _read_config(cls, whole: dict[str, Any], directory: Path) -> Shape:
        found = _text_part(whole)
        hidden, heads = _number(found, "hidden"), _optional(found, "heads")
        vocabulary = _optional(found, "vocabulary")
        if heads:
            head = _optional(found, "head") or hidden // heads
            if "qk_nope_head_dim" in found:  # DeepSeek: a head has two parts
                head = int(found["qk_nope_head_dim"]) + int(found.get("qk_rope_head_dim") or 0)
            attention = heads * head
            keys = head * (_optional(found, "keys") or (1 if found.get("multi_query") else heads))
        # Some configurations leave out what is usual in their family (Gemma 3). The weights have it.
        if not heads or not vocabulary:
            rows = _tensor_rows(directory, hidden)
            vocabulary = vocabulary or rows["embed_tokens"]
            if not heads:
                attention, keys = rows["q_proj"], rows["k_proj"]
        layers = _number(found, "layers")
        inner, stored, experts = _feed_forward(found, hidden, layers)
        return cls._checked(
            hidden=hidden,
            inner=inner,
            layers=layers,
            attention=attention,
            keys=keys,
            vocabulary=vocabulary,
            tied=bool(found.get("tie_word_embeddings", True)),
            experts=experts,
            stored=stored,
            matrices=2 if found.get("model_type") in WITHOUT_GATE else 3,
        )

    @classmethod
    def _read_gguf(cls, file: Path) -> Shape:
        header = read_header(file)
        shapes = read_shapes(file)

        def number(key: str) -> int:
            return int(header.metadata[f"{header.architecture}.{key}"])

        def optional(key: str) -> int:
            return int(header.metadata.get(f"{header.architecture}.{key}") or 0)

        hidden, heads = number("embedding_length"), number("attention.head_count")
        head = optional("attention.key_length") or hidden // heads
        # A width that differs from layer to layer is an array, which the header leaves out. The tensors have it.
        keys = optional("attention.head_count_kv") * head or _mean_rows(shapes, "attn_k.weight") or heads * head
        inner = optional("feed_forward_length") or _mean_rows(shapes, "ffn_up.weight")
        experts, each = optional("expert_count"), optional("expert_feed_forward_length") or inner
        shared = optional("expert_shared_feed_forward_length")
        active = each * max(1, optional("expert_used_count")) + shared
        return cls._checked(
            hidden=hidden,
            inner=active if experts > 1 else inner,
            layers=number("block_count"),
            attention=heads * head,
            keys=keys,
            vocabulary=shapes["token_embd.weight"][0],
            tied="output.weight" not in shapes,
            experts=max(1, experts),
            stored=experts * each + shared if experts > 1 else 0,
        )

    @classmethod
    def _checked(cls, **numbers: Any) -> Shape:
        needed = [numbers[name] for name in ("hidden", "inner", "layers", "attention", "keys", "vocabulary")]
        if min(needed) < 1 or max(*needed, numbers["experts"], numbers["stored"]) > LARGEST:
            raise ValueError("A number of the shape is missing or out of range.")
        return cls(**numbers)

    @property
    def linear(self) -> int:
        """The number of weights in the projections, which 4 bits apply to."""
        attention = self.hidden * (2 * self.attention + 2 * self.keys)
        return self.layers * (attention + self.matrices * self.hidden * (self.stored or self.inner))

    @property
    def weights(self) -> int:
        """The number of weights, without the norms, which are below 0.1 %."""
        return self.linear + self.embedding

    @property
    def embedding(self) -> int:
        """The number of weights in the embedding and the head."""
        return self.hidden * self.vocabulary * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Return the number of weights of an adapter on all projections, those of every expert included."""
        feed_forward = self.matrices * (self.experts * self.hidden + (self.stored or self.inner))
        ends = 4 * self.hidden + 2 * self.attention + 2 * self.keys + feed_forward
        return self.layers * rank * ends


def _text_part(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that describes the language model. What it lacks is taken from around it."""
    for name in TEXT_PARTS:
        part = whole.get(name)
        if isinstance(part, dict):
            around = {key: value for key, value in whole.items() if key != name}
            return _text_part({**around, **part})
    return whole


def _feed_forward(found: dict[str, Any], hidden: int, layers: int) -> tuple[int, int, int]:
    """Return the width that computes a token, the width of all experts (0: no mixture), and the number of experts."""
    dense = _optional(found, "inner") or int(found.get("expansion_ratio") or 4) * hidden
    experts = _optional(found, "experts")
    if experts <= 1:
        return dense, 0, 1
    each = _optional(found, "expert") or dense
    shared = _optional(found, "shared") or int(found.get("n_shared_experts") or 0) * each
    active = max(1, _optional(found, "active")) * each + shared
    of_all = experts * each + shared
    plain = _dense_layers(found, layers)
    return (
        max(active, dense if plain else 0),
        (of_all * (layers - plain) + dense * plain) // layers,
        max(1, experts * (layers - plain) // layers),
    )


def _dense_layers(found: dict[str, Any], layers: int) -> int:
    """Return how many layers of a mixture of experts are ordinary ones."""
    first = int(found.get("first_k_dense_replace") or 0)
    listed = found.get("mlp_only_layers")
    step = int(found.get("decoder_sparse_step") or found.get("moe_layer_freq") or 1) if first == 0 else 1
    plain = len(listed) if isinstance(listed, list) and listed else layers - layers // max(1, step)
    return min(layers, first or plain)


def _number(found: dict[str, Any], what: str) -> int:
    """Return a number of a configuration.

    Raises:
        KeyError: no known name of the number is there.
    """
    value = _optional(found, what)
    if value < 1:
        raise KeyError(what)
    return value


def _optional(found: dict[str, Any], what: str) -> int:
    """Return a number of a configuration by any of its names, or the mean of a list; 0 if there is none."""
    inside = found.get("attn_config") if what == "keys" else None
    for place in (found, inside if isinstance(inside, dict) else {}):
        for name in NAMES[what]:
            value = place.get(name)
            if isinstance(value, list) and value:
                return round(sum(map(int, value)) / len(value))
            if isinstance(value, int | float) and not isinstance(value, bool) and value:
                return int(value)
    return 0


def _tensor_rows(directory: Path, hidden: int) -> dict[str, int]:
    """Return the rows of the embedding and of the projections of queries and keys, by the names of their modules."""
    rows: dict[str, int] = {}
    for file in sorted(directory.glob("*.safetensors")):
        for tensor in read_tensors(file):
            module, _, kind = tensor.name.rpartition(".")
            # The part that reads images has other widths, or is named so.
            if kind == "weight" and "vision" not in module and tensor.shape[1:] == (hidden,):
                rows.setdefault(module.rpartition(".")[2], tensor.shape[0])
    return rows


def _mean_rows(shapes: Mapping[str, Sequence[int]], ending: str) -> int:
    """Return the mean number of rows of the tensors with this ending; 0 if there are none."""
    rows = [shape[0] for name, shape in shapes.items() if name.startswith("blk.") and name.endswith(f".{ending}")]
    return round(sum(rows) / len(rows)) if rows else 0
