"""The part of the plugin that runs in TMDE's own process: it needs no environment and no card."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from tests.tmde_unsloth.support import CARD, MEASURED, NO_CARD, make_backend
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.sdk.environments import Lack
from tmde_core.sdk.training import PreviewingBackend, RecommendingBackend, TrainingBackend, TrainingJob, WorkerCommand
from tmde_core.testing import times_tables, write_job
from tmde_unsloth.environment import ENVIRONMENT
from tmde_unsloth.memory import Way, fitting_examples

GIB = 1024**3


def test_as_many_examples_are_computed_at_once_as_fit():
    way = Way(4, True)
    assert fitting_examples(MEASURED, way, 1004, free=80 * GIB, most=16) == 16
    assert 1 < fitting_examples(MEASURED, way, 1004, free=1 * GIB, most=16) < 16
    assert fitting_examples(MEASURED, way, 1004, free=0, most=16) == 1, "one example is always tried"


@pytest.fixture
def job(tmp_path: Path, tiny_model: Path) -> TrainingJob:
    config = FineTuneConfig(base_model=str(tiny_model), backend="unsloth")
    return from_json(write_job(tmp_path, times_tables(range(2, 4)), [], config).read_bytes(), TrainingJob)


def test_it_has_every_part_that_a_backend_may_have_except_converting(tmp_path):
    backend = make_backend(tmp_path, sys.executable)
    assert isinstance(backend, TrainingBackend)
    assert isinstance(backend, PreviewingBackend)
    assert isinstance(backend, RecommendingBackend)


def test_without_an_environment_it_says_how_to_install_one(tmp_path):
    reason = make_backend(tmp_path, "", report=None).availability().reason
    assert reason == "Its environment is not installed. Run `tmde backends install unsloth`."


def test_an_interpreter_that_was_never_examined_is_not_trusted(tmp_path):
    reason = make_backend(tmp_path, sys.executable, report=None).availability().reason
    assert reason == "Its environment was not examined yet. Run `tmde backends doctor unsloth`."


def test_without_a_card_it_trains_only_where_the_settings_allow_it_and_auto_never_takes_it(tmp_path):
    refused = make_backend(tmp_path, sys.executable, allow_cpu=False)
    assert not refused.availability().ok
    assert "allow_cpu = true in [backends.unsloth]" in refused.availability().reason
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


def test_a_run_that_must_use_the_card_can_never_fall_back_in_silence(tmp_path, job):
    command = make_backend(tmp_path, sys.executable, CARD, allow_cpu=False).plan(job)
    assert command.env["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"
    assert "--allow-cpu" not in command.argv
    assert make_backend(tmp_path, sys.executable, NO_CARD).plan(job).env["UNSLOTH_DISABLE_CPU_FALLBACK"] == "0"


def test_the_worker_installs_nothing_tells_nobody_and_compiles_into_its_own_directory(tmp_path, job):
    env = make_backend(tmp_path, sys.executable, CARD).plan(job).env
    expected = {
        "UNSLOTH_AUTO_INSTALL": "0", "UNSLOTH_DISABLE_STATISTICS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": "",
        "UNSLOTH_COMPILE_LOCATION": f"{job.run_dir}/unsloth-compiled",
    }  # fmt: skip
    assert expected.items() <= env.items()


def test_the_settings_reach_the_worker(tmp_path, job):
    from tmde_unsloth.training.options import Options, parse

    backend = make_backend(tmp_path, "/env/bin/python", CARD, allow_16bit=True, micro_batch=3)
    interpreter, _start, _package, module, *arguments = backend.plan(job).argv
    assert (interpreter, module) == ("/env/bin/python", "tmde_unsloth.training.worker")
    assert parse(arguments) == Options(Path(job.run_dir) / "job.json", True, True, False, 3)


def test_the_preview_is_told_what_the_probe_has_found_so_that_it_need_not_ask_the_card(tmp_path, job):
    from tmde_unsloth.training.options import parse

    *_, module = (command := make_backend(tmp_path, "/env/bin/python", CARD).preview(job)).argv[:4]
    found = parse(command.argv[4:])
    assert module == "tmde_unsloth.training.preview_worker"
    assert (found.device, found.device_bytes) == (CARD.device_name, CARD.memory_bytes)
    without = parse(make_backend(tmp_path, "/env/bin/python", NO_CARD).preview(job).argv[4:])
    assert (without.device, without.device_bytes) == ("CPU", 0)


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


def test_a_gguf_is_planned_if_something_converts_it(tmp_path, job):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.gguf").touch()
    job = msgspec.structs.replace(job, base_model="model.gguf", dequantize=WorkerCommand(argv=("convert",)))
    assert make_backend(tmp_path, sys.executable).plan(job).argv


def test_the_card_needs_less_memory_than_the_processor_for_the_same_job(tmp_path, job):
    on_card = make_backend(tmp_path, sys.executable, CARD).estimate(job)
    without = make_backend(tmp_path, sys.executable, NO_CARD).estimate(job)
    assert on_card.vram_bytes is not None
    assert on_card.seconds is not None
    assert without.ram_bytes is not None
    assert without.vram_bytes is None


def test_every_lock_pins_every_package_once_and_torch_to_the_build_of_its_name():
    from tmde_core.backends.building import locked_packages

    for build in ENVIRONMENT.builds:
        pins = locked_packages(Path(build.lock))
        assert all(pin.count("==") == 1 for pin in pins), build.name
        names = [pin.partition("==")[0].lower() for pin in pins]
        assert len(names) == len(set(names))
        (torch,) = [pin for pin in pins if pin.startswith("torch==")]
        assert torch.endswith(f"+{build.name}")
        assert {"unsloth", "unsloth_zoo", "transformers", "peft", "msgspec", "psutil", "pluggy", "structlog"} <= set(
            names
        )
