"""What a run needed: the pace without the first step, the start with it, and the memory of the last micro-batch."""

from __future__ import annotations

from functools import partial

import pytest

from tmde_core.sdk.measured_runs import MeasuredRun
from tmde_core.sdk.worker import Measurement, measuring


@pytest.fixture
def measurement(monkeypatch) -> Measurement:
    monkeypatch.setattr(measuring, "_process_seconds", lambda: 50.0)
    return Measurement(100, on_card=False)


describe = partial(
    Measurement.describe, backend="mine", device="CPU", base_model="a-llama", weights=1_000_000, quantisation="32-bit",
    lora_rank=16, micro_batch=2, computed_peak=lambda tokens: 1_000_000 * tokens,
    computed_pace=lambda passes, tokens: float(tokens / passes),
)  # fmt: skip


def described(measurement: Measurement) -> MeasuredRun:
    found = describe(measurement)
    assert found is not None
    return found


def step(measurement: Measurement, *passes: int, seconds: float) -> None:
    for tokens in passes:
        measurement.begin_pass(tokens)
    measurement.end_step(seconds)


def test_the_first_step_counts_as_start_as_far_as_it_took_longer(measurement):
    step(measurement, 200, seconds=12.0)
    step(measurement, 200, 200, seconds=4.0)
    found = described(measurement)
    assert (found.tokens_per_second, found.start_seconds) == (100.0, 48.0)


def test_a_run_of_one_step_has_a_pace_too(measurement):
    step(measurement, 200, seconds=4.0)
    assert (described(measurement).tokens_per_second, described(measurement).start_seconds) == (50.0, 46.0)


def test_without_a_step_nothing_was_measured(measurement):
    assert describe(measurement) is None


def test_what_did_not_fit_counts_neither_as_work_nor_as_the_largest_pass(measurement):
    measurement.begin_pass(1000)  # runs out of memory
    measurement.begin_anew()
    step(measurement, 200, 200, seconds=1.0)
    step(measurement, 200, 100, seconds=3.0)
    found = described(measurement)
    assert found.tokens_per_second == 100.0
    assert found.computed_bytes == 1_000_000 * 200, "that of the largest pass that fitted"
    assert found.computed_tokens_per_second == 150.0, "of the passes after the first step"
    assert found.peak_bytes > 0


def test_a_last_validation_that_did_not_fit_leaves_nothing_to_compare(measurement):
    step(measurement, 200, seconds=1.0)
    measurement.begin_anew()
    assert describe(measurement) is None
