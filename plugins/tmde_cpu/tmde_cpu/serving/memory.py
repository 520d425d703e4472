"""Calculate how much of a model fits a graphics card: layers, context and slots. Nothing is measured or started here.

The sizes of the weights are those of the file. llama.cpp allocates the rest when it loads a model: the cache of keys and
values (`llama_kv_cache`), and the buffers of one step of `batch` tokens. `-ngl N` puts the last N layers on the card;
one more than the model has layers means that the output layer is there too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from tmde_core.sdk.gguf_header import GgufHeader, GgufTensor
from tmde_cpu.serving.options import DEFAULT_CONTEXT, DEFAULT_SLOTS, CacheType

BYTES_PER_VALUE: Mapping[CacheType, float] = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""The bytes of one cached value. The quantised types store 32 values in a block of 34 or 18 bytes."""

FLOOR_CONTEXT = DEFAULT_CONTEXT
"""The fewest tokens of a slot that the calculation chooses, unless the model was trained on fewer."""
FLOOR_SLOTS = 2
"""The fewest slots that the calculation chooses. With one slot, the members of a debate would wait for each other."""
MOST_SLOTS = DEFAULT_SLOTS
"""The most slots that the calculation chooses, and their number without a card."""
ROOMY_CONTEXT = 8192
"""Up to so many tokens the context takes all memory there is. Beyond, it grows only while a second server fits beside the
first: TMDE starts one to switch adapters without a pause."""
MOST_CONTEXT = 32_768
"""The most tokens of a slot that the calculation chooses. A person may set more."""

RESERVE_BYTES = 512 * 1024**2
"""What stays free on each card: the driver's own memory, a desktop that grows, and rounding in allocations."""
FLOAT_BYTES = 4
CACHE_STEP = 256
"""llama.cpp rounds the length of the cache up to a multiple of so many tokens."""

_BLOCK = re.compile(r"blk\.(\d+)\.")
_WINDOW_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3n": 5}
"""In these architectures each n-th layer sees the whole context, and the others a window. The files do not say so."""


