"""Read the shape of a language model, which the memory and the time of training depend on. No weights are loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmde_core.errors import InvalidInputError
from tmde_core.sdk.gguf_header import read_header, read_shapes

__all__ = ["Shape"]


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

    @classmethod
    def read(cls, directory: Path) -> Shape | None:
        """Return the shape of a model; None if its files name the numbers in another way.

        Args:
            directory: a directory with `config.json`, or a GGUF file.
        """
        try:
            if directory.is_file():
                return cls._read_gguf(directory)
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
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, InvalidInputError):
            return None

    @classmethod
    def _read_gguf(cls, file: Path) -> Shape:
        header = read_header(file)
        shapes = read_shapes(file)

        def number(key: str) -> int:
            return int(header.metadata[f"{header.architecture}.{key}"])

        hidden, heads = number("embedding_length"), number("attention.head_count")
        head = int(header.metadata.get(f"{header.architecture}.attention.key_length") or hidden // heads)
        keys = int(header.metadata.get(f"{header.architecture}.attention.head_count_kv") or heads)
        return cls(
            hidden=hidden,
            inner=number("feed_forward_length"),
            layers=number("block_count"),
            attention=heads * head,
            keys=keys * head,
            vocabulary=shapes["token_embd.weight"][0],
            tied="output.weight" not in shapes,
        )

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
