"""Runs everything around the training in a training process. Private: import from `tmde_core.sdk.worker`.

    with RunWorker(Path(sys.argv[1])) as worker:
        train(worker)              # worker.job, worker.config, worker.events; ends with worker.publish(…)
    sys.exit(worker.exit_code)

The kit writes these files to the run's directory, and the supervisor reads them:

- `lock`: locked (`storage.locks`) while the process lives; its content is `{"pid": …, "createTime": …}`.
- `heartbeat`: rewritten every `HEARTBEAT_SECONDS` while the process lives (`vitals`).
- `activity`: touched by `RunWorker.report_alive` during a long step.
- `checkpoints/step-N`: complete or absent; the newest `CHECKPOINTS_KEPT` are kept.
- `events.jsonl`: `progress`, `eval`, `checkpoint`, `log`, and one last `complete`, `error` or `cancelled`.

SIGTERM cancels the run. A file `cancel` in the run's directory does the same and also reaches a process in a container.
A file `pause` asks for one more checkpoint, after which the process ends and the run waits for the next worker.
An exception in the body becomes an `error` event with a reason for people. Its traceback is written to the worker's
log. Lack of memory is only a `log` event: the supervisor tries again with smaller batches, and writes the last event if
this is impossible. This module imports no training library, because backends with their own environments use it too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from uuid import UUID

import msgspec
import psutil

from tmde_core.errors import ConflictError, InsufficientStorageError, InvalidInputError, TmdeError
from tmde_core.records.base import Record, from_json, to_json, utc_now
from tmde_core.records.finetune import (
    Dataset,
    FineTuneConfig,
    FineTuneMetrics,
    TrainingProgress,
)
from tmde_core.records.lora import Manifest
from tmde_core.records.training import TrainingExample, TrainingJob, UnusableExample
from tmde_core.sdk.adapters import WEIGHTS_FILE, find_flaw, publish
from tmde_core.sdk.files import hash_file
from tmde_core.sdk.worker.examples import PreparedExamples, describe_left_out, prepare_examples
from tmde_core.sdk.worker.run_files import (
    ACTIVITY_FILE,
    EVENTS_FILE,
    WORKER_LOCK,
    is_cancel_requested,
    is_pause_requested,
    read_stop,
)
from tmde_core.sdk.worker.vitals import write_heartbeat
from tmde_core.storage.durable import sync_directory, sync_file
from tmde_core.storage.events import FileLog
from tmde_core.storage.locks import FileLock

if TYPE_CHECKING:
    from typing import Self  # not in Python 3.10, where workers with their own environments may run

__all__ = [
    "ACTIVITY_SECONDS",
    "CHECKPOINTS_KEPT",
    "EXIT_CANCELLED",
    "EXIT_COMPLETE",
    "EXIT_FAILED",
    "EXIT_REFUSED",
    "HEARTBEAT_SECONDS",
    "OUT_OF_MEMORY",
    "BaseIdentity",
    "CancelledRunError",
    "RunEvents",
    "RunWorker",
    "TrainingFailedError",
    "check_loss",
    "describe_failure",
    "list_checkpoints",
]

HEARTBEAT_SECONDS = 2.0
ACTIVITY_SECONDS = 1.0
"""The shortest time between two touches of the activity file, however often `RunWorker.report_alive` is called, seconds."""

OUT_OF_MEMORY: Final = "out-of-memory"
PAUSED = "The training is paused. It goes on from the newest checkpoint when a worker takes the run again."

EXIT_COMPLETE, EXIT_FAILED, EXIT_CANCELLED, EXIT_REFUSED = 0, 1, 143, 2

TRACE_LINES = 20

CHECKPOINTS_KEPT = 2
_CHECKPOINT_NAME = re.compile(r"step-(\d{8})")

T = TypeVar("T")


class TrainingFailedError(Exception):
    """Training cannot continue. `reason` is a stable word for programs, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class CancelledRunError(BaseException):
    """The run is cancelled: SIGTERM arrived. The class is not an `Exception`, so that libraries do not catch it."""


