"""A training worker that breaks one rule: `python broken_worker.py JOB`. Which one is the job's base model, a word."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import publish
from tmde_core.sdk.worker import BaseIdentity, RunWorker
from tmde_core.testing import write_adapter
from tmde_core.testing.adapters import write_safetensors

A, B = "base_model.model.q_proj.lora_A.weight", "base_model.model.q_proj.lora_B.weight"


def train(worker: RunWorker) -> None:
    what, config, job = worker.job.base_model, worker.config, worker.job
    if what == "crashes":
        raise RuntimeError("the flux is not a number")
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what == "rude":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    val = Path(job.val_file).read_text().splitlines()
    if what == "strict":
        answers = [json.loads(line)["output"] for line in Path(job.train_file).read_text().splitlines()]
        assert all(answers), "an answer is empty"
    if what == "needs-val":
        assert val, "no validation examples"
    per_epoch = -(-len(Path(job.train_file).read_text().splitlines()) // config.batch_size)
    total, step = per_epoch * config.epochs, 0
    if job.resume_from:
        step = int((Path(job.resume_from) / "state").read_text())
    if what == "forgets":
        step = 0
    while step < total:
        step += 1
        shown = step - 1 if what == "from-zero" else (step + 1) // 2 if what == "twice" else step
        if what != "no-progress":
            worker.events.progress(shown, total, loss=None if what == "no-loss" else 2.0 / step)
        if step % per_epoch == 0:
            if val and what != "no-eval":
                worker.events.eval(step, 2.0 / step)
            state = "lost" if what == "loses" else str(step)
            worker.checkpoint(step, lambda path, state=state: (path / "state").write_text(state) and None)
    staging = worker.make_staging()
    write_adapter(staging, step)
    if what.startswith("zero"):
        write_safetensors(staging / "adapter_model.safetensors", {A: ((4, 2), [1.0] * 8), B: ((2, 4), [0.0] * 8)})
    if what == "foreign":
        write_safetensors(staging / "adapter_model.safetensors", {"x.lora_B": ((2, 4), [1.0] * 8)})
    if what == "served":
        (staging / "adapter.gguf").write_bytes(b"GGUF")
    if what == "publishes-nothing":
        sys.exit(0)
    if what == "zero-without-kit":
        publish(staging, worker.adapter_dir.parent, Manifest(id=job.run_id, created_at=utc_now(), base_model="base"))
        os._exit(0)
    loss = -1.0 if what == "negative" else None if what == "no-metrics" else 2.0 / step
    steps = 99 if what == "miscounts" else step
    worker.publish(
        FineTuneMetrics(final_train_loss=loss, total_steps=steps),
        BaseIdentity(name="" if what == "nameless" else "base"),
    )
    if what == "spoils":
        weights = worker.adapter_dir / "adapter_model.safetensors"
        weights.write_bytes(b"x" * weights.stat().st_size)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    if "overwrites" in path.read_text():
        run_id = path.parent.name
        for file in (path.parents[2] / "lora-adapters" / run_id).glob("*"):
            file.write_bytes(b"mine")
    with RunWorker(path) as run:
        train(run)
    if run.job.base_model == "chatty":
        run.events.log("So long.")
    if run.job.base_model == "publishes-nothing":
        sys.exit(0)
    time.sleep(0)
    sys.exit(run.exit_code)
