"""Measure what a run needs: the largest memory use, the pace, and the time until the first step."""

from __future__ import annotations

import os
import resource
import time

import psutil
import torch

from tmde_core.sdk.measured_runs import MeasuredRun
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.records import utc_now
from tmde_core.sdk.training import FineTuneConfig
from tmde_unsloth.estimate import BACKEND, Device, computed_pace, computed_peak
from tmde_unsloth.memory import Way


class Measurement:
    """The measurement of one process of a run. It begins when the model is loaded."""

    def __init__(self, device: torch.device, longest: int) -> None:
        """Begin to measure.

        Args:
            device: what the run is computed on.
            longest: the tokens of the longest example.
        """
        self._on_card = device.type == "cuda"
        self._longest = longest
        self._before: tuple[int, int] = (0, 0)
        """The peaks before the last `begin_anew`: reserved, allocated."""
        self._largest_pass = 0
        self._start_seconds = 0.0
        self._first_tokens = 0
        self._first_passes = 0
        self._first_seconds = 0.0
        self._steps = 0
        self._passes = 0
        self._tokens = 0
        self._seconds = 0.0
        self._step_passes = 0
        self._step_tokens = 0
        if self._on_card:
            torch.cuda.empty_cache()  # what loading left behind would count as used
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the largest memory use, because from now on fewer examples are computed at the same time."""
        self._step_passes = self._step_tokens = self._largest_pass = 0
        if self._on_card:
            now = (torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated())
            self._before = (max(self._before[0], now[0]), max(self._before[1], now[1]))
            torch.cuda.reset_peak_memory_stats()

    def begin_pass(self, tokens: int) -> None:
        """Note a pass of a training step with so many tokens, padding included."""
        self._largest_pass = max(self._largest_pass, tokens)
        self._step_passes += 1
        self._step_tokens += tokens

    def end_step(self, seconds: float) -> None:
        """Note the end of a step. The first step also compiles kernels, so it is kept apart."""
        if self._steps == 0:
            self._start_seconds = _process_seconds()
            self._first_passes, self._first_tokens = self._step_passes, self._step_tokens
            self._first_seconds = seconds
        else:
            self._passes += self._step_passes
            self._tokens += self._step_tokens
            self._seconds += seconds
        self._steps += 1
        self._step_passes = self._step_tokens = 0

    def card_peaks(self) -> tuple[int | None, int | None]:
        """Return the largest reserved and allocated memory of the card, loading included; None without a card."""
        if not self._on_card:
            return None, None
        return (
            max(self._before[0], torch.cuda.max_memory_reserved()),
            max(self._before[1], torch.cuda.max_memory_allocated()),
        )

    def describe(
        self, shape: Shape, config: FineTuneConfig, way: Way, device: Device, micro_batch: int
    ) -> MeasuredRun | None:
        """Return what the run needed; None if the process has done no step, or none with the last micro-batch."""
        if not self._steps or not self._largest_pass:
            return None
        passes, tokens, seconds = self._passes, self._tokens, self._seconds
        if self._steps == 1:  # the first step is all there is
            passes, tokens, seconds = self._first_passes, self._first_tokens, self._first_seconds
        pace = tokens / max(seconds, 1e-6)
        return MeasuredRun(
            backend=BACKEND,
            device=device.name,
            base_model="",
            weights=shape.weights,
            quantisation=way.description,
            lora_rank=config.lora_rank,
            micro_batch=micro_batch,
            longest=self._longest,
            computed_bytes=computed_peak(shape, config.lora_rank, way, device, self._largest_pass),
            peak_bytes=torch.cuda.max_memory_reserved() if self._on_card else ram_peak(),
            allocated_bytes=torch.cuda.max_memory_allocated() if self._on_card else None,
            computed_tokens_per_second=computed_pace(shape, way, device, passes, tokens),
            tokens_per_second=round(pace, 2),
            # What the first step took more than a later one of its size belongs to the start.
            start_seconds=round(max(0.0, self._start_seconds - self._first_tokens / pace), 1),
            measured_at=utc_now(),
        )


def ram_peak() -> int:
    """Return the largest main memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _process_seconds() -> float:
    """Return how long this process has existed."""
    return time.time() - psutil.Process(os.getpid()).create_time()
