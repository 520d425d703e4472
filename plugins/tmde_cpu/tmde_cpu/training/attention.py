"""Compute attention inside a pack, where each segment sees its own path.

There are two versions: one is registered with transformers under `NAME`, for models that autograd differentiates. The
other is `forward` and `backward`, on the rows of queries, keys and values that `training.layers` stores side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

from tmde_cpu.training.packing import Segment, Span

NAME = "tmde_packed"

_flash = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_flash_backward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
OPERATORS = _flash is not None and _flash_backward is not None
"""Whether this PyTorch has the operators behind `scaled_dot_product_attention` that `forward` and `backward` need. The
operators have no public name, so a version without them falls back to autograd."""


@dataclass(frozen=True)
class Heads:
    """The number of query heads, the number of key and value heads, and the width of each head."""

    query: int
    key: int
    width: int

    def split(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [N, heads · width] in the shape that attention needs, [1, heads, N, width], without copying."""
        return rows.unflatten(1, (-1, self.width)).transpose(0, 1)[None]


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Sequence[Segment],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of each segment to the earlier segments on its path, and causally to itself.

    The shapes are those of transformers: [1, heads, N, width] in, [1, N, heads, width] out. `segments` is passed
    through the model's keyword arguments. With `sliding_window`, which the model passes for some of its layers, a place
    sees only so many places: itself and those directly before it.
    """
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    for segment in segments:
        start, stop = segment.span
        spans = (*segment.before, segment.span)
        own = query[:, :, start:stop]
        windowed = sliding_window is not None and sliding_window < sum(after - first for first, after in spans)
        if segment.before or windowed:
            keys = torch.cat([key[:, :, first:after] for first, after in spans], dim=2)
            values = torch.cat([value[:, :, first:after] for first, after in spans], dim=2)
            mask = _mask(stop - start, keys.shape[2], sliding_window if windowed else None)
            output = functional.scaled_dot_product_attention(
                own, keys, values, attn_mask=mask, scale=scaling, enable_gqa=grouped
            )
        else:
            output = functional.scaled_dot_product_attention(
                own, key[:, :, start:stop], value[:, :, start:stop], is_causal=True, scale=scaling, enable_gqa=grouped
            )
        outputs.append(output)
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def forward(qkv: torch.Tensor, heads: Heads, segments: Sequence[Segment], out: torch.Tensor) -> list[torch.Tensor]:
    """Write the attention of all segments to `out` [N, heads · width] and return what else `backward` needs.

    Args:
        qkv: [N, at least queries, keys and values side by side].
        heads: the number and width of the heads.
        segments: the segments of the pack.
        out: the result.
    """
    sums = []
    assert _flash is not None
    for segment in segments:
        start, stop = segment.span
        query, key, value, mask = _operands(qkv, heads, segment)
        output, total = _flash(query, key, value, 0.0, mask is None, attn_mask=mask)
        heads.split(out[start:stop]).copy_(output)
        sums.append(total)
    return sums


def backward(
    gradient: torch.Tensor,
    qkv: torch.Tensor,
    heads: Heads,
    segments: Sequence[Segment],
    out: torch.Tensor,
    sums: Sequence[torch.Tensor],
    of_qkv: torch.Tensor,
) -> None:
    """Write the gradients of queries, keys and values to the columns of `of_qkv`, given the gradient of `out`."""
    assert _flash_backward is not None
    queries, keys = heads.query * heads.width, heads.key * heads.width
    of_qkv[:, queries : queries + 2 * keys] = 0
    for segment, total in zip(segments, sums, strict=True):
        start, stop = segment.span
        query, key, value, mask = _operands(qkv, heads, segment)
        of_query, of_key, of_value = _flash_backward(
            heads.split(gradient[start:stop]),
            query,
            key,
            value,
            heads.split(out[start:stop]),
            total,
            0.0,
            mask is None,
            attn_mask=mask,
        )
        heads.split(of_qkv[start:stop, :queries]).copy_(of_query)
        place = 0
        for first, after in _path(segment):
            rows, length = of_qkv[first:after], after - first
            heads.split(rows[:, queries : queries + keys]).add_(of_key[:, :, place : place + length])
            heads.split(rows[:, queries + keys : queries + 2 * keys]).add_(of_value[:, :, place : place + length])
            place += length


def _operands(
    qkv: torch.Tensor, heads: Heads, segment: Segment
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the queries of a segment, the keys and values of its path, and the mask. A mask of None means causal."""
    queries, keys = heads.query * heads.width, heads.key * heads.width
    start, stop = segment.span
    path = _path(segment)
    seen = [qkv[first:after, queries : queries + 2 * keys] for first, after in path]
    rows = seen[0] if len(seen) == 1 else torch.cat(seen)
    mask = _mask(stop - start, rows.shape[0]) if segment.before else None
    return heads.split(qkv[start:stop, :queries]), heads.split(rows[:, :keys]), heads.split(rows[:, keys:]), mask


def _path(segment: Segment) -> list[Span]:
    """Return the spans that a segment sees, its own span last. Adjacent spans are merged."""
    spans: list[Span] = []
    for start, stop in (*segment.before, segment.span):
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], stop)
        else:
            spans.append((start, stop))
    return spans


@lru_cache(maxsize=64)
def _mask(queries: int, keys: int, window: int | None = None) -> torch.Tensor:
    """Return the mask [queries, keys] that is added to scores.

    All keys before the segment are visible. Within the segment, only keys that are not later are visible. With
    `window`, only so many keys are visible: the query's own and those directly before it on the path.
    """
    mask = torch.zeros(queries, keys)
    own = torch.full((queries, queries), float("-inf")).triu(1)
    mask[:, keys - queries :] = own
    if window is not None:
        mask += torch.full((queries, keys), float("-inf")).tril(keys - queries - window)
    return mask


AttentionInterface.register(NAME, packed_attention)
