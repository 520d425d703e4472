"""The part of the plugin that runs in TMDE's own process: it needs no environment and no card."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.tmde_axolotl.support import CARD, NO_CARD, make_backend
from tmde_axolotl.environment import ENVIRONMENT
from tmde_axolotl.memory import CONTEXT_BYTES, peak_bytes
from tmde_axolotl.plugin import tmde_training_backends
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.environments import Lack
from tmde_core.sdk.measured_runs import MeasuredRun, keep_measured_run
from tmde_core.sdk.model_shape import Shape
from tmde_core.sdk.training import PreviewingBackend, RecommendingBackend, TrainingBackend, TrainingJob
from tmde_core.testing import times_tables, write_job

GIB = 1024**3

MEASURED = Shape(hidden=2048, inner=8192, layers=16, attention=2048, keys=512, vocabulary=49_152, tied=True)
"""About the Llama of 1.07 billion weights whose memory was measured on a card."""


def test_the_estimate_is_within_a_fifth_of_the_measured_peak():
    assert peak_bytes(MEASURED, 16, 4 * 1004, 4) / GIB == pytest.approx(3.41, rel=0.2)


def test_more_bits_and_more_tokens_need_more_memory():
    assert peak_bytes(MEASURED, 16, 4 * 1004, 4) < peak_bytes(MEASURED, 16, 4 * 1004, 16)
    assert peak_bytes(MEASURED, 16, 1004, 4) < peak_bytes(MEASURED, 16, 4 * 1004, 4)


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path) -> TrainingJob:
    config = FineTuneConfig(base_model=str(tiny_model), backend="axolotl")
    return from_json(write_job(tmp_path, times_tables(range(2, 4)), [], config).read_bytes(), TrainingJob)


def test_auto_prefers_unsloth_then_axolotl():
    from tmde_unsloth.plugin import tmde_training_backends as unsloth

    (own,), (other,) = tmde_training_backends(), unsloth()
    assert 0 < own.preference < other.preference
    assert own.uses_card


def test_it_has_every_part_that_a_backend_may_have_except_converting(tmp_path):
    backend = make_backend(tmp_path, sys.executable)
    assert isinstance(backend, TrainingBackend)
    assert isinstance(backend, PreviewingBackend)
    assert isinstance(backend, RecommendingBackend)


def test_without_an_environment_it_says_how_to_install_one(tmp_path):
    reason = make_backend(tmp_path, "", report=None).availability().reason
    assert reason == "Its environment is not installed. Run `tmde backends install axolotl`."


def test_without_a_card_it_trains_only_where_the_settings_allow_it_and_auto_never_takes_it(tmp_path):
    refused = make_backend(tmp_path, sys.executable, allow_cpu=False)
    assert not refused.availability().ok
    assert "allow_cpu = true in [backends.axolotl]" in refused.availability().reason
    assert not refused.recommendation().ok
    allowed = make_backend(tmp_path, sys.executable)
    assert allowed.availability().ok
    assert not allowed.recommendation().ok


def test_with_a_card_it_is_recommended_by_the_cards_name(tmp_path):
    found = make_backend(tmp_path, sys.executable, CARD, allow_cpu=False).recommendation()
    assert (found.ok, found.reason) == (True, "It trains on NVIDIA GeForce RTX 3090.")


def test_a_fatal_lack_is_the_reason_with_what_to_do(tmp_path):
    broken = msgspec.structs.replace(CARD, lacks=(Lack(what="No 4 bits.", remedy="Install it anew."),))
    assert make_backend(tmp_path, sys.executable, broken).availability().reason == "No 4 bits. Install it anew."


def test_the_worker_fetches_nothing_and_tells_nobody(tmp_path, job):
    env = make_backend(tmp_path, sys.executable, CARD).plan(job).env
    expected = {"HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "WANDB_MODE": "disabled", "PYTHONPATH": ""}
    assert expected.items() <= env.items()


def test_the_settings_reach_the_worker(tmp_path, job):
    from tmde_axolotl.training.options import Options, parse

    (tmp_path / "mine.yaml").write_text("optimizer: lion_8bit\n")
    backend = make_backend(tmp_path, "/env/bin/python", CARD, four_bit=False, extra="mine.yaml")
    for command, name in ((backend.plan(job), "worker"), (backend.preview(job), "preview_worker")):
        interpreter, _start, _package, module, *arguments = command.argv
        assert (interpreter, module) == ("/env/bin/python", f"tmde_axolotl.training.{name}")
        device = CARD.device_name if name == "preview_worker" else ""
        assert parse(arguments) == Options(Path(job.run_dir) / "job.json", True, False, tmp_path / "mine.yaml", device)
    *_, run = make_backend(tmp_path, "/env/bin/python", CARD, allow_cpu=False).plan(job).argv
    assert parse([run]) == Options(Path(job.run_dir) / "job.json", False, True, None)


def test_a_persons_yaml_that_cannot_be_used_is_refused_before_the_run(tmp_path, job):
    with pytest.raises(InvalidInputError, match="cannot be read"):
        make_backend(tmp_path, sys.executable, extra="absent.yaml").plan(job)
    (tmp_path / "mine.yaml").write_text("output_dir: /\n")
    for ask in ("plan", "preview"):
        with pytest.raises(InvalidInputError, match="output_dir"):
            getattr(make_backend(tmp_path, sys.executable, extra="mine.yaml"), ask)(job)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("", "names no base model"),
        ("model.gguf", "the GGUF file model.gguf, and nothing here can convert it"),
        ("nothing-here", "There is no base model 'nothing-here'"),
        ("half", r"lacks tokenizer.json, tokenizer_config.json, \*.safetensors"),
        ("~nobody-of-this-name/x", "cannot be looked at"),
    ],
)
def test_a_base_model_that_cannot_be_trained_is_refused_with_what_to_do(tmp_path, job, base, told):
    models = tmp_path / "models"
    (models / "half").mkdir(parents=True)
    (models / "half" / "config.json").write_text("{}")
    (models / "model.gguf").touch()
    with pytest.raises(InvalidInputError, match=told):
        make_backend(tmp_path, sys.executable).plan(msgspec.structs.replace(job, base_model=base))


def test_the_estimate_is_of_the_card_where_there_is_one(tmp_path, job):
    on_card = make_backend(tmp_path, sys.executable, CARD).estimate(job)
    without = make_backend(tmp_path, sys.executable, NO_CARD).estimate(job)
    assert on_card.vram_bytes is not None
    assert on_card.seconds is not None
    assert without.ram_bytes is not None
    assert without.vram_bytes is None


def test_a_run_on_this_card_corrects_the_next_estimate(tmp_path, job):
    backend = make_backend(tmp_path, sys.executable, CARD)
    before = backend.estimate(job)
    shape = Shape.read(Path(job.base_model))
    assert shape is not None
    run = MeasuredRun(
        backend="axolotl", device=CARD.device_name, base_model="tiny", weights=shape.weights, quantisation="4-bit",
        lora_rank=16, micro_batch=4, longest=100, computed_bytes=1000, peak_bytes=1500, computed_tokens_per_second=100.0,
        tokens_per_second=200.0, start_seconds=20.0, measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    (tmp_path / "runs" / "one").mkdir(parents=True)
    keep_measured_run(tmp_path / "runs" / "one", run)
    after = backend.estimate(job)
    assert after.vram_bytes - CONTEXT_BYTES == pytest.approx((before.vram_bytes - CONTEXT_BYTES) * 1.5, abs=2)
    assert after.seconds - 20 == pytest.approx((before.seconds - 60) / 2, abs=0.1)


def test_every_lock_pins_every_package_once_and_torch_to_the_build_of_its_name():
    from tmde_core.backends.building import locked_packages

    for build in ENVIRONMENT.builds:
        pins = locked_packages(Path(build.lock))
        assert all(pin.count("==") == 1 for pin in pins), build.name
        names = [pin.partition("==")[0].lower() for pin in pins]
        assert len(names) == len(set(names))
        (torch,) = [pin for pin in pins if pin.startswith("torch==")]
        assert torch.endswith(f"+{build.name}")
        assert {"axolotl", "transformers", "peft", "msgspec", "psutil", "pluggy", "structlog"} <= set(names)


def test_every_lock_has_axolotls_own_pins_and_triton_only_where_pytorch_brings_none():
    for build in ENVIRONMENT.builds:
        pins = set(Path(build.lock).read_text().splitlines())
        wanted = {
            "axolotl==0.19.0", "transformers==5.16.1", "trl==1.9.0", "peft==0.20.0", "accelerate==1.13.0",
            "datasets==4.8.4", "tokenizers==0.23.1", "bitsandbytes==0.50.2", "torchao==0.17.0",
        }  # fmt: skip
        assert wanted <= pins, build.name
        assert any(pin.startswith("triton==") for pin in pins) == (build.name == "cpu")


def test_the_probe_says_what_an_environment_without_axolotl_lacks(monkeypatch):
    import importlib.util

    from tmde_axolotl import probe

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("axolotl", "torch") else real(name))
    report = probe.examine()
    assert not report.ok
    assert report.lacks[0].what == "The environment lacks torch, axolotl."
    assert "tmde backends install axolotl" in report.lacks[0].remedy


@pytest.mark.parametrize(("version", "told"), [("0.19.3", False), ("0.21.0", True)])
def test_the_probe_notes_an_axolotl_that_the_plugin_was_not_made_for(monkeypatch, version: str, told: bool):
    from tmde_axolotl import probe
    from tmde_core.sdk import probing

    monkeypatch.setattr(probe, "NEEDED", ())
    monkeypatch.setattr(probing, "package_version", lambda name: version if name == "axolotl" else None)
    lacks = [lack for lack in probe.examine().lacks if "made for" in lack.what]
    assert bool(lacks) == told
    assert not any(lack.fatal for lack in lacks)


def test_the_rows_mask_all_but_the_answer():
    from tmde_axolotl.training.session import rows
    from tmde_core.sdk.worker import IGNORED, EncodedExample

    (row,) = rows([EncodedExample((5, 6, 7, 8), 2, "t")])
    assert row == {"input_ids": [5, 6, 7, 8], "attention_mask": [1, 1, 1, 1], "labels": [IGNORED, IGNORED, 7, 8]}
    assert json.dumps(row)
