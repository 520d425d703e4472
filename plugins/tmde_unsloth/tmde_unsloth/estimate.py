"""Estimate the memory and the time of a run. The server, the preview and the worker use the same formulas.

The figures are computed from the shape of the model. If runs were measured on this machine, the figures are corrected
with them (`tmde_core.sdk.measured_runs`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tmde_core.sdk.measured_runs import Correction, find_correction
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import FineTuneConfig, MemoryParts, ResourceEstimate
from tmde_unsloth.memory import (
    CONTEXT_BYTES,
    ON_CARD,
    ON_CPU,
    Way,
    adapter_bytes,
    fitting_examples,
    model_bytes,
    peak_bytes,
    spare_bytes,
    token_bytes,
)

BACKEND = "unsloth"
CPU = "CPU"
"""The name of the device if there is no card."""

LIBRARY_BYTES = 300_000_000
"""Main memory that Unsloth and PyTorch take on the CPU, beside what `spare_bytes` says. A run with a model of a few thousand weights
took 564 MB."""

START_SECONDS = 45.0
"""The time until the first step on a card: importing Unsloth (27 to 36 s) and loading the model (8 to 9 s)."""
CPU_START_SECONDS = 30.0
"""The same on the CPU."""
END_SECONDS = 3.0
"""The time for writing the adapter and ending the process."""

PASS_SECONDS_PER_LAYER = 0.019
"""The time that a pass takes for each layer, however few tokens it has: starting the kernels, and computing 4-bit weights
back. With `TOKENS_PER_SECOND`, it follows from two measured runs: 39 passes of 3,862 tokens on average in 13.4 s, and 12
passes of 12,550 tokens in 5.2 s."""
PASS_SECONDS_KEPT = 0.012
"""The same if the weights are in 16 bits and all activations are kept: 12 passes in 3.7 s."""
TOKENS_PER_SECOND = 109_000.0
"""The tokens that an H100 trains in a second for each billion weights, beside the time of the passes."""
LARGE_CARDS = ("H100", "H200", "B200")
"""Names of cards that are taken to be as fast as the measured one."""
CARD_SHARE = 0.25
"""The assumed speed of other cards. A consumer card has a tenth to a third of the speed of an H100."""
CPU_TOKENS_PER_CORE = 10.0
"""The tokens that a core trains in a second for each billion weights in 32 bits. Assumed: less than the backend `cpu`,
for which 17 were measured."""
FORWARD_SHARE = 0.35
"""The cost of validation relative to training, because validation runs forward only."""


@dataclass(frozen=True)
class Device:
    """What a run is computed on."""

    name: str = CPU
    """The name of the card, or `CPU`."""
    memory_bytes: int | None = None
    """All memory of the card."""
    cores: int = 1
    """The number of physical cores."""

    @property
    def is_card(self) -> bool:
        """Whether it is a card."""
        return self.name != CPU

    @property
    def way(self) -> Way:
        """How a base model is held on it, with the least memory."""
        return ON_CARD if self.is_card else ON_CPU

    @property
    def base_bytes(self) -> int:
        """The memory that is taken before a model is loaded."""
        return CONTEXT_BYTES if self.is_card else LIBRARY_BYTES


@dataclass(frozen=True)
class Lengths:
    """The numbers of tokens of the examples that fit."""

    train: Sequence[int]
    validation: Sequence[int] = ()

    @property
    def longest(self) -> int:
        """The tokens of the longest example."""
        return max((*self.train, *self.validation), default=0)


@dataclass(frozen=True)
class Estimate:
    """An estimate, and what it is based on."""

    resources: ResourceEstimate
    calibrated: bool = False
    """Whether earlier runs corrected it."""
    basis: str = ""
    """Which figures were measured and which were computed, in sentences."""


def computed_pace(shape: Shape, way: Way, device: Device, passes: int, tokens: int) -> float:
    """Return the tokens a second of `passes` passes with together `tokens` tokens, without a correction."""
    billions = max(shape.weights, 1) / 1e9
    if device.is_card:
        share = 1.0 if any(name in device.name for name in LARGE_CARDS) else CARD_SHARE
        plain = way.weight_bits == 16 and not way.checkpointing
        each = (PASS_SECONDS_KEPT if plain else PASS_SECONDS_PER_LAYER) * shape.layers
        seconds = passes * each + tokens * billions / (TOKENS_PER_SECOND * share)
    else:
        seconds = tokens * billions / (CPU_TOKENS_PER_CORE * device.cores)
    return tokens / seconds if seconds else math.inf


def computed_peak(shape: Shape, rank: int, way: Way, device: Device, tokens: int) -> int:
    """Return the largest memory use of a run whose largest pass has `tokens` tokens, without a correction.

    The figure can be compared with what is measured: without CUDA itself on a card, and with the libraries on a CPU.
    """
    return peak_bytes(shape, rank, way, tokens) + (0 if device.is_card else LIBRARY_BYTES)


def estimate_run(
    data_dir: Path, shape: Shape, config: FineTuneConfig, device: Device, lengths: Lengths, micro_batch: int = 0
) -> Estimate:
    """Estimate a run.

    The memory is that for one of the longest examples at a time, which is the least that a run needs. The time is that
    with as many examples at a time as the whole card holds.

    Args:
        data_dir: the data directory, which has the measured runs.
        shape: the base model.
        config: the hyperparameters.
        device: what the run is computed on.
        lengths: the tokens of the examples.
        micro_batch: examples at the same time, if the settings say so; 0: as many as fit.
    """
    if not lengths.train:
        return Estimate(ResourceEstimate())
    way = device.way
    found = find_correction(data_dir, BACKEND, device.name, way.description, shape.weights)
    memory = _memory(shape, config, device, lengths.longest, found)
    needed = sum((memory.model_bytes, memory.adapter_bytes, memory.example_bytes, memory.other_bytes))
    at_once = _examples_at_once(shape, config, device, lengths, found, micro_batch)
    start = found.start_seconds
    if start is None:
        start = START_SECONDS if device.is_card else CPU_START_SECONDS
    seconds = start + END_SECONDS + _training_seconds(shape, config, device, lengths, at_once) / found.pace
    return Estimate(
        ResourceEstimate(
            vram_bytes=needed if device.is_card else None,
            ram_bytes=None if device.is_card else needed,
            seconds=round(seconds, 1),
            device=device.name if device.is_card else "",
            parts=memory,
        ),
        calibrated=found.runs > 0,
        basis=_describe(found, device, start, at_once),
    )


def _memory(shape: Shape, config: FineTuneConfig, device: Device, longest: int, found: Correction) -> MemoryParts:
    way, factor = device.way, found.memory
    # What the measured figure contains is corrected. It contains the libraries on a CPU, but not CUDA on a card.
    spare = spare_bytes(shape, way) * factor + device.base_bytes * (1.0 if device.is_card else factor)
    return MemoryParts(
        model_bytes=int(model_bytes(shape, way) * factor),
        adapter_bytes=int(adapter_bytes(shape, config.lora_rank) * factor),
        example_bytes=int(token_bytes(shape, way) * longest * factor),
        other_bytes=int(spare),
        weight_bits=way.weight_bits,
    )


def _examples_at_once(
    shape: Shape, config: FineTuneConfig, device: Device, lengths: Lengths, found: Correction, wanted: int
) -> int:
    most = min(config.batch_size * config.gradient_accumulation_steps, len(lengths.train))
    if wanted:
        return min(wanted, most)
    if not device.is_card or device.memory_bytes is None:
        return most  # the time on a CPU does not depend on it
    way = device.way
    held = model_bytes(shape, way) + adapter_bytes(shape, config.lora_rank)
    free = int((device.memory_bytes - device.base_bytes) / found.memory) - held
    return fitting_examples(shape, way, lengths.longest, free, most)


def _training_seconds(shape: Shape, config: FineTuneConfig, device: Device, lengths: Lengths, at_once: int) -> float:
    step = config.batch_size * config.gradient_accumulation_steps
    whole, rest = divmod(len(lengths.train), step)
    passes = whole * math.ceil(step / at_once) + math.ceil(rest / at_once)
    tokens = sum(lengths.train)
    seconds = config.epochs * tokens / computed_pace(shape, device.way, device, passes, tokens)
    held_out = sum(lengths.validation)
    if held_out:
        passes = math.ceil(len(lengths.validation) / at_once)
        steps = math.ceil(len(lengths.train) / step)
        validations = config.epochs * (1 + (steps // config.eval_steps if config.eval_steps else 0))
        pace = computed_pace(shape, device.way, device, passes, held_out)
        seconds += validations * FORWARD_SHARE * held_out / pace
    return seconds


def _describe(found: Correction, device: Device, start: float, at_once: int) -> str:
    first = found.describe(device.name)
    if not found.runs and device.is_card:
        first += " The speed of the card is assumed."
    start_words = "measured" if found.start_seconds is not None else "assumed"
    times = f"The time includes {start:.0f} s ({start_words}) until the first step"
    return f"{first} {times}, and counts on {at_once} examples at a time." if device.is_card else f"{first} {times}."
