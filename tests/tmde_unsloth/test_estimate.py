"""The estimate before a run: as near to what was measured on a card as promised, and corrected by this machine's runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.tmde_unsloth.support import MEASURED
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.measured_runs import MeasuredRun, keep_measured_run
from tmde_core.sdk.model_shape import Shape
from tmde_unsloth.estimate import CPU, Device, Lengths, computed_pace, computed_peak, estimate_run
from tmde_unsloth.memory import ON_CARD, ON_CPU, Way

GIB = 1024**3
H100 = Device("NVIDIA H100 80GB HBM3", 80 * GIB)
RTX = Device("NVIDIA GeForce RTX 3070", 8 * GIB)
LONG = 1004
LENGTHS = Lengths([LONG] * 50)
CONFIG = FineTuneConfig(epochs=3)
KEPT = Way(16, checkpointing=False)

# The effective batch is 16, so an epoch of 50 examples has three steps of 16 and one of 2.


@pytest.mark.parametrize(
    ("way", "examples", "allocated", "reserved"),
    [(ON_CARD, 4, 1.27, 1.30), (ON_CARD, 16, 2.36, 2.46), (KEPT, 16, 17.9, 18.1)],
)
def test_memory_is_within_a_fifth_of_the_peaks_measured_on_a_card(way, examples, allocated, reserved):
    computed = computed_peak(MEASURED, 16, way, H100, examples * LONG) / GIB
    assert computed == pytest.approx(allocated, rel=0.2)
    assert computed == pytest.approx(reserved, rel=0.2)


SMOLLM = Shape(hidden=576, inner=1536, layers=30, attention=576, keys=192, vocabulary=49_152, tied=True)
"""The embedded model, which was trained without a card."""


@pytest.mark.parametrize(("tokens", "measured"), [(618, 2.97), (2 * 324, 3.15), (2 * 644, 4.79)])
def test_main_memory_is_within_a_fifth_of_the_peaks_measured_without_a_card(tokens, measured):
    assert computed_peak(SMOLLM, 16, ON_CPU, Device(CPU), tokens) / 1e9 == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(
    ("way", "passes", "measured"), [(ON_CARD, 39, 11_216), (ON_CARD, 12, 29_254), (KEPT, 12, 40_589)]
)
def test_the_pace_is_within_a_fifth_of_the_paces_measured_on_a_card(way, passes, measured):
    assert computed_pace(MEASURED, way, H100, passes, 3 * 50 * LONG) == pytest.approx(measured, rel=0.2)


def test_time_includes_importing_and_loading(tmp_path):
    found = estimate_run(tmp_path, MEASURED, CONFIG, H100, LENGTHS)
    assert found.resources.seconds == pytest.approx(36 + 9 + 5.2, rel=0.2)


def test_before_the_first_run_it_says_that_everything_is_computed(tmp_path):
    found = estimate_run(tmp_path, MEASURED, CONFIG, RTX, LENGTHS)
    assert not found.calibrated
    assert found.basis.startswith("Memory and time are computed, not measured")
    assert "45 s (assumed)" in found.basis
    assert found.resources.device == RTX.name


def measured(run_dir: Path, **values: object) -> MeasuredRun:
    """Keep a run of four of the longest examples at a time that needed a third more than computed, at a fifth of the pace."""
    computed = computed_peak(MEASURED, 16, ON_CARD, RTX, 4 * LONG)
    run = MeasuredRun(
        backend="unsloth", device=RTX.name, base_model="a-llama", weights=MEASURED.weights, quantisation=ON_CARD.description,
        lora_rank=16, micro_batch=4, longest=LONG, computed_bytes=computed, peak_bytes=computed * 4 // 3,
        computed_tokens_per_second=10_000.0, tokens_per_second=2_000.0, start_seconds=88.0,
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    run_dir.mkdir(parents=True)
    keep_measured_run(run_dir, msgspec.structs.replace(run, **values))
    return run


def test_a_run_on_this_card_corrects_memory_pace_and_start(tmp_path):
    before = estimate_run(tmp_path, MEASURED, CONFIG, RTX, LENGTHS).resources
    measured(tmp_path / "runs" / "one")
    after = estimate_run(tmp_path, MEASURED, CONFIG, RTX, LENGTHS)
    assert after.calibrated
    assert "one earlier run of this base model's size on NVIDIA GeForce RTX 3070" in after.basis
    assert "88 s (measured)" in after.basis
    assert before.vram_bytes is not None
    assert after.resources.vram_bytes is not None
    context = 600 * 1024**2
    assert after.resources.vram_bytes - context == pytest.approx((before.vram_bytes - context) * 4 / 3, rel=0.001)
    assert before.seconds is not None
    assert after.resources.seconds == pytest.approx(88 + 3 + (before.seconds - 48) * 5, rel=0.02)


def test_a_run_on_another_card_corrects_nothing(tmp_path):
    before = estimate_run(tmp_path, MEASURED, CONFIG, RTX, LENGTHS)
    measured(tmp_path / "runs" / "one", device="NVIDIA GeForce RTX 3090")
    assert estimate_run(tmp_path, MEASURED, CONFIG, RTX, LENGTHS) == before


def test_the_memory_is_that_of_one_example_whatever_the_batch_size(tmp_path):
    sizes = {
        estimate_run(tmp_path, MEASURED, FineTuneConfig(batch_size=size), RTX, LENGTHS).resources.vram_bytes
        for size in (1, 4, 32)
    }
    assert len(sizes) == 1


def test_memory_grows_with_rank_length_and_model_and_its_parts_add_up(tmp_path):
    def need(shape: Shape = MEASURED, longest: int = LONG, **values: object) -> int:
        found = estimate_run(tmp_path, shape, FineTuneConfig(**values), RTX, Lengths([longest]))  # type: ignore[arg-type]
        made = found.resources.parts
        assert made is not None
        total = made.model_bytes + made.adapter_bytes + made.example_bytes + made.other_bytes
        assert found.resources.vram_bytes == total
        return total

    larger = Shape(hidden=4096, inner=14_336, layers=32, attention=4096, keys=1024, vocabulary=128_256, tied=False)
    assert need() < need(lora_rank=64)
    assert need() < need(longest=4000)
    assert need() < need(larger)


def test_fewer_examples_at_a_time_take_longer(tmp_path):
    small, large = Device(RTX.name, 2 * GIB), Device(RTX.name, 24 * GIB)
    slow = estimate_run(tmp_path, MEASURED, CONFIG, small, LENGTHS).resources.seconds
    fast = estimate_run(tmp_path, MEASURED, CONFIG, large, LENGTHS).resources.seconds
    assert slow is not None
    assert fast is not None
    assert slow > fast
    pinned = estimate_run(tmp_path, MEASURED, CONFIG, large, LENGTHS, micro_batch=1).resources.seconds
    assert pinned is not None
    assert pinned > slow


def test_without_a_card_main_memory_is_estimated_and_the_time_too(tmp_path):
    found = estimate_run(tmp_path, MEASURED, CONFIG, Device(CPU, cores=4), LENGTHS).resources
    assert found.vram_bytes is None
    assert found.ram_bytes is not None
    assert found.ram_bytes > 4 * MEASURED.weights
    assert found.seconds is not None
    assert found.parts is not None
    assert found.parts.weight_bits == ON_CPU.weight_bits


@pytest.mark.parametrize("validation", [(), (LONG,) * 7])
def test_validation_takes_time_and_no_examples_take_none(tmp_path, validation):
    found = estimate_run(tmp_path, MEASURED, CONFIG, RTX, Lengths([LONG] * 10, validation)).resources
    alone = estimate_run(tmp_path, MEASURED, CONFIG, RTX, Lengths([LONG] * 10)).resources
    assert found.seconds is not None
    assert alone.seconds is not None
    assert (found.seconds > alone.seconds) == bool(validation)
    assert estimate_run(tmp_path, MEASURED, CONFIG, RTX, Lengths([], validation)).resources.seconds is None
