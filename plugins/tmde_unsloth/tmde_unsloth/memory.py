"""Estimate the memory of training from the shape of the base model. Pure arithmetic, for the server and the worker.

The factors fit four measured runs of Unsloth 2026.10 on a Llama of 1.07 billion weights (16 layers, width 2,048, inner
width 8,192, rank 16, examples of 1,004 tokens): 1.27 GiB at 4 examples in 4 bits, 2.36 GiB at 16, and 17.9 GiB at 16
examples in 16 bits without checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tmde_core.sdk.model_shape import Shape

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
