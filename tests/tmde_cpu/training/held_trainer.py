"""The trainer that ships, which waits after a checkpoint for a file `go` in the run's directory: `python held_trainer.py JOB`.

Training a few thousand parameters is over before a busy machine lets a test interrupt it.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tmde_core.sdk.worker.kit import RunWorker
from tmde_cpu.training import trainer

keep = RunWorker.checkpoint


def checkpoint(worker: RunWorker, step: int, write: Callable[[Path], None]) -> Path:
    kept = keep(worker, step, write)
    while not (worker.run_dir / "go").exists():
        time.sleep(0.01)
    return kept


if __name__ == "__main__":
    RunWorker.checkpoint = checkpoint
    sys.exit(trainer.main(Path(sys.argv[1])))
