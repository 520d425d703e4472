"""Measure what a run needs: the largest memory use, the pace, and the time until the first step.

Private: import from `tmde_core.sdk.worker`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

from tmde_core.records.base import utc_now
from tmde_core.sdk.measured_runs import MeasuredRun
from tmde_core.sdk.worker.publishing import measure_ram_peak

__all__ = ["Measurement"]


class Measurement:
    """The measurement of one process of a run. Create it when the model is loaded."""

    def __init__(self, longest: int, *, on_card: bool) -> None:
        """Begin to measure.

        Args:
            longest: the tokens of the longest example.
            on_card: whether the run computes on a card. Otherwise main memory is measured.
        """
        self._on_card = on_card
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
            import torch

            torch.cuda.empty_cache()  # what loading left behind would count as used
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget the largest memory use, because from now on fewer examples are computed at the same time."""
        self._step_passes = self._step_tokens = self._largest_pass = 0
        if self._on_card:
            import torch

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
        import torch

        return (
            max(self._before[0], torch.cuda.max_memory_reserved()),
            max(self._before[1], torch.cuda.max_memory_allocated()),
        )

    def describe(
        self,
        *,
        backend: str,
        device: str,
        base_model: str,
        weights: int,
        quantisation: str,
        lora_rank: int,
        micro_batch: int,
        computed_peak: Callable[[int], int],
        computed_pace: Callable[[int, int], float],
    ) -> MeasuredRun | None:
        """Return what the run needed; None if the process has done no step, or none with the last micro-batch.

        Args:
            backend: see `MeasuredRun`, as for the other values that are not explained here.
            device: the name of the card, or `CPU`.
            base_model: the name of the base model.
            weights: the number of weights of the base model.
            quantisation: how the base model was held.
            lora_rank: the rank of the adapter.
            micro_batch: examples that were computed at the same time.
            computed_peak: returns the bytes that the backend's formula gives for a largest pass of so many tokens.
            computed_pace: returns the tokens a second that the formula gives for so many passes with together so many
                tokens.
        """
        if not self._steps or not self._largest_pass:
            return None
        passes, tokens, seconds = self._passes, self._tokens, self._seconds
        if self._steps == 1:  # the first step is all there is
            passes, tokens, seconds = self._first_passes, self._first_tokens, self._first_seconds
        pace = tokens / max(seconds, 1e-6)
        peak, allocated = measure_ram_peak(), None
        if self._on_card:
            import torch

            peak, allocated = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()
        return MeasuredRun(
            backend=backend,
            device=device,
            base_model=base_model,
            weights=weights,
            quantisation=quantisation,
            lora_rank=lora_rank,
            micro_batch=micro_batch,
            longest=self._longest,
            computed_bytes=computed_peak(self._largest_pass),
            peak_bytes=peak,
            allocated_bytes=allocated,
            computed_tokens_per_second=computed_pace(passes, tokens),
            tokens_per_second=round(pace, 2),
            # What the first step took more than a later one of its size belongs to the start.
            start_seconds=round(max(0.0, self._start_seconds - self._first_tokens / pace), 1),
            measured_at=utc_now(),
        )


def _process_seconds() -> float:
    """Return how long this process has existed."""
    return time.time() - psutil.Process(os.getpid()).create_time()
