"""Estimate the memory of training from the shape of the base model. Pure arithmetic, for the server and the worker.

The factors fit four measured runs of Unsloth 2026.10 on a Llama of 1.07 billion weights (16 layers, width 2,048, inner
width 8,192, rank 16, examples of 1,004 tokens): 1.27 GiB at 4 examples in 4 bits, 2.36 GiB at 16, and 17.9 GiB at 16
examples in 16 bits without checkpointing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOUR_BIT_BYTES = 0.5625
"""Bytes of a weight in NF4: half a byte, and one 32-bit scale for 64 weights."""
OPTIMIZER_BYTES = 16
"""Bytes for each adapter weight in float32: the weight, its gradient, and AdamW's two moments."""
CONTEXT_BYTES = 600 * 1024**2
"""Memory that CUDA and its libraries take on the card before anything is loaded."""
SPARE_BYTES = 256 * 1024**2
"""Logits of one chunk, and blocks that the allocator cannot reuse."""
CPU_LOGITS = 6_400
"""Bytes for each token of the vocabulary on a CPU, where the logits of a chunk are kept in 32 bits."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a base model that memory depends on."""

    hidden: int
    inner: int
    layers: int
    attention: int
    """Width of the queries: heads times the size of a head."""
    keys: int
    """Width of the keys, and of the values."""
    vocabulary: int
    tied: bool

    @classmethod
    def read(cls, directory: Path) -> Shape | None:
        """Return the shape from a model's `config.json`; None if the file names its numbers in another way."""
        try:
            found: dict[str, Any] = json.loads((directory / "config.json").read_bytes())
            found = found.get("text_config") or found
            hidden, heads = int(found["hidden_size"]), int(found["num_attention_heads"])
            head = int(found.get("head_dim") or hidden // heads)
            return cls(
                hidden=hidden,
                inner=int(found["intermediate_size"]),
                layers=int(found["num_hidden_layers"]),
                attention=heads * head,
                keys=int(found.get("num_key_value_heads") or heads) * head,
                vocabulary=int(found["vocab_size"]),
                tied=bool(found.get("tie_word_embeddings", True)),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    @property
    def linear(self) -> int:
        """The number of weights in the projections, which 4 bits apply to."""
        attention = self.hidden * (2 * self.attention + 2 * self.keys)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def weights(self) -> int:
        """The number of weights, without the norms, which are below 0.1 %."""
        return self.linear + self.embedding

    @property
    def embedding(self) -> int:
        """The number of weights in the embedding and the head."""
        return self.hidden * self.vocabulary * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Return the number of weights of an adapter on all seven projections."""
        ends = 4 * self.hidden + 2 * self.attention + 2 * self.keys + 3 * (self.hidden + self.inner)
        return self.layers * rank * ends


@dataclass(frozen=True)
class Way:
    """How a model is held and trained."""

    weight_bits: int
    """4, 16 or 32."""
    checkpointing: bool
    """Whether the activations of a layer are computed again in the backward pass."""

    @property
    def name(self) -> str:
        """The quantisation in words."""
        return f"{self.weight_bits}-bit"

    @property
    def description(self) -> str:
        """What runs must have in common so that their memory can be compared."""
        return self.name if self.checkpointing else f"{self.name}, all activations kept"


ON_CARD = Way(4, checkpointing=True)
"""How a model is held on a card unless the settings allow more. It is also the way that needs the least memory."""
ON_CPU = Way(32, checkpointing=False)
"""How a model is held without a card, where there are neither 4 bits nor 16-bit arithmetic."""


def model_bytes(shape: Shape, way: Way) -> int:
    """Return the memory of the base model's weights."""
    other = 4 if way.weight_bits == 32 else 2
    linear = FOUR_BIT_BYTES if way.weight_bits == 4 else other
    return int(shape.linear * linear + shape.embedding * other)


def adapter_bytes(shape: Shape, rank: int) -> int:
    """Return the memory of the adapter, its gradients and AdamW's moments."""
    return shape.adapter(rank) * OPTIMIZER_BYTES


def token_bytes(shape: Shape, way: Way) -> int:
    """Return the memory for each token that is computed at the same time."""
    if way.weight_bits == 32:  # on a CPU, where no kernels of Unsloth save memory
        return 4 * (8 * shape.inner + 16 * shape.hidden) * (1 if way.checkpointing else shape.layers)
    if way.checkpointing:
        return 2 * (5 * shape.inner + 4 * shape.hidden)
    return 2 * (3 * shape.inner + 4 * shape.hidden) * shape.layers


def spare_bytes(shape: Shape, way: Way) -> int:
    """Return the memory that is neither weights nor activations."""
    return SPARE_BYTES + (CPU_LOGITS * shape.vocabulary if way.weight_bits == 32 else 0)


def peak_bytes(shape: Shape, rank: int, way: Way, tokens: int) -> int:
    """Return the largest memory use of a run whose largest pass has `tokens` tokens, without CUDA itself."""
    held = model_bytes(shape, way) + adapter_bytes(shape, rank)
    return held + token_bytes(shape, way) * tokens + spare_bytes(shape, way)


def fitting_examples(shape: Shape, way: Way, longest: int, free: int, most: int) -> int:
    """Return how many examples can be computed at the same time: 1 to `most`.

    Args:
        shape: the base model.
        way: how it is held.
        longest: tokens of the longest example.
        free: free bytes after the model and the adapter were loaded.
        most: examples in a step.
    """
    fitting = (free - spare_bytes(shape, way)) // max(1, token_bytes(shape, way) * longest)
    return max(1, min(most, fitting))
