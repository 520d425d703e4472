"""Estimate the memory of training from the shape of the base model. Pure arithmetic, for the server and the worker.

The factors fit one measured run of PEFT and bitsandbytes, which Axolotl uses: a Llama of 1.07 billion weights (16
layers, width 2,048, inner width 8,192, vocabulary 49,152, rank 16) in 4 bits with checkpointing reserved 3.41 GiB at 4
examples of 1,004 tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOUR_BIT_BYTES = 0.53
"""Bytes of a weight in NF4 whose scales are quantised too."""
OPTIMIZER_BYTES = 16
"""Bytes for each adapter weight in float32: the weight, its gradient, and AdamW's two moments."""
LOGIT_BYTES = 8
"""Bytes for each logit: the logits in 16 bits, in float32, and their gradient in 16 bits."""
CONTEXT_BYTES = 600 * 1024**2
"""Memory that CUDA and its libraries take on the card before anything is loaded."""


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
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError):
            return None

    @property
    def linear(self) -> int:
        """The number of weights in the projections, which 4 bits apply to."""
        attention = self.hidden * (2 * self.attention + 2 * self.keys)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def embedding(self) -> int:
        """The number of weights in the embedding and the head."""
        return self.hidden * self.vocabulary * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Return the number of weights of an adapter on all seven projections."""
        ends = 4 * self.hidden + 2 * self.attention + 2 * self.keys + 3 * (self.hidden + self.inner)
        return self.layers * rank * ends


def peak_bytes(shape: Shape, rank: int, tokens: int, weight_bits: int) -> int:
    """Return the largest memory use of a run, without CUDA itself.

    Args:
        shape: the base model.
        rank: the rank of the adapter.
        tokens: the tokens of the largest micro-batch, padded.
        weight_bits: 4 or 16 on a card, where the activations of a layer are computed again; 32 without one.
    """
    wide = 4 if weight_bits == 32 else 2
    linear = FOUR_BIT_BYTES if weight_bits == 4 else wide
    weights = shape.linear * linear + shape.embedding * wide + shape.adapter(rank) * OPTIMIZER_BYTES
    layer = wide * (5 * shape.inner + 4 * shape.hidden)
    kept = layer * shape.layers if weight_bits == 32 else layer + wide * shape.hidden * shape.layers
    return int(weights + tokens * (kept + LOGIT_BYTES * shape.vocabulary))