class BaseIdentity(Record, frozen=True):
    """The base model that the adapter was trained on. On any other model the adapter's answers are gibberish."""

    name: str
    """The name or path of the base model in the settings."""
    model_sha256: str | None = None
    """SHA-256 of the weights file."""
    tokenizer_sha256: str | None = None
    """SHA-256 of tokenizer.json."""
    chat_template_sha256: str | None = None
    """SHA-256 of the text of the chat template."""


class RunEvents:
    """The run's event log."""

    def __init__(self, path: Path) -> None:
        self.log_file = FileLog(path)
        self._started: float | None = None
        self._first_step = 0
        self._last: float | None = None

    def progress(
        self,
        step: int,
        total_steps: int,
        *,
        loss: float | None = None,
        eval_loss: float | None = None,
        learning_rate: float | None = None,
        tokens_per_second: float | None = None,
        rss_bytes: int | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        """Report an optimizer step.

        Without `eta_seconds`, the time left is computed from the mean speed of this process.
        """
        now = time.monotonic()
        step_seconds = None if self._last is None else round(now - self._last, 3)
        self._last = now
        if self._started is None:
            self._started, self._first_step = now, step
        elif eta_seconds is None and step > self._first_step:
            pace = (now - self._started) / (step - self._first_step)
            eta_seconds = pace * (total_steps - step)
        self._append(
            "progress",
            TrainingProgress(
                step=step,
                total_steps=total_steps,
                loss=loss,
                eval_loss=eval_loss,
                learning_rate=learning_rate,
                tokens_per_second=tokens_per_second,
                rss_bytes=rss_bytes,
                eta_seconds=None if eta_seconds is None else round(eta_seconds, 1),
                step_seconds=step_seconds,
            ),
        )

    def eval(
        self,
        step: int,
        eval_loss: float,
        *,
        epoch: int | None = None,
        best: bool = False,
    ) -> None:
        """Report a validation. `best` means that no earlier loss was lower."""
        self._append("eval", {"step": step, "evalLoss": eval_loss, "epoch": epoch, "best": best})

    def checkpoint(self, step: int, path: Path) -> None:
        """Report a complete checkpoint."""
        self._append("checkpoint", {"step": step, "path": str(path)})

    def log(self, text: str, **facts: Any) -> None:
        """Report a message for people; `facts` are for programs."""
        self._append("log", {"text": text, **facts})

    def end(self, type_: str, data: dict[str, Any]) -> None:
        """Append the last event.

        `RunWorker` calls this method. If the event cannot be written, such as on a full disk, the error is printed and
        not raised.
        """
        try:
            self._append(type_, data)
        except (OSError, TmdeError) as error:
            sys.stderr.write(f"The last event ({type_}) could not be written: {error}\n")

    def _append(self, type_: str, data: Any) -> None:
        self.log_file.append(type_, msgspec.to_builtins(data))


class RunWorker:
    """One training run in its process, with `job`, `config`, `events`, and finally `exit_code`.

    Use it as a context manager in the main thread. In the `with` block, `job` is the `TrainingJob`, `config` its
    `FineTuneConfig`, and `events` the `RunEvents`. Afterwards the process must exit with `exit_code`.
    """

    def __init__(self, job_path: Path) -> None:
        self.job_path = job_path
        self.exit_code = EXIT_REFUSED
        self._lock: FileLock | None = None
        self._stop = threading.Event()
        self._published: dict[str, Any] | None = None
        self._worked = 0.0
        self._left_out: tuple[UnusableExample, ...] | None = None

    def __enter__(self) -> Self:
        try:
            self.job = from_json(self.job_path.read_bytes(), TrainingJob)
            self.config = msgspec.convert(self.job.config, FineTuneConfig)
        except (OSError, TmdeError, msgspec.ValidationError) as problem:
            self._refuse(f"The job file {self.job_path} cannot be read: {problem}")
        self.run_dir = Path(self.job.run_dir)
        self._take_lock()
        self.events = RunEvents(self.run_dir / EVENTS_FILE)
        signal.signal(signal.SIGTERM, _raise_cancelled)
        self._beat()
        threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True).start()
        if self.adapter_dir.exists():
            error = TrainingFailedError(
                "adapter-exists",
                f"The adapter directory {self.adapter_dir} exists already. Start a new run instead.",
            )
            self.__exit__(TrainingFailedError, error, None)
            raise SystemExit(self.exit_code)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the result is decided now
        self._stop.set()
        if error is None and self._published is None:
            error = TrainingFailedError("crash", "The worker ended without publishing an adapter.")
        if isinstance(error, CancelledRunError | KeyboardInterrupt):
            self._discard_staging()
            self.exit_code = EXIT_CANCELLED
            stopped = read_stop(self.run_dir)
            if stopped is None and is_pause_requested(self.run_dir) and not is_cancel_requested(self.run_dir):
                self.events.end("log", {"text": PAUSED})  # no last event, because the log goes on
            elif stopped is None:
                self.events.end("cancelled", {})
            else:
                self.events.end("error", msgspec.to_builtins(stopped))
        elif error is not None:
            lines = traceback.format_exception(error)
            sys.stderr.write("".join(lines))
            reason, detail = describe_failure(error)
            self._discard_staging()
            self.exit_code = EXIT_FAILED
            tail = "".join(lines).splitlines()[-TRACE_LINES:]
            if reason == OUT_OF_MEMORY:
                self.events.end("log", {"text": detail, "reason": reason})
            else:
                self.events.end("error", {"reason": reason, "detail": detail, "trace": "\n".join(tail)})
        else:
            self.exit_code = EXIT_COMPLETE
            self.events.end("complete", self._published or {})
        if self._lock is not None:
            self._lock.release()
        return True

    @property
    def adapter_dir(self) -> Path:
        """The directory of the finished adapter. The adapter has the id of the run."""
        return Path(self.job.data_dir) / "lora-adapters" / self.job.run_id

    def read_examples(
        self,
        encode: Callable[[TrainingExample], T],
        tokens: Callable[[T], int] = len,  # type: ignore[assignment]  # the default fits a sequence of tokens
    ) -> tuple[tuple[T, ...], tuple[T, ...]]:
        """Return the encoded training and validation examples of the job.

        An example that `encode` refuses, or that is longer than `maxSeqLength`, is left out. The run's log, its metrics
        and `training_args.json` say so.

        Args:
            encode: turns one example into what the trainer needs. It raises `UnusableExampleError` for an example that
                cannot be trained on. Any other error has the same effect.
            tokens: returns the number of tokens of an encoded example.

        Raises:
            TrainingFailedError: no training example is left, or fewer examples than the run's `minTraces`.
        """
        limit = self.config.max_seq_length
        train = prepare_examples(Path(self.job.train_file), encode, "train", max_tokens=limit, tokens=tokens)
        val = prepare_examples(Path(self.job.val_file), encode, "val", max_tokens=limit, tokens=tokens)
        self._left_out = (*train.left_out, *val.left_out)
        told = describe_left_out(self._left_out)
        if told:
            self.events.log(told, leftOut=msgspec.to_builtins(self._left_out))
        self._require_enough(train, val, told)
        return train.examples, val.examples

    def _require_enough(self, train: PreparedExamples[T], val: PreparedExamples[T], told: str) -> None:
        if not train.examples:
            raise TrainingFailedError(
                "no-trainable-tokens", f"There is nothing to learn: no training example is left. {told}".strip()
            )
        least, left = self.config.min_traces, len(train.examples) + len(val.examples)
        # A job that had fewer examples from the start was wanted so.
        if left < least <= train.total + val.total:
            raise TrainingFailedError(
                "too-few-examples",
                f"Training needs {least:,} examples; {left:,} are left. {told} Raise the longest example, debate some "
                "more, or lower the fewest examples in the fine-tuning settings.",
            )

    def fingerprint(self, base: BaseIdentity) -> str:
        """Return a hash of configuration, dataset and base model. A checkpoint with another fingerprint is unusable.

        The number of examples in a step counts, but not in how many parts the step is computed. A run that lacked
        memory continues with smaller batches.
        """
        data = [Path(file) for file in (self.job.train_file, self.job.val_file) if Path(file).exists()]
        config = msgspec.to_builtins(self.config)
        step_examples = config.pop("batchSize") * config.pop("gradientAccumulationSteps")
        parts: list[Any] = [config, step_examples, base, [hash_file(file) for file in data]]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def make_staging(self) -> Path:
        """Create and return an empty directory to build the adapter in; remove files of an earlier attempt."""
        path = Path(self.job.output_dir)
        if not self._is_staging(path):
            raise InvalidInputError(f"The output directory {path} must have a hidden name that ends in the run's id.")
        self._discard_staging()
        path.mkdir(parents=True)
        return path

    def checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint atomically: `write` receives an empty directory to fill.

        If the run is to stop and go on later (`wants_checkpoint`), the process ends with this checkpoint.
        """
        directory = self.run_dir / "checkpoints"
        target = directory / f"step-{step:08d}"
        building = directory / f".{target.name}"
        for leftover in directory.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            write(building)
            for file in building.iterdir():
                sync_file(file)
            sync_directory(building)
        except BaseException:  # free the space on a full disk; the earlier checkpoints stay
            shutil.rmtree(building, ignore_errors=True)
            raise
        if target.exists():  # written by the attempt that this one resumes
            target.rename(directory / f".old-{target.name}")
        building.rename(target)
        sync_directory(directory)
        for old in list_checkpoints(self.run_dir)[:-CHECKPOINTS_KEPT]:
            hidden = old.rename(directory / f".old-{old.name}")  # a partly deleted checkpoint must not look complete
            shutil.rmtree(hidden, ignore_errors=True)
        self.events.checkpoint(step, target)
        if self.wants_checkpoint:
            raise CancelledRunError
        return target

    @property
    def wants_checkpoint(self) -> bool:
        """Whether to write a checkpoint after this step, because the run is to stop now and go on later.

        `checkpoint` then ends the process. A backend that never asks loses the steps since its last checkpoint.
        """
        return is_pause_requested(self.run_dir)

    def report_alive(self) -> None:
        """Report progress during a long step. A process that reports nothing for ten minutes counts as hung."""
        now = time.monotonic()
        if now - self._worked >= ACTIVITY_SECONDS:
            self._worked = now
            with contextlib.suppress(OSError):
                (self.run_dir / ACTIVITY_FILE).touch()

    def publish(
        self,
        metrics: FineTuneMetrics,
        base: BaseIdentity,
        training: dict[str, Any] | None = None,
    ) -> Path:
        """Add training_args.json, metrics.json and the manifest to the staging directory, and publish it as an adapter.

        From this call on, SIGTERM is ignored: a run whose adapter exists is completed.

        Args:
            metrics: the measurements of the run.
            base: the base model that the adapter was trained on.
            training: further facts for training_args.json, such as versions, threads and target modules.

        Raises:
            TrainingFailedError: the adapter cannot be used: its weights are all zero, not finite or not readable, or
                the base model has no name.
        """
        staging = Path(self.job.output_dir)
        # `publish` below refuses a directory without weights.
        if (staging / WEIGHTS_FILE).is_file() and (flaw := find_flaw(staging, base.name)) is not None:
            raise TrainingFailedError(flaw.reason, flaw.detail)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        dataset = self._dataset()
        left_out = {one.trace_id for one in self._left_out or ()}
        trace_ids = [str(one) for one in dataset.trace_ids if str(one) not in left_out] if dataset else []
        arguments = {
            "config": self.config,
            "baseModel": base,
            "backend": self.config.backend,
            **(training or {}),
        }
        if self._left_out is not None:
            metrics = msgspec.structs.replace(metrics, left_out=len(self._left_out))
            arguments["leftOut"] = self._left_out
        _write(staging / "training_args.json", arguments)
        _write(staging / "metrics.json", metrics)
        manifest = Manifest(
            id=UUID(self.job.run_id),
            created_at=utc_now(),
            base_model=base.name,
            base_model_sha256=base.model_sha256,
            tokenizer_sha256=base.tokenizer_sha256,
            chat_template_sha256=base.chat_template_sha256,
            traces_used=len(trace_ids),
            dataset_sha256=dataset.sha256 if dataset else None,
            metrics=msgspec.to_builtins(metrics),
            lineage={
                "runId": self.job.run_id,
                "traceIds": trace_ids,
            },
        )
        path = publish(staging, self.adapter_dir.parent, manifest)
        self._published = {
            "adapterId": self.job.run_id,
            "metrics": msgspec.to_builtins(metrics),
        }
        return path

    def _dataset(self) -> Dataset | None:
        """Return the frozen dataset's record, which the service wrote beside the examples; None if it is missing."""
        with contextlib.suppress(FileNotFoundError):
            return from_json((self.run_dir / "dataset.json").read_bytes(), Dataset)
        return None

    def _discard_staging(self) -> None:
        path = Path(self.job.output_dir)
        if self._is_staging(path):
            shutil.rmtree(path, ignore_errors=True)

    def _is_staging(self, path: Path) -> bool:
        """Return whether the path may be removed. An incorrect job must not delete any other directory."""
        return path.name.startswith(".") and path.name.endswith(self.job.run_id)

    def _take_lock(self) -> None:
        self._lock = FileLock.try_acquire(self.run_dir / WORKER_LOCK)
        if self._lock is None:
            self._refuse(f"Another process already trains the run {self.job.run_id}.")
        self._lock.write(to_json({"pid": os.getpid(), "createTime": psutil.Process().create_time()}))

    def _heartbeat(self) -> None:
        asked = False
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._beat()
            if not asked and is_cancel_requested(self.run_dir):
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # code that needs the space reports a full disk, not the heartbeat
            write_heartbeat(self.run_dir)

    def _refuse(self, sentence: str) -> NoReturn:
        sys.stderr.write(sentence + "\n")
        raise SystemExit(EXIT_REFUSED)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the oldest first."""
    directory = run_dir / "checkpoints"
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name))


def check_loss(loss: float, step: int) -> None:
    """Raise an error if nothing can be learned from a step's loss.

    Raises:
        TrainingFailedError: the loss is not finite, or exactly zero.
    """
    if not math.isfinite(loss):
        raise TrainingFailedError(
            "nan-loss", f"The loss at step {step} is {loss}. Lower the learning rate and start again."
        )
    if loss == 0.0:
        raise TrainingFailedError(
            "zero-loss", f"The loss at step {step} is exactly zero, so nothing is learned. Check the examples' answers."
        )


def describe_failure(error: BaseException) -> tuple[str, str]:
    """Return the reason for a failure: a stable word for programs, and a sentence that says what to do.

    Errors of libraries are recognised by their text, because this module must not import the libraries.
    """
    if isinstance(error, TrainingFailedError):
        return error.reason, error.detail
    if isinstance(error, ConflictError):
        return "adapter-exists", error.detail
    if isinstance(error, InsufficientStorageError):
        return "disk-full", error.detail
    if isinstance(error, TmdeError):
        return error.code.replace("_", "-"), error.detail
    text = " ".join(str(error).split())
    lowered = text.lower()
    if isinstance(error, MemoryError) or "out of memory" in lowered or "can't allocate memory" in lowered:
        return (
            OUT_OF_MEMORY,
            "There was not enough memory for a training step. Lower the batch size or the maximum sequence length.",
        )
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "no space left on device" in lowered:
        return "disk-full", "The disk is full. Free some space, then resume the run."
    return (
        "crash",
        f"The trainer stopped at an error it did not expect: {type(error).__name__}: {text[:300]}",
    )


def _raise_cancelled(_signal: int, _frame: FrameType | None) -> None:
    raise CancelledRunError


def _write(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(to_json(value), indent=2) + b"\n")
