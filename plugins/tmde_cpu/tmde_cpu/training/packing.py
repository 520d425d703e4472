"""Pack several examples into one sequence: without padding, isolated from each other, with shared beginnings.

The examples of one optimizer step have the same beginning: the same system prompt, often the same template. Sorted,
they form a tree of segments, and each shared beginning is computed once. A token sees only the segments on its own
path, at the position that it has in its own example. Loss and gradients therefore equal those of the separate examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from tmde_core.sdk.worker import EncodedExample

MIN_SHARED_TOKENS = 8
"""The shortest shared beginning. A shorter one costs more in separate attention calls than it saves."""

Span = tuple[int, int]
"""The first place in the pack, and the place after the last one."""


@dataclass(frozen=True)
class Segment:
    """A stretch of the pack that attends to `before` (the segments it continues, in order) and causally to itself."""

    span: Span
    before: tuple[Span, ...]


@dataclass(frozen=True)
class Pack:
    """The input of one forward pass: `N` places, of which `predict` are scored against `targets`."""

    input_ids: torch.Tensor
    """The tokens, [1, N]."""
    position_ids: torch.Tensor
    """The position of each token in its own example, [1, N]."""
    segments: tuple[Segment, ...]
    predict: torch.Tensor
    """The places whose next token is trained on, [S]. A place that several examples share occurs once for each example.
    """
    targets: torch.Tensor
    """The tokens to predict at these places, [S]."""

    @property
    def size(self) -> int:
        """The number of tokens that are computed."""
        return int(self.input_ids.shape[1])

    @property
    def supervised(self) -> int:
        """The number of tokens that are trained on."""
        return int(self.targets.shape[0])


def pack_all(examples: Iterable[EncodedExample], max_tokens: int) -> list[Pack]:
    """Distribute examples over packs of at most `max_tokens`. A longer example gets its own pack."""
    packs: list[Pack] = []
    group: list[EncodedExample] = []
    size = 0
    for example in sorted(examples, key=lambda example: (example.tokens, example.trace_id)):
        cost = len(example.tokens) - 1 - (_shared(group[-1], example) if group else 0)
        if group and size + cost > max_tokens:
            packs.append(pack(group))
            group, size, cost = [], 0, len(example.tokens) - 1
        group.append(example)
        size += cost
    if group:
        packs.append(pack(group))
    return packs


def pack(examples: Sequence[EncodedExample]) -> Pack:
    """Build one pack from examples that are sorted by their tokens."""
    builder = _Builder()
    builder.place(examples, 0, ())
    return Pack(
        torch.tensor([builder.tokens]),
        torch.tensor([builder.positions]),
        tuple(builder.segments),
        torch.tensor(builder.predict),
        torch.tensor(builder.targets),
    )


class _Builder:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []
        self.predict: list[int] = []
        self.targets: list[int] = []

    def place(self, group: Sequence[EncodedExample], depth: int, path: tuple[Span, ...]) -> None:
        """Place the rest of `group`, whose first `depth` tokens are equal and are on `path`."""
        first = 0
        while first < len(group):
            after = first + 1
            while after < len(group) and _shared(group[first], group[after]) - depth >= MIN_SHARED_TOKENS:
                after += 1
            alike = group[first:after]
            if len(alike) == 1:
                self._learn(alike[0], self._extend(alike[0], depth, len(alike[0].tokens) - 1, path))
            else:
                shared = _shared(alike[0], alike[-1])  # sorted, so all examples share what the first and the last share
                self.place_rest(alike, shared, self._extend(alike[0], depth, shared, path))
            first = after

    def place_rest(self, group: Sequence[EncodedExample], depth: int, path: tuple[Span, ...]) -> None:
        """Finish the examples that end here, which equal the shared beginning, and place the others."""
        ended = [example for example in group if len(example.tokens) - 1 == depth]
        for example in ended:
            self._learn(example, path)
        self.place([example for example in group if len(example.tokens) - 1 > depth], depth, path)

    def _extend(self, example: EncodedExample, start: int, stop: int, path: tuple[Span, ...]) -> tuple[Span, ...]:
        # The last token of an example is only predicted, never read.
        if stop <= start:
            return path
        span = (len(self.tokens), len(self.tokens) + stop - start)
        self.tokens.extend(example.tokens[start:stop])
        self.positions.extend(range(start, stop))
        self.segments.append(Segment(span, path))
        return (*path, span)

    def _learn(self, example: EncodedExample, path: tuple[Span, ...]) -> None:
        places = [place for start, stop in path for place in range(start, stop)]
        self.predict.extend(places[example.answer_start - 1 :])
        self.targets.extend(example.tokens[example.answer_start :])


def _shared(a: EncodedExample, b: EncodedExample) -> int:
    """Return how many tokens both examples have in common at the beginning, without their last tokens."""
    limit = min(len(a.tokens), len(b.tokens)) - 1
    for index in range(limit):
        if a.tokens[index] != b.tokens[index]:
            return index
    return limit
