"""A training worker without training: `python stand_in_worker.py JOB`. What it does is the job's base model, a word.

It waits, where a test wants to meet it alive, for the file `go` in the run's directory. `steps-N` computes something that
depends on every one of N steps, keeps checkpoints, and goes on from them: whoever loses or repeats a step ends otherwise.
`steps-N-held-at-M` waits after step M. `paced-N` counts as well, and writes a checkpoint when it is asked for one.
"""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.sdk import adapters as publishing
from tmde_core.sdk.worker import vitals
from tmde_core.sdk.worker.kit import BaseIdentity, RunWorker
from tmde_core.testing.adapters import write_adapter

CHECKPOINT_STEPS = 5
STEP_SECONDS = 0.01


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def build(worker: RunWorker, content: bytes) -> None:
    write_adapter(worker.make_staging(), content)


def die(number: int = signal.SIGKILL) -> None:
    sys.stdout.write("about to be killed\n")
    sys.stdout.flush()
    os.kill(os.getpid(), number)


def counted(worker: RunWorker, total: int, held_at: int | None = None, *, asks: bool = False) -> bytes:
    """`total` steps, each of which depends on the one before; a checkpoint every few."""
    step, state = 0, worker.config.seed.to_bytes(8, "big") * 4
    if worker.job.resume_from:
        kept = Path(worker.job.resume_from)
        step, state = int(kept.name.removeprefix("step-")), (kept / "state").read_bytes()
    while step < total:
        step += 1
        state = hashlib.sha256(state + step.to_bytes(8, "big")).digest()
        time.sleep(STEP_SECONDS)
        worker.events.progress(step, total, loss=3.0 / step)
        if step % CHECKPOINT_STEPS == 0 or (asks and worker.wants_checkpoint):
            worker.checkpoint(step, lambda path, state=state: (path / "state").write_bytes(state))
        if step == held_at:
            wait_for(worker.run_dir / "go")
    return state


def at_publication(happens: Callable[[], None]) -> None:
    """Let something happen when all files are there and the rename that makes them an adapter is next."""
    sync = publishing.sync_directory

    def before(directory: Path) -> None:
        if directory.name.startswith(publishing.STAGING_PREFIX):
            happens()
        sync(directory)

    publishing.sync_directory = before


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def train(worker: RunWorker) -> None:
    what = worker.job.base_model
    first = not (worker.run_dir / "been-here").exists()
    (worker.run_dir / "been-here").touch()
    if what == "raises":
        raise RuntimeError("the flux is not a number")
    if what == "says-nothing":
        wait_for(worker.run_dir / "go")
    if what.startswith("memory-for-") and worker.config.batch_size > int(what.removeprefix("memory-for-")):
        raise MemoryError
    if what == "killed-for-memory" and worker.config.batch_size > 2:
        vitals.measure_memory = lambda: (1000, 10)
        vitals.write_heartbeat(worker.run_dir)
        die()
    if what.startswith("paced-"):
        build(worker, counted(worker, int(what.removeprefix("paced-")), asks=True))
        worker.publish(FineTuneMetrics(final_train_loss=1.0), BaseIdentity(name="stand-in-base"))
        return
    if what.startswith("steps-"):
        total, _, held_at = what.removeprefix("steps-").partition("-held-at-")
        build(worker, counted(worker, int(total), int(held_at) if held_at else None))
        worker.publish(FineTuneMetrics(final_train_loss=1.0), BaseIdentity(name="stand-in-base"))
        return
    build(worker, worker.job.run_id.encode())
    for step in range(1, 4):
        worker.events.progress(step, 3, loss=3.0 / step)
    if what in {"checkpointed", "full"}:
        worker.checkpoint(3, lambda path: (path / "state").write_bytes(b"3"))
    if what == "killed" or (what == "killed-once" and first):
        die()
    if what == "terminated-once" and first:
        die(signal.SIGTERM)
    if what == "stops":
        (worker.run_dir / "stopping").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "grandchild":
        # In a session of its own, and deaf to SIGTERM: neither its group nor good manners end it. It holds the leash, too.
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, close_fds=False
        )
        assert child.stdout is not None
        child.stdout.readline()
        (worker.run_dir / "grandchild").write_text(str(child.pid))
        if not first:
            return
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (worker.run_dir / "deaf").touch()
    if what == "waits-at-publication":
        at_publication(lambda: ((worker.run_dir / "publishing").touch(), wait_for(worker.run_dir / "go")))
    elif what == "no-space-at-publication":
        worker.checkpoint(3, lambda path: (path / "state").write_bytes(b"3"))
        if first:
            at_publication(no_space)
    elif what != "quick" and not what.startswith("memory-for-"):
        wait_for(worker.run_dir / "go")
    worker.publish(FineTuneMetrics(final_train_loss=1.0, total_steps=3), BaseIdentity(name="stand-in-base"))
    if what == "spoils-its-adapter":
        weights = worker.adapter_dir / "adapter_model.safetensors"
        weights.write_bytes(b"x" * weights.stat().st_size)


if __name__ == "__main__":
    with RunWorker(Path(sys.argv[1])) as run:
        train(run)
    sys.exit(run.exit_code)
