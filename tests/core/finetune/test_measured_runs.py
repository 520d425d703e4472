"""What earlier runs needed corrects the next estimate, and nothing that was measured elsewhere or wrongly does."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tmde_core.sdk.measured_runs import (
    MEASURED_FILE,
    Correction,
    MeasuredRun,
    find_correction,
    keep_measured_model,
    keep_measured_run,
    read_measured_runs,
    rough_lengths,
)

RUN = MeasuredRun(
    backend="mine",
    device="RTX 3070",
    base_model="a-model",
    weights=1_000_000_000,
    quantisation="4-bit",
    lora_rank=16,
    micro_batch=4,
    longest=1004,
    computed_bytes=2_000_000_000,
    peak_bytes=2_400_000_000,
    allocated_bytes=2_300_000_000,
    computed_tokens_per_second=4000.0,
    tokens_per_second=2000.0,
    start_seconds=40.0,
    measured_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def keep(data_dir: Path, *runs: MeasuredRun) -> None:
    """Keep runs, the oldest first."""
    for run in runs:
        number = len(list((data_dir / "runs").glob("*")))
        run_dir = data_dir / "runs" / f"run-{number}"
        run_dir.mkdir(parents=True)
        keep_measured_run(run_dir, run)
        if (file := run_dir / MEASURED_FILE).exists():
            os.utime(file, (number + 1, number + 1))


def changed(**values: object) -> MeasuredRun:
    return msgspec.structs.replace(RUN, **values)


def correction(data_dir: Path, weights: int = RUN.weights) -> Correction:
    return find_correction(data_dir, "mine", "RTX 3070", "4-bit", weights)


def test_before_the_first_run_nothing_is_corrected(tmp_path):
    assert correction(tmp_path) == Correction()


def test_one_run_corrects_memory_pace_and_start(tmp_path):
    keep(tmp_path, RUN)
    assert correction(tmp_path) == Correction(memory=1.2, pace=0.5, start_seconds=40.0, runs=1, same_model=True)


def test_the_median_of_the_last_five_counts_so_that_one_odd_run_changes_little(tmp_path):
    old = [changed(peak_bytes=3_900_000_000)] * 6
    keep(tmp_path, *old, *[changed(peak_bytes=n * 10**8) for n in (21, 22, 23, 24, 39)])
    found = correction(tmp_path)
    assert (found.memory, found.runs) == (pytest.approx(1.15), 5)


@pytest.mark.parametrize("other", [{"backend": "other"}, {"device": "RTX 3090"}, {"quantisation": "16-bit"}], ids=str)
def test_runs_of_another_backend_card_or_quantisation_do_not_correct_the_memory(tmp_path, other):
    keep(tmp_path, changed(**other))
    found = correction(tmp_path)
    assert (found.memory, found.pace, found.runs) == (1.0, 1.0, 0)


def test_runs_of_another_model_count_until_there_is_one_of_the_same_size(tmp_path):
    keep(tmp_path, RUN)
    assert (correction(tmp_path, 7).memory, correction(tmp_path, 7).same_model) == (1.2, False)
    keep(tmp_path, changed(weights=7, peak_bytes=1_800_000_000))
    assert (correction(tmp_path, 7).memory, correction(tmp_path, 7).same_model) == (0.9, True)


@pytest.mark.parametrize(("peak", "factor"), [(1, 0.5), (10**13, 2.0)])
def test_a_correction_stays_within_bounds(tmp_path, peak, factor):
    keep(tmp_path, changed(peak_bytes=peak))
    assert correction(tmp_path).memory == factor


@pytest.mark.parametrize(
    "wrong",
    [{"computed_bytes": 0}, {"peak_bytes": -1}, {"tokens_per_second": 0.0}, {"start_seconds": -1.0},
     {"computed_tokens_per_second": float("inf")}, {"tokens_per_second": float("nan")}],
    ids=str,
)  # fmt: skip
def test_a_run_without_usable_figures_is_not_kept(tmp_path, wrong):
    keep(tmp_path, changed(**wrong))
    assert list(read_measured_runs(tmp_path)) == []


def test_a_damaged_file_is_skipped_and_hides_no_other(tmp_path):
    keep(tmp_path, RUN, RUN, RUN)
    (tmp_path / "runs" / "run-1" / MEASURED_FILE).write_text('{"backend": ')
    (tmp_path / "runs" / "run-2" / MEASURED_FILE).write_bytes(msgspec.json.encode(changed(computed_bytes=0)))
    assert list(read_measured_runs(tmp_path)) == [RUN]
    assert correction(tmp_path).runs == 1


def test_a_short_measurement_counts_until_a_run_with_the_model_has_ended(tmp_path):
    other = changed(weights=2_000_000_000, peak_bytes=4_000_000_000, start_seconds=10.0)
    keep(tmp_path, other)
    keep_measured_model(tmp_path, changed(trial=True, peak_bytes=3_000_000_000))
    keep_measured_model(tmp_path, changed(trial=True, peak_bytes=2_200_000_000))
    found = correction(tmp_path)
    assert (found.memory, found.runs, found.same_model, found.trial) == (pytest.approx(1.1), 1, True, True)
    assert found.describe("RTX 3070") == "Time and memory follow from a measurement of this model on this machine."
    assert not correction(tmp_path, weights=3_000_000_000).trial, "it says nothing about another model"
    keep(tmp_path, RUN)
    found = correction(tmp_path)
    assert (found.memory, found.trial) == (pytest.approx(1.2), False)
    assert "one earlier run of this base model's size on RTX 3070" in found.describe("RTX 3070")


@pytest.mark.parametrize(("lines", "lengths"), [(None, []), ("", []), ("a" * 70 + "\n" + "b" * 7, [10.0, 1.0])])
def test_the_lengths_of_examples_are_guessed_from_their_characters(tmp_path, lines, lengths):
    file = tmp_path / "train.jsonl"
    if lines is not None:
        file.write_text(lines)
    assert rough_lengths(file) == lengths
