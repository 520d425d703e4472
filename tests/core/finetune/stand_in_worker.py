"""A training worker without training: `python stand_in_worker.py JOB`. What it does is the job's base model, a word.

It waits, where a test wants to meet it alive, for the file `go` in the run's directory.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tmde_core.finetune.records import FineTuneMetrics
from tmde_core.finetune.worker import BaseIdentity, RunWorker


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def build(worker: RunWorker) -> None:
    staging = worker.staging()
    (staging / "adapter_model.safetensors").write_bytes(worker.job.run_id.encode() * 100)
    (staging / "adapter_config.json").write_text("{}")


def train(worker: RunWorker) -> None:
    what = worker.job.base_model
    if what == "raises":
        raise RuntimeError("the flux is not a number")
    if what == "out-of-memory":
        raise MemoryError
    build(worker)
    for step in range(1, 4):
        worker.events.progress(step, 3, loss=3.0 / step)
    if what in {"killed", "grandchild", "deaf"}:
        sys.stdout.write("about to be killed\n")
        sys.stdout.flush()
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "grandchild":
        # In a session of its own, and deaf to SIGTERM: neither its group nor good manners end it.
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
        assert child.stdout is not None
        child.stdout.readline()
        (worker.run_dir / "grandchild").write_text(str(child.pid))
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (worker.run_dir / "deaf").touch()
    if what != "quick":
        wait_for(worker.run_dir / "go")
    worker.publish(FineTuneMetrics(final_train_loss=1.0, total_steps=3), BaseIdentity(name="stand-in-base"))
    if what == "spoils-its-adapter":
        (worker.adapter_dir / "adapter_model.safetensors").write_bytes(b"x" * 3600)


if __name__ == "__main__":
    with RunWorker(Path(sys.argv[1])) as run:
        train(run)
    sys.exit(run.exit_code)
