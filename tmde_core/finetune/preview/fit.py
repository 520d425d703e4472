"""Decides whether a run fits into the memory that is free now, and what to change if it does not. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from tmde_core.finetune.ranges import ranges
from tmde_core.records.finetune import FineTuneConfig, MemoryFit
from tmde_core.records.training import ExampleTokens, MemoryParts, ResourceEstimate
from tmde_core.resources import Gpu
from tmde_core.sdk.cards import same_card_name, short_card_name

MARGIN = 1.2
"""A run fits if so many times its estimate is free, because estimates are right within 20 %."""

GIGABYTE = 1e9
LENGTH_STEP = 64
"""A proposed length is a multiple of this."""


class Memory(NamedTuple):
    """The memory of this machine now."""

    ram_total: int
    ram_free: int
    gpus: Sequence[Gpu] = ()
    """The graphics cards; empty if nothing is known about them."""
    given_back: int = 0
    """What runtimes give back on the card when they are paused for the run."""


class Wanted(NamedTuple):
    """A run that somebody wants to start."""

    config: FineTuneConfig
    estimate: ResourceEstimate
    examples: Sequence[ExampleTokens] = ()
    """The lengths of all examples; empty if they are not known."""
    others: Sequence[str] = ()
    """The other backends that can train here without a card."""


def describe_fits(wanted: Wanted, memory: Memory) -> tuple[MemoryFit, ...]:
    """Return whether the run fits into the graphics card and into main memory, as far as its needs are known."""
    estimate = wanted.estimate
    fits = []
    if estimate.vram_bytes:
        fits.append(_on_card(wanted, estimate.vram_bytes, memory))
    if estimate.ram_bytes:
        room = _Room("ram", memory.ram_free, memory.ram_total)
        fits.append(_fit(wanted, estimate.ram_bytes, room, None if estimate.vram_bytes else estimate.parts))
    return tuple(fits)


class _Room(NamedTuple):
    place: Literal["card", "ram"]
    free: int
    total: int
    device: str = ""
    given_back: int = 0
    """The part of `free` that is only free when runtimes are paused."""

    @property
    def name(self) -> str:
        if self.place == "ram":
            return "main memory"
        return short_card_name(self.device) or "the card"


def _on_card(wanted: Wanted, need: int, memory: Memory) -> MemoryFit:
    device = wanted.estimate.device
    # A card of another name is another card. If no name is known, the freest card counts.
    cards = [gpu for gpu in memory.gpus if same_card_name(gpu.name, device)] or ([] if device else list(memory.gpus))
    if not cards:
        why = "`nvidia-smi` does not answer" if not memory.gpus else f"`nvidia-smi` lists no card named {device}"
        text = f"Needs about {_gb(need)} of the graphics card. How much of it is free is not known: {why}."
        return MemoryFit(place="card", verdict="unknown", needed_bytes=need, device=device, text=text)
    card = max(cards, key=lambda one: one.total_bytes - one.used_bytes)
    free_now = card.total_bytes - card.used_bytes
    # Less than the margin is free beside the runtimes, so they are paused.
    back = min(memory.given_back, card.used_bytes) if free_now < MARGIN * need else 0
    room = _Room("card", free_now + back, card.total_bytes, card.name, back)
    return _fit(wanted, need, room, wanted.estimate.parts)


def _fit(wanted: Wanted, need: int, room: _Room, parts: MemoryParts | None) -> MemoryFit:
    verdict: Literal["fits", "tight", "too-large"] = "fits"
    if need > room.free:
        verdict = "too-large"
    elif need * MARGIN > room.free:
        verdict = "tight"
    paused = f", {_gb(room.given_back)} of it after runtimes are paused" if room.given_back else ""
    figures = f"about {_gb(need)} of {_gb(room.free)} free on {room.name}{paused}"
    if room.place == "ram":
        figures = f"about {_gb(need)} of {_gb(room.free)} free in main memory"
    sentence = {
        "fits": f"Fits: it needs {figures}.",
        "tight": f"Fits only just: it needs {figures}. The estimate may be wrong by 20 %.",
        "too-large": f"Does not fit: it needs {figures}.",
    }[verdict]
    return MemoryFit(
        place=room.place,
        verdict=verdict,
        needed_bytes=need,
        free_bytes=room.free,
        total_bytes=room.total,
        device=room.device,
        text=sentence,
        remedies=() if verdict == "fits" else tuple(_remedies(wanted, need, room, parts)),
    )


# -------------------------------------------------------------------------------------------- remedies


def _remedies(wanted: Wanted, need: int, room: _Room, parts: MemoryParts | None) -> Iterable[str]:
    """Yield what to change, what costs least first."""
    wish = int(room.free / MARGIN)
    others_hold = room.total - room.free
    if need <= (room.total - (parts.other_bytes if parts and room.place == "card" else 0)) and others_hold > 0.1 * need:
        yield _free_memory(room, others_hold)
    if parts is None:
        yield "Lower maxSeqLength (the longest example), the LoRA rank or the batch size, or choose a smaller base model."
    else:
        yield from _smaller_settings(wanted, parts, wish, room)
    if room.place == "card" and wanted.others:
        names = " or ".join(f"`{name}`" for name in wanted.others)
        yield f"Train with the backend {names}, which uses main memory. It is slower."


def _free_memory(room: _Room, held: int) -> str:
    if room.place == "ram":
        return f"Close other programs: they hold {_gb(held)} of the main memory."
    return f"Free the card: other programs hold {_gb(held)} of it. `nvidia-smi` lists them."


def _smaller_settings(wanted: Wanted, parts: MemoryParts, wish: int, room: _Room) -> Iterable[str]:
    config = wanted.config
    fixed = parts.model_bytes + parts.other_bytes
    if parts.weight_bits is not None and parts.weight_bits > 4 and room.place == "card":
        saved = int(parts.model_bytes * (1 - 4.5 / parts.weight_bits))
        yield f"Hold the base model in 4 bits. This saves up to {_gb(saved)}."
    length = _fitting_length(wanted, parts, wish - fixed - parts.adapter_bytes)
    rank = _fitting_rank(config, parts, wish - fixed - parts.example_bytes)
    if length is not None:
        yield _shorten(wanted, length)
    if rank is not None:
        yield f"Lower the LoRA rank from {config.lora_rank} to {rank}."
    if length is None and rank is None:
        least_rank = _lowest("loraRank")
        least_adapter = parts.adapter_bytes * least_rank // max(1, config.lora_rank)
        both = _fitting_length(wanted, parts, wish - fixed - least_adapter)
        if both is not None and config.lora_rank > least_rank:
            yield f"Lower the LoRA rank to {least_rank}, too. {_shorten(wanted, both)}"
        else:
            yield (
                f"Choose a smaller base model: this one takes {_gb(parts.model_bytes)} before it trains. "
                "`tmde models suggest` shows what fits."
            )
    else:
        yield "Or choose a smaller base model. `tmde models suggest` shows what fits."


def _fitting_length(wanted: Wanted, parts: MemoryParts, room: int) -> int | None:
    """Return the largest `maxSeqLength` whose activations fit; None if no allowed one helps."""
    longest = max((one.total for one in wanted.examples if one.total <= wanted.config.max_seq_length), default=0)
    if not longest or not parts.example_bytes:
        return None
    length = int(room * longest / parts.example_bytes) // LENGTH_STEP * LENGTH_STEP
    if not _lowest("maxSeqLength") <= length < longest:
        return None
    left = sum(one.total <= length for one in wanted.examples)
    return length if left >= wanted.config.min_traces else None


def _shorten(wanted: Wanted, length: int) -> str:
    longer = sum(length < one.total <= wanted.config.max_seq_length for one in wanted.examples)
    left_out = "1 longer example is then left out" if longer == 1 else f"{longer:,} longer examples are then left out"
    return f"Lower maxSeqLength to {length:,} tokens; {left_out}."


def _fitting_rank(config: FineTuneConfig, parts: MemoryParts, room: int) -> int | None:
    """Return the largest power of two that fits as LoRA rank; None if no allowed one helps."""
    if not parts.adapter_bytes:
        return None
    fitting = int(room * config.lora_rank / parts.adapter_bytes)
    rank = 1 << fitting.bit_length() - 1 if fitting > 0 else 0
    while rank >= config.lora_rank:
        rank //= 2
    return rank if rank >= _lowest("loraRank") else None


def _lowest(name: str) -> int:
    """Return the lowest allowed value of a hyperparameter, by its JSON name."""
    return int(ranges()[name].minimum or 0)


def _gb(number: int) -> str:
    return f"{number / GIGABYTE:.1f} GB"
