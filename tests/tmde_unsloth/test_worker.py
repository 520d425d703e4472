"""Unsloth's real worker as a process, through its CPU fallback, on a model of a few thousand parameters."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests import warm
from tests.conftest import link_models
from tests.tmde_unsloth.support import make_backend
from tmde_core.records.base import from_json, to_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.lora import Manifest
from tmde_core.records.training import PREVIEW_FILE, PreviewReport, TrainingExample, WorkerCommand
from tmde_core.sdk.measured_runs import read_measured_runs
from tmde_core.sdk.worker import list_checkpoints
from tmde_core.services import open_services
from tmde_core.settings import load_settings
from tmde_core.storage.durable import hash_file
from tmde_core.testing import make_context, times_tables
from tmde_core.testing.contracts.training_run import TrainingRun
from tmde_cpu.backend import CpuBackend
from tmde_unsloth.backend import UnslothBackend

pytestmark = [pytest.mark.backends, pytest.mark.slow]

EXAMPLES = times_tables(range(2, 8))
TRAIN, VAL = EXAMPLES[:32], EXAMPLES[32:]


@pytest.fixture(scope="module")
def config(tiny_model: Path) -> FineTuneConfig:
    return FineTuneConfig(
        base_model=str(tiny_model),
        backend="unsloth",
        lora_rank=4,
        batch_size=4,
        gradient_accumulation_steps=1,
        epochs=3,
        learning_rate=1e-3,
    )


@pytest.fixture
def backend(tmp_path: Path, unsloth_python: str) -> UnslothBackend:
    return make_backend(tmp_path, unsloth_python)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, unsloth_python: str, config: FineTuneConfig) -> Iterator[TrainingRun]:
    """A run that nobody disturbed."""
    data_dir = tmp_path_factory.mktemp("whole")
    run = TrainingRun(data_dir, config, TRAIN, VAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        finish(run, make_backend(data_dir, unsloth_python).plan(run.job))
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
    assert (kept.backend, kept.device, kept.quantisation) == ("unsloth", "CPU", "32-bit, all activations kept")
    assert (kept.base_model, kept.lora_rank, kept.micro_batch) == (tiny_model.name, 4, 4)
    assert kept.longest > 50
    assert kept.peak_bytes / 1024**3 == pytest.approx(whole.last().data["metrics"]["peakRamGb"], rel=0.05)
    assert kept.memory_ratio == pytest.approx(1.0, abs=0.25), "the libraries are all that counts with a tiny model"
    assert 1 < kept.start_seconds < 600
    assert kept.allocated_bytes is None


def test_the_adapter_directory_is_that_of_the_cpu_backend(whole: TrainingRun, tiny_model: Path):
    names = {"adapter_model.safetensors", "adapter_config.json", "training_args.json", "metrics.json"}
    assert {file.name for file in whole.adapter_dir.iterdir()} == names | {"manifest.json"}
    manifest = from_json((whole.adapter_dir / "manifest.json").read_bytes(), Manifest)
    assert manifest.files == {name: hash_file(whole.adapter_dir / name) for name in names}
    assert (manifest.base_model, manifest.traces_used) == (tiny_model.name, len(EXAMPLES))
    assert manifest.base_model_sha256 == hash_file(tiny_model / "model.safetensors")
    told = msgspec.json.decode((whole.adapter_dir / "training_args.json").read_bytes())
    assert told["versions"]["unsloth"]


def test_the_same_tokens_are_learned_as_by_the_cpu_backend(whole: TrainingRun, tmp_path: Path):
    """Before the first step the adapter changes nothing, so the first loss is that of the base model on our mask."""
    other = TrainingRun(tmp_path, msgspec.structs.replace(whole.config, backend="cpu", epochs=1), TRAIN, VAL)
    finish(other, CpuBackend(make_context(data_dir=tmp_path)).plan(other.job))
    assert losses(whole)[0] == pytest.approx(losses(other)[0], abs=1e-5)
    rates = [[event.data["learningRate"] for event in run.events("progress")][:1] for run in (whole, other)]
    assert rates[0] == rates[1]


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


def test_lack_of_memory_halves_the_parts_and_changes_nothing_else(whole: TrainingRun, backend, tmp_path):
    config = msgspec.structs.replace(whole.config, batch_size=2, gradient_accumulation_steps=2)
    run = TrainingRun(tmp_path, config, TRAIN, VAL)
    planned = backend.plan(run.job)
    interpreter, start, package, _module, *arguments = planned.argv
    script = str(Path(__file__).with_name("short_of_memory.py"))
    finish(run, WorkerCommand(argv=(interpreter, script, start, package, *arguments), env=planned.env))
    told = [event.data["microBatch"] for event in run.events("log") if "memory" in event.data["text"]]
    assert told == [2, 1]
    assert run.last().data["metrics"]["microBatch"] == 1
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4)
    run.close()


def test_training_stops_when_the_validation_loss_has_not_fallen_three_times(whole: TrainingRun, backend, tmp_path):
    def answering(examples: list[TrainingExample], answer: str) -> list[TrainingExample]:
        return [
            msgspec.structs.replace(one, output=answer, messages=(*one.messages[:-1], Message("assistant", answer)))
            for one in examples
        ]

    # The surer the model becomes of the one answer, the less it expects the other.
    learned, held_out = answering(EXAMPLES, "yes yes yes yes"), answering(EXAMPLES[:6], "7 times 8 is 56")
    run = TrainingRun(tmp_path, msgspec.structs.replace(whole.config, epochs=10, eval_steps=4), learned, held_out)
    finish(run, backend.plan(run.job))
    assert [event.data["best"] for event in run.events("eval")[-4:]] == [True, False, False, False]
    assert any("Stopped early" in event.data["text"] for event in run.events("log"))
    run.close()


def test_without_a_card_nothing_is_trained_unless_the_settings_allow_it(whole, unsloth_python, tmp_path):
    run = TrainingRun(tmp_path, whole.config, TRAIN, VAL)
    finish(run, make_backend(tmp_path, unsloth_python, allow_cpu=False).plan(run.job), status=1)
    assert run.last().data["reason"] == "no-card"
    assert "tmde backends doctor unsloth" in run.last().data["detail"]
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
    assert report.estimate.seconds is not None
    assert not report.calibrated
    assert report.basis.startswith("Memory and time are computed, not measured: no run has ended on CPU yet.")


def test_the_preview_after_a_run_is_corrected_by_it(whole: TrainingRun, unsloth_python):
    command = make_backend(whole.run_dir.parents[1], unsloth_python).preview(whole.job)
    subprocess.run(command.argv, env={**os.environ, **command.env}, check=True, capture_output=True)
    report = from_json((whole.run_dir / PREVIEW_FILE).read_bytes(), PreviewReport)
    (kept,) = read_measured_runs(whole.run_dir.parents[1])
    assert report.calibrated
    assert report.estimate.ram_bytes == pytest.approx(kept.peak_bytes, rel=0.02)
    assert "one earlier run of this base model's size on CPU" in report.basis
    assert report.estimate.seconds == pytest.approx(
        kept.start_seconds + whole.last().data["metrics"]["trainingTimeSeconds"], rel=0.5, abs=5
    )


def wait_for(run: TrainingRun, kind: str) -> None:
    run._wait(lambda: bool(run.events(kind)), kind)
    assert run.events(kind), log_of(run)


async def test_what_was_trained_on_the_embedded_models_weights_is_served(unsloth_python, embedded_model, tmp_path):
    """The worker converts the GGUF that the runtime serves, so both are the same base model."""
    link_models(tmp_path)
    config = FineTuneConfig(
        backend="unsloth",
        lora_rank=4,
        batch_size=4,
        gradient_accumulation_steps=1,
        epochs=1,
    )
    run = TrainingRun(tmp_path, config, TRAIN[:4])
    gguf = tmp_path / "models" / embedded_model.name
    command = CpuBackend(make_context(data_dir=tmp_path)).dequantize(gguf)
    job = msgspec.structs.replace(run.job, base_model=str(gguf), dequantize=command)
    (Path(job.run_dir) / "job.json").write_bytes(to_json(job))
    finish(run, make_backend(tmp_path, unsloth_python).plan(job))
    async with open_services(load_settings(tmp_path, environ={})) as services:
        await services.lora.activate(run.run_id)
        active = await services.lora.get_active()
    assert active is not None
    assert active.id == run.run_id
    assert (run.adapter_dir / "adapter.gguf").is_file()
    run.close()
