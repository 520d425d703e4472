"""Fetches the files of a pull, in a process of its own: `python -m tmde_core.models.pulling.worker MODELS NAME`.

The process reads `job.json` of its folder (see `staging`) and writes its progress to `events.jsonl`, so that any process
can follow it. It ends when it is cancelled, or when the process that started it has ended: it reads from a pipe whose
other end only that process holds. Killing it at any moment loses nothing but the last fraction of a second.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from tmde_core.errors import TmdeError, WorkerFailedError
from tmde_core.models.pulling.checking import Hasher, check_header, check_same_model, check_together
from tmde_core.models.pulling.limits import PullLimits
from tmde_core.models.pulling.planning import is_here, read_notes, require_room
from tmde_core.models.pulling.publishing import publish
from tmde_core.models.pulling.staging import PullJob, Staging
from tmde_core.models.pulling.transfer import Fetcher
from tmde_core.models.pulling.wire import pack
from tmde_core.records.pulls import PullFile
from tmde_core.storage.durable import hash_file, storage_errors
from tmde_core.storage.events import FileLog

REPORT_SECONDS = 0.5
"""The shortest time between two reports of progress."""
SPEED_SECONDS = 10.0
"""The speed is that of the last seconds."""
WATCH_SECONDS = 0.2
"""The time between two checks whether the pull was cancelled."""


class Progress:
    """Reports how a pull gets on. One writer at a time appends to the log."""

    def __init__(self, staging: Staging, job: PullJob) -> None:
        """Begin a report."""
        self.lock = threading.RLock()
        self.ended = False
        """Whether the last event was written."""
        self._log = FileLog(staging.events_file)
        self._total = job.plan.total_bytes
        self._done = sum(staging.bytes_of(file) for file in job.plan.files)
        self._file = ""
        self._message = ""
        self._samples: deque[tuple[float, int]] = deque()
        self._arrived = 0
        self._reported = 0.0

    def begin(self) -> None:
        """Report that the worker lives."""
        self._append("started")

    def open(self, file: PullFile) -> None:
        """Report that a file is fetched now."""
        self._file = file.path
        self._append("progress")

    def move(self, count: int) -> None:
        """Count bytes that arrived, or that were dropped."""
        self._done += count
        goes_on = count > 0 and bool(self._message)
        if count > 0:
            self._arrived += count
            self._message = ""
        if goes_on or time.monotonic() - self._reported >= REPORT_SECONDS:
            self._append("progress")

    def tell(self, text: str) -> None:
        """Report something that a person should know."""
        self._message = text
        self._append("log", {"text": text})

    def end(self, kind: str, data: dict[str, Any]) -> None:
        """Write the last event, if it is not written yet."""
        with self.lock:
            if not self.ended:
                self._append(kind, data)
                self.ended = True

    def _append(self, kind: str, data: dict[str, Any] | None = None) -> None:
        with self.lock:
            now = self._reported = time.monotonic()
            self._samples.append((now, self._arrived))
            while len(self._samples) > 2 and now - self._samples[0][0] > SPEED_SECONDS:
                self._samples.popleft()
            (first, before), speed = self._samples[0], None
            if now - first >= REPORT_SECONDS and self._arrived > before:
                speed = (self._arrived - before) / (now - first)
            figures = {
                "bytesDone": self._done,
                "bytesTotal": self._total,
                "bytesPerSecond": speed,
                "etaSeconds": None if speed is None else (self._total - self._done) / speed,
                "file": self._file,
                "message": self._message,
            }
            self._log.append(kind, figures | (data or {}))


def pull(staging: Staging, job: PullJob, limits: PullLimits, progress: Progress) -> None:
    """Fetch, check and publish the files of a pull.

    Raises:
        TmdeError: it failed; what was fetched is kept.
    """
    progress.begin()
    plan, hashes = job.plan, dict[str, str]()
    reuse_files(staging, job)
    require_room(msgspec.structs.replace(plan, present_bytes=sum(map(staging.bytes_of, plan.files))), staging.models)
    fetcher = Fetcher(staging, plan, limits, progress.move, progress.tell)
    # Small files first: what makes a pull useless is known before the weights are fetched.
    for file in sorted(plan.files, key=lambda one: (one.size_bytes, one.path)):
        progress.open(file)
        whole = staging.whole(file)
        if not whole.exists():
            digest = fetcher.fetch(file)
            if file.sha256:
                hashes[file.target] = digest
        try:
            check_header(whole, file.path)
        except TmdeError:
            whole.unlink(missing_ok=True)
            raise
        if file.target not in hashes:
            hashes[file.target] = file.sha256 or hash_file(whole)
    check_together(staging.files, plan)
    check_same_model(staging.files, staging.target, plan)
    with progress.lock:  # a cancellation waits until the files are in place
        publish(staging, plan, hashes)
        progress.end("complete", {"name": plan.name})
        staging.drop_files()


def reuse_files(staging: Staging, job: PullJob) -> None:
    """Link files into the folder that the base model has already, if their hashes are right."""
    notes = read_notes(staging.target)
    for file in job.plan.files:
        whole = staging.whole(file)
        if whole.exists() or not is_here(file, staging.target, notes):
            continue
        hasher = Hasher(file)
        with contextlib.suppress(OSError):
            hasher.read(staging.target / file.target)
            if hasher.matches():
                with storage_errors(whole):
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    whole.hardlink_to((staging.target / file.target).resolve())
                    staging.part(file).unlink(missing_ok=True)


def watch_for_end(staging: Staging, progress: Progress) -> None:
    """End this process if it is cancelled, or if the process that started it has ended."""

    def watch_cancel() -> None:
        while not staging.cancel_file.exists():
            time.sleep(WATCH_SECONDS)
        with progress.lock:
            with contextlib.suppress(TmdeError, OSError):
                progress.end("cancelled", {})
            os._exit(0)

    def watch_parent() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        with progress.lock:
            os._exit(0)  # the pull counts as interrupted: its log has no end

    for watch in (watch_cancel, watch_parent):
        threading.Thread(target=watch, name=watch.__name__, daemon=True).start()


def main(models: Path, name: str, limits: PullLimits) -> None:
    """Carry out the pull of a folder."""
    staging = Staging(models, name)
    job = staging.job()
    if job is None:
        raise SystemExit(f"{staging.job_file} cannot be read.")
    progress = Progress(staging, job)
    watch_for_end(staging, progress)
    try:
        pull(staging, job, limits, progress)
    except TmdeError as error:
        packed = pack(error)
        progress.end("error", {"kind": packed.kind, "detail": packed.detail, "context": packed.context})
    except Exception as error:
        packed = pack(WorkerFailedError(f"The pull failed: {type(error).__name__}: {error}"[:500]))
        progress.end("error", {"kind": packed.kind, "detail": packed.detail, "context": {}})
        raise  # the traceback goes to worker.log


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], msgspec.json.decode(sys.argv[3], type=PullLimits))
