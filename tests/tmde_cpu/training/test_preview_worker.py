"""What the preview's process finds out about a dataset, on a model of a few thousand parameters."""

from __future__ import annotations

import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

from tests import warm
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.training import PreviewingBackend, PreviewReport, TrainingJob
from tmde_core.testing import make_context, times_tables, write_job
from tmde_cpu.backend import CpuBackend

EXAMPLES = times_tables(range(2, 7))


def previewed(job: Path) -> CompletedProcess[str]:
    backend = CpuBackend(make_context(data_dir=job.parents[2]))
    assert isinstance(backend, PreviewingBackend)
    plan = backend.preview(from_json(job.read_bytes(), TrainingJob))
    return warm.run(plan.argv, {**os.environ, **plan.env, "OMP_NUM_THREADS": "1"})


def report(job: Path) -> PreviewReport:
    done = previewed(job)
    assert done.returncode == 0, done.stderr
    return from_json((job.parent / "preview.json").read_bytes(), PreviewReport)


def test_lengths_mask_and_estimates_of_a_dataset_are_told_and_the_measurement_is_remembered(tmp_path, tiny_model):
    config = FineTuneConfig(base_model=str(tiny_model), lora_rank=4, batch_size=4, gradient_accumulation_steps=1)
    job = write_job(tmp_path, EXAMPLES[:20], EXAMPLES[20:], config)
    told = report(job)
    assert [one.split for one in told.examples] == ["train"] * 20 + ["val"] * 5
    assert all(0 < one.supervised < one.total for one in told.examples)
    read, learned = told.first_example
    assert (read.supervised, learned.supervised) == (False, True)
    assert EXAMPLES[0].instruction in read.text
    assert learned.text.startswith(EXAMPLES[0].output)
    assert learned.text != EXAMPLES[0].output, "the end of the turn is learned too"
    assert told.calibrated
    assert told.estimate.seconds > 12
    assert 50_000_000 < told.estimate.ram_bytes < 2_000_000_000
    assert told.basis == "Time and memory follow from a measurement of this model on this machine."
    (remembered,) = (tmp_path / "measured").iterdir()
    before = remembered.read_bytes()

    longer = write_job(tmp_path, EXAMPLES[:20], EXAMPLES[20:], msgspec.structs.replace(config, epochs=9))
    assert report(longer).estimate.seconds - 12 == pytest.approx(3 * (told.estimate.seconds - 12), abs=0.2)
    assert remembered.read_bytes() == before
    remembered.write_text("{")
    assert report(longer).calibrated
    assert not (tmp_path / "lora-adapters").exists() or not any((tmp_path / "lora-adapters").iterdir())


def test_a_dataset_in_which_no_example_fits_is_told_all_the_same(tmp_path, tiny_model):
    # Two thousand words are longer than the shortest window there may be.
    long: list[Any] = [msgspec.structs.replace(EXAMPLES[0], messages=(
        *EXAMPLES[0].messages[:-1], msgspec.structs.replace(EXAMPLES[0].messages[-1], content="word " * 2000)
    ))]  # fmt: skip
    job = write_job(tmp_path, long, [], FineTuneConfig(base_model=str(tiny_model), max_seq_length=512))
    told = report(job)
    assert told.examples[0].total > 512
    assert (told.calibrated, told.estimate.seconds) == (False, None)


def test_examples_that_cannot_be_encoded_are_told_with_their_reason(tmp_path, tiny_model):
    silent = msgspec.structs.replace(EXAMPLES[0], messages=EXAMPLES[0].messages[:-1])
    job = write_job(tmp_path, [silent, *EXAMPLES[1:20]], EXAMPLES[20:], FineTuneConfig(base_model=str(tiny_model)))
    with (job.parent / "val.jsonl").open("a") as file:
        file.write("{}\n")
    told = report(job)
    assert len(told.examples) == 19 + 5
    assert [(one.trace_id, one.split, one.reason) for one in told.left_out] == [
        (silent.trace_id, "train", "empty"),
        ("", "val", "unreadable"),
    ]
    assert told.left_out[1].detail.startswith("val.jsonl, line 6:")
    assert EXAMPLES[1].instruction in told.first_example[0].text


def test_what_stands_in_the_way_is_one_sentence(tmp_path, tiny_model):
    refusing = tmp_path / "model"
    refusing.mkdir()
    for file in tiny_model.iterdir():
        (refusing / file.name).write_bytes(file.read_bytes())
    settings = msgspec.json.decode((refusing / "tokenizer_config.json").read_bytes())
    settings["chat_template"] = "{{ raise_exception('No chats.') }}"
    (refusing / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    job = write_job(tmp_path, EXAMPLES, [], FineTuneConfig(base_model=str(refusing)))
    done = previewed(job)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith("The model's chat template refuses the conversation: No chats.")
    )