class ModelSizes(msgspec.Struct, frozen=True):
    """What the calculation needs to know of a model. Sizes are in bytes, for each layer from the first to the last."""

    layers: tuple[int, ...]
    """The weights of each layer."""
    output: int
    """The weights of the output layer. A model without its own uses the embedding's, which are copied to the card."""
    keys: tuple[int, ...]
    """Cached values of the keys of one token, for each layer; 0 for a layer without attention."""
    values: tuple[int, ...]
    """Cached values of the values of one token, for each layer."""
    windows: tuple[int, ...]
    """How many tokens the layer looks back; 0: the whole context."""
    heads: int
    width: int
    """The length of a token's vector."""
    inner: int
    """The widest vector inside a layer."""
    vocabulary: int
    trained_context: int
    """The tokens of context that the model was trained with; 0: the file does not say so."""

    @property
    def all_layers(self) -> int:
        """The value of `-ngl` that puts everything on the card."""
        return len(self.layers) + 1


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings ask for. None means: as much as fits."""

    layers: int | None = None
    context: int | None = None
    slots: int | None = None
    batch: int = 512
    key_type: CacheType = "f16"
    value_type: CacheType = "f16"
    flash_attention: bool = True
    """Without flash attention, the scores of a whole step are in memory at once."""
    adapters: int = 0
    """Bytes of the adapters that are loaded with the model."""


class MemoryPlan(msgspec.Struct, frozen=True):
    """How the model is served."""

    layers: int
    """The value of `-ngl`: 0 is the processor alone, `ModelSizes.all_layers` is everything."""
    context: int
    """Tokens in each slot."""
    slots: int
    card_bytes: int
    """The estimated memory on the cards."""


def plan_memory(sizes: ModelSizes, free: Sequence[int], wish: Wish) -> MemoryPlan:
    """Choose layers, context and slots for cards with `free` bytes each.

    All layers come first, then the slots, then the context, which is doubled as long as there is room. If not all layers
    fit beside the smallest context, as many as fit are on the card.
    """
    cards = [room for card in free if (room := card - RESERVE_BYTES) > 0]
    room = sum(cards) - max(0, len(cards) - 1) * max(sizes.layers, default=0)  # a layer is never cut in two
    choices = list(_choices(sizes, wish))
    wanted = sizes.all_layers if wish.layers is None else min(wish.layers, sizes.all_layers)
    if not wanted or not (cards if wish.layers is None else free):
        return _without_card(sizes, wish)
    for context, slots in reversed(choices):
        needed = card_bytes(sizes, wanted, context, slots, wish, cards=len(cards))
        chosen = wish.context is not None or context <= ROOMY_CONTEXT
        if needed * (1 if chosen else 2) <= room:
            return MemoryPlan(wanted, context, slots, needed)
    context, slots = choices[0]
    if wish.layers is not None:  # a person insists on the layers; the server says whether it can load them
        return MemoryPlan(wanted, context, slots, card_bytes(sizes, wanted, context, slots, wish, cards=len(cards)))
    for layers in range(len(sizes.layers) - 1, 0, -1):
        needed = card_bytes(sizes, layers, context, slots, wish, cards=len(cards))
        if needed <= room:
            return MemoryPlan(layers, context, slots, needed)
    return _without_card(sizes, wish)


def fitting_layers(sizes: ModelSizes, free: Sequence[int], plan: MemoryPlan, wish: Wish) -> MemoryPlan:
    """Return `plan` with as many of its layers as fit now; context and slots stay as they have been promised."""
    fixed = msgspec.structs.replace(wish, context=plan.context, slots=plan.slots, layers=None)
    found = plan_memory(sizes, free, fixed)
    if found.layers <= plan.layers:
        return found
    needed = card_bytes(sizes, plan.layers, plan.context, plan.slots, wish, cards=max(1, len(free)))
    return msgspec.structs.replace(plan, card_bytes=needed)


def card_bytes(sizes: ModelSizes, layers: int, context: int, slots: int, wish: Wish, *, cards: int = 1) -> int:
    """Estimate the memory that the last `layers` layers take on the cards."""
    if layers < 1:
        return 0
    on_card = range(max(0, len(sizes.layers) - layers), len(sizes.layers))
    # Older builds put the output layer on the card after the others, newer ones before them. It is always counted.
    weights = sum(sizes.layers[place] for place in on_card) + sizes.output
    cache = sum(_cache_bytes(sizes, place, context, slots, wish) for place in on_card)
    step = _step_bytes(sizes, context, wish)
    # The weights that stay in main memory are copied to the card, one tensor after the other, to read long prompts.
    copied = 0 if layers >= sizes.all_layers else max((*sizes.layers, sizes.output))
    return weights + cache + step * cards + copied + wish.adapters


def model_sizes(header: GgufHeader, tensors: Mapping[str, GgufTensor]) -> ModelSizes:
    """Return the sizes of the model with this header and these tensors. Tensors of split files may be joined."""
    layers = _layer_count(header, tensors)
    weights = [0] * layers
    for name, tensor in tensors.items():
        if (found := _BLOCK.match(name)) and int(found[1]) < layers:
            weights[int(found[1])] += tensor.size
    embedding = tensors.get("token_embd.weight")
    own_output = sum(tensor.size for name, tensor in tensors.items() if name.startswith("output"))
    has_output = "output.weight" in tensors
    width = _number(header, "embedding_length") or (embedding.shape[-1] if embedding and embedding.shape else 0)
    return ModelSizes(
        layers=tuple(weights),
        output=own_output + (0 if has_output or embedding is None else embedding.size),
        keys=tuple(_cached(header, tensors, place, "k", width) for place in range(layers)),
        values=tuple(_cached(header, tensors, place, "v", width) for place in range(layers)),
        windows=tuple(_window(header, place) for place in range(layers)),
        heads=max(1, _number(header, "attention.head_count")),
        width=width,
        inner=_inner(tensors),
        vocabulary=embedding.shape[0] if embedding and len(embedding.shape) == 2 else _number(header, "vocab_size"),
        trained_context=header.context_length or 0,
    )


def _choices(sizes: ModelSizes, wish: Wish) -> Iterable[tuple[int, int]]:
    """Yield pairs of context and slots, from the smallest to the largest."""
    contexts = [wish.context] if wish.context else _contexts(sizes.trained_context)
    slots = [wish.slots] if wish.slots else list(range(FLOOR_SLOTS, MOST_SLOTS + 1))
    yield from ((contexts[0], count) for count in slots)
    yield from ((context, slots[-1]) for context in contexts[1:])


def _contexts(trained: int) -> list[int]:
    top = min(trained, MOST_CONTEXT) if trained else FLOOR_CONTEXT
    contexts = [min(FLOOR_CONTEXT, top)]
    while contexts[-1] < top:
        contexts.append(min(contexts[-1] * 2, top))
    return contexts


def _without_card(sizes: ModelSizes, wish: Wish) -> MemoryPlan:
    return MemoryPlan(0, wish.context or _contexts(sizes.trained_context)[0], wish.slots or MOST_SLOTS, 0)


def _cache_bytes(sizes: ModelSizes, place: int, context: int, slots: int, wish: Wish) -> int:
    tokens, window = context, sizes.windows[place]
    if window:
        tokens = min(context, window + wish.batch)
    tokens = -(-tokens // CACHE_STEP) * CACHE_STEP
    keys = sizes.keys[place] * BYTES_PER_VALUE[wish.key_type]
    values = sizes.values[place] * BYTES_PER_VALUE[wish.value_type]
    return int(tokens * slots * (keys + values))


def _step_bytes(sizes: ModelSizes, context: int, wish: Wish) -> int:
    """Return the buffers of one step: the vectors inside a layer, and the scores of every token of the vocabulary."""
    vectors = 4 * sizes.width + 2 * sizes.inner
    scores = 0 if wish.flash_attention else sizes.heads * context
    return FLOAT_BYTES * wish.batch * (max(sizes.vocabulary + sizes.width, vectors + scores) + context)


def _layer_count(header: GgufHeader, tensors: Mapping[str, GgufTensor]) -> int:
    named = max((int(found[1]) + 1 for name in tensors if (found := _BLOCK.match(name))), default=0)
    return _number(header, "block_count") or named


def _inner(tensors: Mapping[str, GgufTensor]) -> int:
    """Return the longest vector that a matrix of a layer gives."""
    matrices = (tensor for name, tensor in tensors.items() if _BLOCK.match(name) and len(tensor.shape) == 2)
    return max((tensor.shape[0] for tensor in matrices), default=0)


def _cached(
    header: GgufHeader, tensors: Mapping[str, GgufTensor], place: int, part: Literal["k", "v"], width: int
) -> int:
    """Return how many values of a token's keys or values the layer caches."""
    if matrix := tensors.get(f"blk.{place}.attn_{part}.weight"):
        return matrix.shape[0]
    names = {name for name in tensors if name.startswith(f"blk.{place}.")}
    if (other := tensors.get(f"blk.{place}.attn_k.weight")) is not None:  # the values are made from the keys
        return other.shape[0]
    if shared := tensors.get(f"blk.{place}.attn_kv_a_mqa.weight"):  # one compressed vector stands for both
        return shared.shape[0] if part == "k" else 0
    if names and not any(".attn_" in name and "norm" not in name for name in names):
        return 0  # a layer without attention
    heads = max(1, _number(header, "attention.head_count"))
    groups = _number(header, "attention.head_count_kv") or heads
    length = _number(header, "attention.key_length" if part == "k" else "attention.value_length") or width // heads
    return groups * length


def _window(header: GgufHeader, place: int) -> int:
    window = _number(header, "attention.sliding_window")
    every = _number(header, "attention.sliding_window_pattern") or _WINDOW_EVERY.get(header.architecture, 0)
    return window if window and every and place % every < every - 1 else 0


def _number(header: GgufHeader, field: str) -> int:
    value = header.metadata.get(f"{header.architecture}.{field}")
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
