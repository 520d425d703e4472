"""Axolotl's real worker as a process, without a card, on a model of a few thousand parameters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests import warm
from tests.tmde_axolotl.support import make_backend
from tmde_axolotl.backend import AxolotlBackend
from tmde_core.records.base import from_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.lora import Manifest
from tmde_core.records.training import PREVIEW_FILE, PreviewReport, TrainingExample, TrainingJob, WorkerCommand
from tmde_core.sdk.measured_runs import read_measured_runs
from tmde_core.sdk.worker import list_checkpoints
from tmde_core.storage.durable import hash_file
from tmde_core.testing import make_context, times_tables
from tmde_core.testing.contracts.training_run import TrainingRun
from tmde_cpu.backend import CpuBackend
from tmde_cpu.gguf.adapter_form_worker import make as make_form

pytestmark = [pytest.mark.backends, pytest.mark.slow]

EXAMPLES = times_tables(range(2, 8))
TRAIN, VAL = EXAMPLES[:32], EXAMPLES[32:]


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> FineTuneConfig:
    return FineTuneConfig(
        base_model=str(tiny_model),
        backend="axolotl",
        lora_rank=4,
        batch_size=4,
        gradient_accumulation_steps=1,
        epochs=3,
        learning_rate=1e-3,
    )


@pytest.fixture
def backend(tmp_path: Path, axolotl_python: str) -> AxolotlBackend:
    return make_backend(tmp_path, axolotl_python)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, axolotl_python: str, config: FineTuneConfig) -> Iterator[TrainingRun]:
    """A run that nobody disturbed."""
    data_dir = tmp_path_factory.mktemp("whole")
    run = TrainingRun(data_dir, config, TRAIN, VAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        finish(run, make_backend(data_dir, axolotl_python).plan(run.job))
    yield run
    run.close()


def finish(run: TrainingRun, command: WorkerCommand, status: int = 0) -> None:
    run.start(command)
    assert run.wait() == status, log_of(run)


def log_of(run: TrainingRun) -> str:
    return "\n".join(file.read_text(errors="replace")[-4000:] for file in run.run_dir.glob("*.log"))


def losses(run: TrainingRun) -> list[float]:
    return [event.data["loss"] for event in run.events("progress")]


def weights(run: TrainingRun) -> str:
    return hash_file(run.adapter_dir / "adapter_model.safetensors")


def test_the_loss_falls_and_every_step_validation_and_checkpoint_is_told(whole: TrainingRun):
    kinds = [event.type for event in whole.events()]
    assert [kinds.count(kind) for kind in ("progress", "eval", "checkpoint", "complete")] == [24, 3, 3, 1]
    assert losses(whole)[-1] < losses(whole)[0] - 0.1
    assert whole.last().data["metrics"]["bestValLoss"] == min(one.data["evalLoss"] for one in whole.events("eval"))


def test_a_run_without_a_card_warns_and_records_what_it_computed_on(whole: TrainingRun):
    assert any(event.data["text"].startswith("WARNING: there is no NVIDIA card") for event in whole.events("log"))
    metrics = whole.last().data["metrics"]
    assert (metrics["device"], metrics["quantisation"], metrics["microBatch"]) == ("CPU", "32-bit", 4)
    assert metrics["peakVramGb"] is None
    assert metrics["peakRamGb"] > 0.1


def test_a_run_keeps_what_it_needed_and_under_which_conditions(whole: TrainingRun, tiny_model: Path):
    (kept,) = read_measured_runs(whole.run_dir.parents[1])
    assert (kept.backend, kept.device, kept.quantisation) == ("axolotl", "CPU", "32-bit")
    assert (kept.base_model, kept.lora_rank, kept.micro_batch) == (tiny_model.name, 4, 4)
    assert 0.5 < kept.memory_ratio < 2, "the libraries are all that counts with a tiny model"
    assert 1 < kept.start_seconds < 600


def test_the_adapter_directory_is_that_of_the_cpu_backend(whole: TrainingRun, tiny_model: Path):
    names = {"adapter_model.safetensors", "adapter_config.json", "training_args.json", "metrics.json"}
    assert {file.name for file in whole.adapter_dir.iterdir()} == names | {"manifest.json"}
    manifest = from_json((whole.adapter_dir / "manifest.json").read_bytes(), Manifest)
    assert manifest.files == {name: hash_file(whole.adapter_dir / name) for name in names}
    assert (manifest.base_model, manifest.traces_used) == (tiny_model.name, len(EXAMPLES))
    assert manifest.base_model_sha256 == hash_file(tiny_model / "model.safetensors")
    told = msgspec.json.decode((whole.adapter_dir / "training_args.json").read_bytes())
    assert told["versions"]["axolotl"].startswith("0.19.")


def test_checkpoints_hold_no_pickles(whole: TrainingRun):
    files = [file for directory in list_checkpoints(whole.run_dir) for file in directory.iterdir()]
    assert {file.suffix for file in files} == {".safetensors", ".json"}


def test_the_same_tokens_are_learned_in_the_same_order_at_the_same_rates_as_by_the_cpu_backend(
    whole: TrainingRun, tmp_path: Path
):
    """Before the first step the adapter changes nothing, so the first loss is that of the base model on our mask."""
    other = TrainingRun(tmp_path, msgspec.structs.replace(whole.config, backend="cpu"), TRAIN, VAL)
    finish(other, CpuBackend(make_context(data_dir=tmp_path)).plan(other.job))
    assert losses(whole)[0] == pytest.approx(losses(other)[0], abs=1e-5)
    assert losses(whole) == pytest.approx(losses(other), abs=0.2)
    rates = [[event.data["learningRate"] for event in run.events("progress")] for run in (whole, other)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)
    other.close()


def test_peft_loads_the_adapter_and_it_changes_the_model(whole: TrainingRun, tiny_model: Path):
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "from peft import PeftModel\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "ids = torch.arange(20)[None]\n"
        "before = base(ids).logits\n"
        "after = PeftModel.from_pretrained(base, sys.argv[2])(ids).logits\n"
        "assert (before - after).abs().max() > 1e-3\n"
    )
    done = warm.run([sys.executable, "-c", script, str(tiny_model), str(whole.adapter_dir)])
    assert done.returncode == 0, done.stderr


def test_the_adapter_has_the_form_that_llama_cpp_serves(whole: TrainingRun, tiny_model: Path, tmp_path: Path):
    adapter = shutil.copytree(whole.adapter_dir, tmp_path / "adapter")
    made = make_form(adapter, tiny_model)
    assert (made.reasons, made.note) == ((), "")
    assert (adapter / "adapter.gguf").is_file()


def test_a_person_can_run_the_configuration_by_hand_with_the_command_in_it(whole: TrainingRun):
    text = (whole.run_dir / "axolotl.yaml").read_text()
    (command,) = [line.removeprefix("#").strip() for line in text.splitlines() if "axolotl.cli.train" in line]
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=whole.run_dir)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    output = whole.run_dir / "axolotl-output"
    assert (output / "adapter_model.safetensors").is_file()
    told = json.loads((output / "checkpoint-24" / "trainer_state.json").read_bytes())["log_history"]
    found = [one["loss"] for one in told if "loss" in one]
    assert len(found) == 24
    assert found[-1] < found[0] - 0.1


def test_a_cancelled_run_keeps_its_checkpoint_and_goes_on_to_the_same_bits(whole: TrainingRun, backend, tmp_path):
    run = TrainingRun(tmp_path, whole.config, TRAIN, VAL)
    run.start(backend.plan(run.job))
    wait_for(run, "checkpoint")
    assert run.terminate() == 143, log_of(run)
    assert run.last().type == "cancelled"
    assert not run.adapter_dir.exists()
    (*_, newest) = list_checkpoints(run.run_dir)
    finish(run, backend.plan(run.resume_from(newest)))
    first = run.events("progress")[0].data
    assert first["step"] == int(newest.name.partition("-")[2]) + 1
    assert weights(run) == weights(whole)
    run.close()


def test_lack_of_memory_is_told_and_smaller_parts_learn_the_same(whole: TrainingRun, backend, tmp_path):
    config = msgspec.structs.replace(whole.config, batch_size=2, gradient_accumulation_steps=2)
    run = TrainingRun(tmp_path, config, TRAIN, VAL)
    finish(run, short_of_memory(backend, run.job), status=1)
    assert run.last().data["reason"] == "out-of-memory"
    smaller = msgspec.structs.replace(config, batch_size=1, gradient_accumulation_steps=4)
    job = msgspec.structs.replace(run.job, config=msgspec.to_builtins(smaller))
    (run.run_dir / "job.json").write_bytes(msgspec.json.encode(job))
    finish(run, short_of_memory(backend, job))
    assert run.last().data["metrics"]["microBatch"] == 1
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4)
    run.close()


def short_of_memory(backend: AxolotlBackend, job: TrainingJob) -> WorkerCommand:
    planned = backend.plan(job)
    interpreter, start, package, _module, *arguments = planned.argv
    script = str(Path(__file__).with_name("short_of_memory.py"))
    return WorkerCommand(argv=(interpreter, script, start, package, *arguments), env=planned.env)


def test_training_stops_early_and_a_persons_yaml_takes_part(whole: TrainingRun, axolotl_python, tmp_path):
    def answering(examples: list[TrainingExample], answer: str) -> list[TrainingExample]:
        return [
            msgspec.structs.replace(one, output=answer, messages=(*one.messages[:-1], Message("assistant", answer)))
            for one in examples
        ]

    # The surer the model becomes of the one answer, the less it expects the other.
    learned, held_out = answering(EXAMPLES, "yes yes yes yes"), answering(EXAMPLES[:6], "7 times 8 is 56")
    (tmp_path / "mine.yaml").write_text("lora_dropout: 0.01\nadam_beta2: 0.99\n")
    run = TrainingRun(tmp_path, msgspec.structs.replace(whole.config, epochs=10, eval_steps=4), learned, held_out)
    finish(run, make_backend(tmp_path, axolotl_python, extra="mine.yaml").plan(run.job))
    assert [event.data["best"] for event in run.events("eval")[-4:]] == [True, False, False, False]
    assert any("Stopped early" in event.data["text"] for event in run.events("log"))
    assert json.loads((run.adapter_dir / "adapter_config.json").read_bytes())["lora_dropout"] == 0.01
    assert json.loads((run.adapter_dir / "training_args.json").read_bytes())["extra"] == ["lora_dropout", "adam_beta2"]
    run.close()


def test_a_yaml_that_axolotl_refuses_ends_the_run_with_what_to_correct(whole, axolotl_python, tmp_path):
    (tmp_path / "mine.yaml").write_text("optimizer: no_such_optimizer\n")
    run = TrainingRun(tmp_path, whole.config, TRAIN, VAL)
    finish(run, make_backend(tmp_path, axolotl_python, extra="mine.yaml").plan(run.job), status=1)
    assert run.last().data["reason"] == "bad-extra"
    assert "no_such_optimizer" in run.last().data["detail"]
    assert "`extra` in [backends.axolotl]" in run.last().data["detail"]
    run.close()


def test_without_a_card_nothing_is_trained_unless_the_settings_allow_it(whole, axolotl_python, tmp_path):
    run = TrainingRun(tmp_path, whole.config, TRAIN, VAL)
    finish(run, make_backend(tmp_path, axolotl_python, allow_cpu=False).plan(run.job), status=1)
    assert run.last().data["reason"] == "no-card"
    assert "tmde backends doctor axolotl" in run.last().data["detail"]
    run.close()


def test_the_preview_shows_the_mask_as_text_and_warns(whole: TrainingRun, backend, tmp_path):
    run = TrainingRun(tmp_path, whole.config, TRAIN, VAL)
    command = backend.preview(run.job)
    subprocess.run(command.argv, env={**os.environ, **command.env}, check=True, capture_output=True)
    report = from_json((run.run_dir / PREVIEW_FILE).read_bytes(), PreviewReport)
    assert len(report.examples) == len(EXAMPLES)
    read, learned = report.first_example
    assert learned.supervised
    assert not read.supervised
    assert learned.text == f"{TRAIN[0].output}<|im_end|>"
    assert read.text.endswith("<|im_start|>assistant\n")
    assert report.note.startswith("There is no NVIDIA card")
    assert report.estimate.ram_bytes is not None


def wait_for(run: TrainingRun, kind: str) -> None:
    run._wait(lambda: bool(run.events(kind)), kind)
    assert run.events(kind), log_of(run)
