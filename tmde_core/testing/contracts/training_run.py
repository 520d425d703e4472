"""Run a training job as the supervisor does: with a run directory, a dataset, a leash and a detached worker."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import msgspec

from tmde_core.finetune.supervision import supervisor
from tmde_core.finetune.supervision.ending import Ending, examine
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.base import from_json
from tmde_core.records.chat import Message
from tmde_core.records.finetune import FineTuneConfig
from tmde_core.records.training import TrainingExample, TrainingJob, WorkerCommand
from tmde_core.sdk.worker.run_files import EVENTS_FILE, JOB_FILE, WORKER_LOCK
from tmde_core.storage.events import Event, FileLog
from tmde_core.storage.locks import is_locked
from tmde_core.testing.contracts.rules import broken
from tmde_core.testing.training_jobs import times_tables, write_job

PATIENCE_SECONDS = 1200.0
"""The time limit for a whole run on a tiny dataset. A model that takes longer to load is not suitable for tests."""
LOOK_SECONDS = 0.005
GRACE_SECONDS = 30.0
"""The time between SIGTERM and SIGKILL. TMDE waits 5 s; on a busy machine a worker may need longer to react."""

TRAINING = times_tables(range(2, 6))
VALIDATION = times_tables(range(11, 13))
BAD = (
    TrainingExample(
        "Say nothing.", "", "", (Message("user", "Say nothing."), Message("assistant", "")), str(UUID(int=1))
    ),
    TrainingExample(
        "Count.", "", "1 " * 20_000, (Message("user", "Count."), Message("assistant", "1 " * 20_000)), str(UUID(int=2))
    ),
)
"""Examples that cannot be trained on: an empty answer, and an answer that is longer than `SMALL` allows."""
MUCH = times_tables(range(20, 50))
"""The dataset of runs that are cancelled. It is large enough for the run to be still training then."""

SMALL = FineTuneConfig(
    lora_rank=4,
    lora_alpha=8,
    learning_rate=1e-3,
    batch_size=4,
    gradient_accumulation_steps=1,
    epochs=2,
    max_seq_length=512,
    warmup_ratio=0.0,
)
"""The configuration of a run with eight steps, four in each epoch."""


class TrainingRun:
    """One run and its worker. Call `close` in every case."""

    def __init__(
        self,
        data_dir: Path,
        config: FineTuneConfig,
        train: Sequence[TrainingExample] = TRAINING,
        val: Sequence[TrainingExample] = VALIDATION,
        run_id: UUID | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.config = config
        self.job = from_json(write_job(data_dir, train, val, config, run_id=run_id).read_bytes(), TrainingJob)
        self.run_id = UUID(self.job.run_id)
        self.run_dir = Path(self.job.run_dir)
        self.status: int | None = None
        self.lock_was_held: bool | None = None
        """Whether the lock was held at the first step. None if the worker ended too soon to check."""
        self._attempt = 0
        self._seen = 0
        self._told: list[Event] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def adapter_dir(self) -> Path:
        """The directory of the published adapter."""
        return AdapterStore(self.data_dir).path(self.run_id)

    def start(self, command: WorkerCommand) -> None:
        """Start a worker. `events` returns only events from this attempt on."""
        self._seen = len(FileLog(self.run_dir / EVENTS_FILE).read())
        self._told = None
        self._attempt += 1
        leash = supervisor.try_leash(self.run_dir)
        if leash is None:
            broken(
                "A process of the worker before still lives. TMDE starts none beside it. End all processes with the worker."
            )
        with leash:
            mark = supervisor.make_mark(self.run_id, self._attempt)
            self._process = supervisor.launch(command, mark, self.run_dir, leash, 0)

    def resume_from(self, checkpoint: Path) -> TrainingJob:
        """Write the job of an attempt that resumes from a checkpoint."""
        self.job = msgspec.structs.replace(self.job, resume_from=str(checkpoint))
        (self.run_dir / JOB_FILE).write_bytes(msgspec.json.encode(self.job))
        return self.job

    def events(self, type_: str = "") -> list[Event]:
        """Return the events of this attempt, all of them or those of one type."""
        found = FileLog(self.run_dir / EVENTS_FILE).read(self._seen) if self._told is None else self._told
        return [event for event in found if type_ in ("", event.type)]

    def last(self) -> Event | None:
        """Return the last event of this attempt, or None."""
        return next(reversed(self.events()), None)

    def has_begun(self) -> bool:
        """Wait for the first step. Return False if the worker ends before it."""
        self._wait(lambda: bool(self.events("progress")), "the first progress event")
        begun = bool(self.events("progress"))
        held = is_locked(self.run_dir / WORKER_LOCK)
        if begun and self._lives():
            self.lock_was_held = held
        return begun

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait until the worker ends and return its exit status."""
        self._wait(lambda: False, "the end of the worker", seconds)
        return self._ended()

    def terminate(self) -> int:
        """Cancel the run as TMDE does, with SIGTERM and then SIGKILL, and return the exit status."""
        supervisor.end(str(self.run_id), self.run_dir, GRACE_SECONDS)
        return self._ended()

    def ending(self) -> Ending:
        """Return how TMDE classifies the ended run. TMDE also removes the worker's leftovers in this step."""
        return examine(self.run_id, self.run_dir, AdapterStore(self.data_dir), self.status)

    def told(self) -> str:
        """Return how the attempt ended, for a sentence about a worker that broke a rule."""
        last = self.last()
        said = last.data.get("detail") if last is not None and last.type == "error" else ""
        return str(said or supervisor.describe_exit(self.run_dir, self.status))

    def close(self) -> None:
        """End the worker's remaining processes."""
        supervisor.end_family(str(self.run_id), grace_seconds=0)

    def _ended(self) -> int:
        assert self._process is not None
        self.status = self._process.wait()
        self._told = self.events()  # another attempt may follow
        return self.status

    def _lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _wait(self, reached: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the condition holds or the worker has ended."""
        until = time.monotonic() + seconds
        while self._lives() and not reached():
            if time.monotonic() > until:
                last = supervisor.read_last_words(self.run_dir)
                broken(
                    f"Waited {seconds:.0f} seconds for {what}, and it has not come. TMDE's watchdog ends workers that show no sign of "
                    f"getting on for ten minutes. Look at the worker's log{': ' + last if last else ', which is empty.'}"
                )
            time.sleep(LOOK_SECONDS)
