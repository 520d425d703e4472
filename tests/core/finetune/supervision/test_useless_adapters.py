"""An adapter that nobody could use is not published, and a run that published one behind the kit's back has failed."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tmde_core.finetune.supervision.ending import examine
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneConfig, FineTuneMetrics
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import find_flaw, publish, staging_directory
from tmde_core.sdk.safetensors_header import all_zero, read_tensors
from tmde_core.sdk.worker.kit import BaseIdentity, RunWorker
from tmde_core.testing import write_adapter, write_job
from tmde_core.testing.adapters import write_safetensors

A, B = "base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"
MATRICES = {A: ((2, 2), [1.0, 2.0, 3.0, 4.0]), B: ((2, 2), [0.0, 0.0, 0.5, 0.0])}
ZERO = ((2, 2), [0.0, -0.0, 0.0, -0.0])

USELESS = {
    "all B zero": (MATRICES | {B: ZERO}, "base", "nothing-learned", "every B matrix"),
    "not a number": (MATRICES | {A: ((1,), [math.nan])}, "base", "nan-weights", "lora_A"),
    "infinite": (MATRICES | {B: ((1,), [math.inf])}, "base", "nan-weights", "lora_B"),
    "no B": ({A: MATRICES[A]}, "base", "bad-weights", "no B matrix"),
    "no tensors": ({}, "base", "bad-weights", "no B matrix"),
    "no base model": (MATRICES, "", "no-base-model", "which base model"),
    "a blank as base model": (MATRICES, "  ", "no-base-model", "which base model"),
}


@pytest.mark.parametrize(("tensors", "base", "reason", "words"), USELESS.values(), ids=USELESS)
def test_the_kit_does_not_publish_a_useless_adapter(tmp_path: Path, tensors, base, reason, words) -> None:
    job = write_job(tmp_path, [], [], FineTuneConfig())
    with RunWorker(job) as worker:
        staging = worker.make_staging()
        write_adapter(staging)
        write_safetensors(staging / "adapter_model.safetensors", tensors)
        worker.publish(FineTuneMetrics(), BaseIdentity(name=base))
    last = json.loads((job.parent / "events.jsonl").read_text().splitlines()[-1])
    assert (worker.exit_code, last["type"], last["data"]["reason"]) == (1, "error", reason)
    assert words in last["data"]["detail"]
    assert list((tmp_path / "lora-adapters").iterdir()) == []


def test_the_kit_does_not_publish_what_is_no_safetensors_file(tmp_path: Path) -> None:
    job = write_job(tmp_path, [], [], FineTuneConfig())
    with RunWorker(job) as worker:
        staging = worker.make_staging()
        write_adapter(staging)
        (staging / "adapter_model.safetensors").write_bytes(b"weights")
        worker.publish(FineTuneMetrics(), BaseIdentity(name="base"))
    assert worker.exit_code == 1
    assert not worker.adapter_dir.exists()


def test_one_b_matrix_that_learned_is_enough(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "adapter_model.safetensors", MATRICES | {B + "2": ZERO})
    assert find_flaw(tmp_path, "base") is None


@pytest.mark.parametrize(
    ("dtype", "zero", "other"), [("BF16", b"\x00\x80", b"\x80\x3f"), ("F16", b"\x00\x80", b"\1\0")]
)
def test_zeros_of_half_the_width_are_seen(tmp_path: Path, dtype: str, zero: bytes, other: bytes) -> None:
    entries = {
        name: {"dtype": dtype, "shape": [2], "data_offsets": [start, start + 4]} for name, start in (("x", 0), ("y", 4))
    }
    header = json.dumps(entries).encode()
    file = tmp_path / "weights"
    file.write_bytes(struct.pack("<Q", len(header)) + header + zero * 2 + zero + other)
    assert all_zero(file, read_tensors(file)) == ["x"]


def test_a_run_whose_worker_published_a_useless_adapter_without_the_kit_has_failed(tmp_path: Path) -> None:
    adapters, runs = tmp_path / "lora-adapters", tmp_path / "runs"

    def ended(base: str, tensors=MATRICES):
        run_id: UUID = uuid4()
        staging = staging_directory(adapters, run_id)
        staging.mkdir(parents=True)
        (runs / str(run_id)).mkdir(parents=True)
        write_adapter(staging)
        write_safetensors(staging / "adapter_model.safetensors", tensors)
        publish(staging, adapters, Manifest(id=run_id, created_at=utc_now(), base_model=base))
        return examine(run_id, runs / str(run_id), AdapterStore(tmp_path), 0)

    assert ended("base").kind == "completed"
    zero = ended("base", MATRICES | {B: ZERO})
    assert zero.kind == "failed"
    assert "every B matrix" in zero.reason
    assert "which base model" in ended("").reason
