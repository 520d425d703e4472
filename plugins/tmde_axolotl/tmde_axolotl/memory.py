"""Estimate the memory of training from the shape of the base model. Pure arithmetic, for the server and the worker.

The factors fit one measured run of PEFT and bitsandbytes, which Axolotl uses: a Llama of 1.07 billion weights (16
layers, width 2,048, inner width 8,192, vocabulary 49,152, rank 16) in 4 bits with checkpointing reserved 3.41 GiB at 4
examples of 1,004 tokens.
"""

from __future__ import annotations

from tmde_core.sdk.model_shape import Shape

FOUR_BIT_BYTES = 0.53
"""Bytes of a weight in NF4 whose scales are quantised too."""
OPTIMIZER_BYTES = 16
"""Bytes for each adapter weight in float32: the weight, its gradient, and AdamW's two moments."""
LOGIT_BYTES = 8
"""Bytes for each logit: the logits in 16 bits, in float32, and their gradient in 16 bits."""
CONTEXT_BYTES = 600 * 1024**2
"""Memory that CUDA and its libraries take on the card before anything is loaded."""


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
