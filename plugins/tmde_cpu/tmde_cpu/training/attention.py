"""Attention inside a pack: each segment sees its own path. Registered with transformers under `NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from tmde_cpu.training.packing import Segment

NAME = "tmde_packed"


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    segments: Sequence[Segment],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each segment to the segments before it on its path, and causally to itself.

    Shapes are transformers': [1, heads, N, width] in, [1, N, heads, width] out. `segments` comes through the model's
    keyword arguments.
    """
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for segment in segments:
        start, stop = segment.span
        spans = (*segment.before, segment.span)
        own = query[:, :, start:stop]
        if segment.before:
            keys = torch.cat([key[:, :, first:after] for first, after in spans], dim=2)
            values = torch.cat([value[:, :, first:after] for first, after in spans], dim=2)
            mask = _mask(stop - start, keys.shape[2])
            output = functional.scaled_dot_product_attention(
                own, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
            )
        else:
            output = functional.scaled_dot_product_attention(
                own, key[:, :, start:stop], value[:, :, start:stop], is_causal=True, scale=scaling, enable_gqa=grouped
            )
        outputs.append(output)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


@lru_cache(maxsize=64)
def _mask(queries: int, keys: int) -> torch.Tensor:
    """Everything before the segment is seen, and of the segment what is not later: [queries, keys], added to scores."""
    mask = torch.zeros(queries, keys)
    own = torch.full((queries, queries), float("-inf")).triu(1)
    mask[:, keys - queries :] = own
    return mask


AttentionInterface.register(NAME, packed_attention)
