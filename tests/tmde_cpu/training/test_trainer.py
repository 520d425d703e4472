"""The worker as a process, on a model of a few thousand parameters: what it leaves behind, however it ends.

Where nothing is asked about the process itself it has its libraries loaded when it begins: see `tests.warm`.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from tests import warm
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import from_json
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.lora import Manifest
from tmde_core.sdk.measured_runs import read_measured_runs
from tmde_core.sdk.runtimes import Message
from tmde_core.sdk.training import TrainingBackend, TrainingExample, TrainingJob
from tmde_core.sdk.worker import TrainingFailedError, check_loss, list_checkpoints
from tmde_core.storage.durable import hash_file
from tmde_core.storage.events import Event, FileLog
from tmde_core.testing import make_context, times_tables, write_job
from tmde_cpu.backend import CpuBackend

EXAMPLES = times_tables(range(2, 8))
HELD_TRAINER = Path(__file__).with_name("held_trainer.py")


@pytest.fixture
def config(tiny_model) -> FineTuneConfig:
    return FineTuneConfig(
        base_model=str(tiny_model),
        lora_rank=4,
        batch_size=4,
        gradient_accumulation_steps=1,
        epochs=3,
        learning_rate=1e-3,
    )


def command(job: Path, *, held: bool = False) -> dict[str, Any]:
    plan = CpuBackend(make_context(data_dir=job.parents[2])).plan(from_json(job.read_bytes(), TrainingJob))
    args = (sys.executable, str(HELD_TRAINER), str(job)) if held else plan.argv
    return {"args": args, "env": {**os.environ, **plan.env, "OMP_NUM_THREADS": "1"}}


def run(job: Path, *, as_planned: bool = False) -> int:
    given, log = command(job), job.parent / "worker.log"
    if as_planned:
        with log.open("ab") as opened:
            return subprocess.run(**given, check=False, stdout=opened, stderr=opened).returncode
    done = warm.run(given["args"], given["env"])
    log.write_text(done.stdout + done.stderr)
    return done.returncode


def events(job: Path, kind: str = "") -> list[Event]:
    return [event for event in FileLog(job.parent / "events.jsonl").read() if kind in ("", event.type)]


def adapter(job: Path) -> Path:
    return job.parents[2] / "lora-adapters" / job.parent.name


def begin(job: Path, *, held: bool = False) -> ForkServerProcess:
    """Begin a run and do not wait for its end."""
    given, log = command(job, held=held), job.parent / "worker.log"
    return warm.start(given["args"], log, log, given["env"])


def wait_for(job: Path, kind: str, process: ForkServerProcess) -> None:
    while not events(job, kind):
        assert process.exitcode is None, (job.parent / "worker.log").read_text()
        time.sleep(0.01)


def test_a_run_leaves_a_whole_adapter_its_manifest_and_every_step_in_the_log(tmp_path, config):
    job = write_job(tmp_path, EXAMPLES[:32], EXAMPLES[32:], config)
    assert run(job, as_planned=True) == 0, (job.parent / "worker.log").read_text()
    kinds = [event.type for event in events(job)]
    assert kinds.count("progress") == 8 * 3
    assert kinds.count("eval") == 3
    assert kinds[-1] == "complete"
    first, last = events(job, "progress")[0].data, events(job, "progress")[-1].data
    assert last["loss"] < first["loss"]
    assert last["step"] == last["totalSteps"] == 24
    assert {"learningRate", "tokensPerSecond", "rssBytes", "etaSeconds"} <= last.keys()
    assert last["etaSeconds"] == 0
    names = {"adapter_model.safetensors", "adapter_config.json", "adapter.gguf", "training_args.json", "metrics.json"}
    assert {file.name for file in adapter(job).iterdir()} == names | {"manifest.json"}
    manifest = from_json((adapter(job) / "manifest.json").read_bytes(), Manifest)
    assert manifest.files == {name: hash_file(adapter(job) / name) for name in names}
    assert manifest.traces_used == len(EXAMPLES)
    assert manifest.base_model_sha256
    assert manifest.tokenizer_sha256
    assert manifest.chat_template_sha256
    assert manifest.metrics["bestValLoss"] == min(event.data["evalLoss"] for event in events(job, "eval"))
    assert not list((tmp_path / "lora-adapters").glob(".*"))
    assert len(list_checkpoints(job.parent)) == 2
    (kept,) = read_measured_runs(tmp_path)
    assert (kept.backend, kept.device, kept.quantisation, kept.trial) == ("cpu", "CPU", "32-bit", False)
    # The libraries are nearly all of it. Their first import in a new environment, which compiles them, takes more.
    assert 0.5 < kept.memory_ratio < 2.5


def test_peft_itself_loads_the_adapter_and_it_changes_the_model(tmp_path, config):
    job = write_job(tmp_path, EXAMPLES[:32], EXAMPLES[32:], config)
    assert run(job) == 0
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
    done = warm.run([sys.executable, "-c", script, config.base_model, str(adapter(job))])
    assert done.returncode == 0, done.stderr


def test_equal_input_gives_the_same_bits_also_when_killed_and_resumed(tmp_path, config):
    whole = write_job(tmp_path / "whole", EXAMPLES[:32], EXAMPLES[32:], config)
    assert run(whole) == 0

    killed = write_job(tmp_path / "killed", EXAMPLES[:32], EXAMPLES[32:], config)
    process = begin(killed, held=True)
    wait_for(killed, "checkpoint", process)
    process.kill()
    process.join()
    assert not adapter(killed).exists()
    (start,) = list_checkpoints(killed.parent)
    write_job(
        tmp_path / "killed", EXAMPLES[:32], EXAMPLES[32:], config, run_id=UUID(killed.parent.name), resume_from=start
    )
    assert run(killed) == 0, (killed.parent / "worker.log").read_text()
    assert any("going on after step" in event.data["text"] for event in events(killed, "log"))
    for name in ("adapter_model.safetensors", "adapter.gguf", "adapter_config.json"):
        assert hash_file(adapter(killed) / name) == hash_file(adapter(whole) / name)

    other = msgspec.structs.replace(config, seed=1)
    different = write_job(tmp_path / "other", EXAMPLES[:32], EXAMPLES[32:], other, resume_from=start)
    assert run(different) == 1
    assert events(different)[-1].data["reason"] == "bad-checkpoint"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # raised inside peft
def test_the_adapter_begins_the_same_whatever_this_process_has_drawn_before(tiny_model, config):
    import torch

    from tmde_cpu.training.trainee import load_trainee

    torch.manual_seed(1)
    first = {name: tensor.detach().clone() for name, tensor in load_trainee(tiny_model, config).weights.items()}
    torch.rand(1000)
    state = torch.get_rng_state()
    second = load_trainee(tiny_model, config).weights
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert torch.equal(torch.get_rng_state(), state), "what others draw does not depend on the adapter either"
    other = load_trainee(tiny_model, msgspec.structs.replace(config, seed=config.seed + 1)).weights
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_the_run_that_converts_the_embedded_model_trains_the_same_adapter_as_the_next_one(tmp_path, embedded_model):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / embedded_model.name).symlink_to(embedded_model)
    small = FineTuneConfig(lora_rank=4, batch_size=4, gradient_accumulation_steps=1, epochs=1)
    jobs = [write_job(tmp_path, EXAMPLES[:8], EXAMPLES[8:10], small) for _ in range(2)]
    for job in jobs:
        assert run(job, as_planned=True) == 0, (job.parent / "worker.log").read_text()
    first, second = (hash_file(adapter(job) / "adapter_model.safetensors") for job in jobs)
    assert first == second
    peaks = [events(job)[-1].data["metrics"]["peakRamGb"] for job in jobs]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.1), "the conversion does not count as memory of the training"


def test_sigterm_cancels_and_leaves_no_adapter_and_no_lock(tmp_path, config):
    job = write_job(tmp_path, EXAMPLES * 4, [], msgspec.structs.replace(config, epochs=10, batch_size=1))
    process = begin(job)
    wait_for(job, "progress", process)
    with (job.parent / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert msgspec.json.decode((job.parent / "lock").read_bytes())["pid"] == process.pid
    assert (job.parent / "heartbeat").exists()
    process.terminate()
    process.join()
    assert process.exitcode == 143
    assert [event.type for event in events(job)][-1] == "cancelled"
    assert not list((tmp_path / "lora-adapters").iterdir())
    with (job.parent / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def failure(job: Path) -> dict[str, Any]:
    assert run(job) == 1
    assert events(job)[-1].type == "error"
    assert not adapter(job).exists()
    return events(job)[-1].data


def test_a_run_in_which_no_example_fits_is_refused_with_that_reason(tmp_path, config):
    messages = (Message("user", "Why?"), Message("assistant", "Because. " * 200))
    job = write_job(tmp_path, [TrainingExample("Why?", "", "", messages, str(uuid4()))], [], config)
    job.write_bytes(job.read_bytes().replace(b'"maxSeqLength":4096', b'"maxSeqLength":512'))
    assert failure(job)["reason"] == "no-trainable-tokens"
    assert "tokens; maxSeqLength is 512." in events(job, "log")[0].data["text"]
    assert events(job, "log")[0].data["leftOut"][0]["reason"] == "too-long"


def test_bad_examples_are_left_out_counted_and_named_and_the_run_goes_on(tmp_path, config):
    long, silent = (
        msgspec.structs.replace(
            EXAMPLES[place], messages=(*EXAMPLES[place].messages[:-1], Message("assistant", answer))
        )
        for place, answer in ((0, "Because. " * 500), (1, " \n "))
    )
    typed = msgspec.structs.replace(
        EXAMPLES[2],
        messages=(*EXAMPLES[2].messages[:-1], Message("assistant", "It ends with <|im_end|> and\0goes on.")),
    )
    job = write_job(tmp_path, [long, silent, typed, *EXAMPLES[3:32]], EXAMPLES[32:], config)
    with (job.parent / "val.jsonl").open("ab") as file:
        file.write(b'{"traceId": "\xff", "instruction"\n' + silent_line(EXAMPLES[33]))
    assert run(job) == 0, (job.parent / "worker.log").read_text()
    said = next(event.data for event in events(job, "log") if "leftOut" in event.data)
    assert [(one["split"], one["reason"]) for one in said["leftOut"]] == [
        ("train", "too-long"), ("train", "empty"), ("val", "unreadable"), ("val", "empty"),
    ]  # fmt: skip
    assert said["text"].startswith("Left out 4 examples: ")
    assert long.trace_id in said["text"]
    assert events(job)[-1].data["metrics"]["leftOut"] == 4
    arguments = msgspec.json.decode((adapter(job) / "training_args.json").read_bytes())
    assert len(arguments["leftOut"]) == 4
    manifest = from_json((adapter(job) / "manifest.json").read_bytes(), Manifest)
    assert manifest.traces_used == len(EXAMPLES) - 3, "the traces of three examples were left out"
    assert long.trace_id not in manifest.lineage["traceIds"]


def silent_line(example: TrainingExample) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(example, messages=example.messages[:-1])) + b"\n"


def test_a_run_with_fewer_examples_left_than_it_needs_is_refused_with_the_numbers(tmp_path, config):
    silent = [msgspec.structs.replace(one, messages=one.messages[:-1]) for one in EXAMPLES[:5]]
    wanted = msgspec.structs.replace(config, min_traces=32)
    job = write_job(tmp_path, [*silent, *EXAMPLES[5:32]], EXAMPLES[32:], wanted)
    problem = failure(job)
    assert problem["reason"] == "too-few-examples"
    assert problem["detail"].startswith(
        "Training needs 32 examples; 31 are left. Left out 5 examples: 5 without an answer."
    )
    enough = write_job(
        tmp_path, [*silent, *EXAMPLES[5:32]], EXAMPLES[32:], msgspec.structs.replace(wanted, min_traces=31)
    )
    assert run(enough) == 0


def test_a_loss_that_is_not_a_number_ends_the_run_with_that_reason(tmp_path, tiny_model, config):
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "model"
    broken.mkdir()
    for file in tiny_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    job = write_job(tmp_path, EXAMPLES, [], msgspec.structs.replace(config, base_model=str(broken)))
    problem = failure(job)
    assert problem["reason"] == "nan-loss"
    assert "step 1" in problem["detail"]


def test_the_validation_loss_is_measured_in_between_too_and_the_best_weights_are_published(tmp_path, config):
    job = write_job(tmp_path, EXAMPLES[:32], EXAMPLES[32:], msgspec.structs.replace(config, eval_steps=3, epochs=2))
    assert run(job) == 0, (job.parent / "worker.log").read_text()
    assert [event.data["step"] for event in events(job, "eval")] == [3, 6, 8, 9, 12, 15, 16]
    assert [event.data["epoch"] for event in events(job, "eval")] == [1, 1, 1, 2, 2, 2, 2]
    best = min(event.data["evalLoss"] for event in events(job, "eval"))
    assert events(job)[-1].data["metrics"]["bestValLoss"] == best


def test_training_stops_when_the_validation_loss_has_not_fallen_three_times(tmp_path, config):
    def answering(examples: list[TrainingExample], answer: str) -> list[TrainingExample]:
        return [
            msgspec.structs.replace(one, output=answer, messages=(*one.messages[:-1], Message("assistant", answer)))
            for one in examples
        ]

    # The surer the model becomes of the one answer, the less it expects the other.
    learned, held_out = answering(EXAMPLES, "yes yes yes yes"), answering(EXAMPLES[:6], "7 times 8 is 56")
    job = write_job(tmp_path, learned, held_out, msgspec.structs.replace(config, epochs=10, eval_steps=4))
    assert run(job) == 0, (job.parent / "worker.log").read_text()
    seen = events(job, "eval")
    assert [event.data["best"] for event in seen[-4:]] == [True, False, False, False]
    assert any("Stopped early" in event.data["text"] for event in events(job, "log"))
    metrics = events(job)[-1].data["metrics"]
    assert metrics["totalSteps"] == seen[-1].data["step"] < 90
    assert metrics["bestValLoss"] == seen[-4].data["evalLoss"] < metrics["finalValLoss"]


def test_half_the_batch_and_twice_the_accumulation_go_on_from_the_checkpoint(tmp_path, config):
    whole = write_job(tmp_path, EXAMPLES[:32], [], config)
    assert run(whole) == 0
    start = list_checkpoints(whole.parent)[0]
    halved = msgspec.structs.replace(config, batch_size=2, gradient_accumulation_steps=2)
    job = write_job(tmp_path, EXAMPLES[:32], [], halved, resume_from=start)
    assert run(job) == 0, (job.parent / "worker.log").read_text()
    assert events(job, "progress")[0].data["step"] == int(start.name.rsplit("-", 1)[1]) + 1
    other = write_job(tmp_path, EXAMPLES[:32], [], msgspec.structs.replace(config, batch_size=2), resume_from=start)
    assert run(other) == 1
    assert failure(other)["reason"] == "bad-checkpoint"


@pytest.mark.parametrize(("loss", "reason"), [(0.0, "zero-loss"), (1.0, "nothing-learned")])
def test_steps_that_teach_nothing_fail_the_run_with_that_reason(tmp_path, config, loss, reason):
    job = write_job(tmp_path, EXAMPLES[:16], [], config)
    program = (
        "import sys; from pathlib import Path; from tmde_cpu.training import trainer; "
        f"trainer.optimizer_step = lambda *_: ({loss}, 5); sys.exit(trainer.main(Path(sys.argv[1])))"
    )
    ran = warm.run([sys.executable, "-c", program, str(job)], command(job)["env"])
    assert ran.returncode == 1
    assert (events(job)[-1].type, events(job)[-1].data["reason"]) == ("error", reason)
    assert not adapter(job).exists()


def test_a_loss_that_teaches_nothing_is_no_success():
    for loss in (0.0, float("nan"), float("inf")):
        with pytest.raises(TrainingFailedError, match="step 3"):
            check_loss(loss, 3)


def test_a_damaged_dataset_is_named_in_the_error(tmp_path, config):
    job = write_job(tmp_path, EXAMPLES, [], config)
    (job.parent / "train.jsonl").write_text("{}\n")
    problem = failure(job)
    assert problem["reason"] == "no-trainable-tokens"
    assert "train.jsonl, line 1" in problem["detail"]


def test_an_adapter_that_exists_is_never_written_over(tmp_path, config):
    job = write_job(tmp_path, EXAMPLES, [], config)
    adapter(job).mkdir()
    assert run(job) == 1
    assert events(job)[-1].data["reason"] == "adapter-exists"
    assert not list(adapter(job).iterdir())


def test_the_backend_plans_without_torch_and_names_a_missing_base_model(tmp_path, config):
    backend = CpuBackend(make_context(data_dir=tmp_path))
    assert isinstance(backend, TrainingBackend)
    assert backend.availability().ok
    job = from_json(write_job(tmp_path, EXAMPLES, [], config).read_bytes(), TrainingJob)
    assert backend.plan(job).env["OMP_WAIT_POLICY"] == "passive"
    estimate = backend.estimate(job)
    assert estimate.ram_bytes
    assert estimate.seconds
    with pytest.raises(InvalidInputError, match="no base model 'nowhere'"):
        backend.plan(msgspec.structs.replace(job, base_model="nowhere"))
    with pytest.raises(InvalidInputError, match="lacks"):
        backend.plan(msgspec.structs.replace(job, base_model=str(tmp_path)))
    script = "import sys, tmde_cpu.backend, tmde_core.sdk.worker.kit; assert not {'torch', 'transformers', 'gguf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
