"""The folder in which a pull collects its files, until they are whole and checked.

    data/models/.pull-NAME/
        lock          held while a process pulls; the worker inherits it
        job.json      what is fetched
        events.jsonl  how it goes, from the worker
        worker.log    what the worker printed
        cancel        exists if a person has cancelled the pull
        files/        the files in the layout of the base model's folder; an unfinished one ends in `.part`

The folder is on the same file system as the base models, so that a finished one is renamed into place.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from tmde_core.errors import InvalidInputError
from tmde_core.models.pulling.names import NAME
from tmde_core.records.base import Record, from_json, to_json
from tmde_core.records.pulls import PullFile, PullPlan
from tmde_core.storage.durable import storage_errors, write_atomic
from tmde_core.storage.locks import FileLock, is_locked

PREFIX = ".pull-"
PART = ".part"
LOCK_TRIES, LOCK_PAUSE_SECONDS = 15, 0.02
"""How often and at which interval a lock is tried: `is_alive` of another process holds it for a moment."""


class PullJob(Record):
    """What the worker of a pull is given. It holds no token."""

    id: str
    plan: PullPlan
    started_at: datetime


class Staging:
    """The folder of one pull."""

    def __init__(self, models: Path, name: str) -> None:
        """Name the folder; it need not exist."""
        self.models = models
        self.name = name
        self.folder = models / f"{PREFIX}{name}"
        self.lock_file = self.folder / "lock"
        self.job_file = self.folder / "job.json"
        self.events_file = self.folder / "events.jsonl"
        self.log_file = self.folder / "worker.log"
        self.cancel_file = self.folder / "cancel"
        self.files = self.folder / "files"

    @property
    def target(self) -> Path:
        """The folder of the base model."""
        return self.models / self.name

    def whole(self, file: PullFile) -> Path:
        """Return where a file lies that was fetched and checked."""
        return self.files / file.target

    def part(self, file: PullFile) -> Path:
        """Return where the bytes of an unfinished file lie."""
        return self.files / f"{file.target}{PART}"

    def bytes_of(self, file: PullFile) -> int:
        """Return how many bytes of a file are in the folder."""
        for place in (self.whole(file), self.part(file)):
            with contextlib.suppress(OSError):
                return min(place.stat().st_size, file.size_bytes)
        return 0

    def job(self) -> PullJob | None:
        """Return what was pulled last; None if it cannot be read."""
        with contextlib.suppress(OSError, InvalidInputError, msgspec.MsgspecError):
            return from_json(self.job_file.read_bytes(), PullJob)
        return None

    def write_job(self, job: PullJob) -> None:
        """Store what is pulled now, and forget how the last attempt went. The caller must hold the lock.

        Raises:
            InsufficientStorageError: the disk is full or cannot be written.
        """
        keep = {path for file in job.plan.files for path in (self.whole(file), self.part(file))}
        old = self.job()
        same = {} if old is None else {file.target: _identity(file) for file in old.plan.files}
        with storage_errors(self.folder):
            self.files.mkdir(parents=True, exist_ok=True)
            for file in job.plan.files:
                if same.get(file.target) != _identity(file):  # bytes of other content must not be continued
                    keep -= {self.whole(file), self.part(file)}
            for found in _files_below(self.files):
                if found not in keep:
                    found.unlink(missing_ok=True)
            for leftover in (self.events_file, self.log_file, self.cancel_file):
                leftover.unlink(missing_ok=True)
            write_atomic(self.job_file, to_json(job))

    def is_alive(self) -> bool:
        """Return whether a process pulls into the folder."""
        return is_locked(self.lock_file)

    def try_lock(self) -> FileLock | None:
        """Lock the folder, and create it if it is missing; None if a process pulls into it.

        Raises:
            InsufficientStorageError: the disk is full or cannot be written.
        """
        with storage_errors(self.folder):
            for _ in range(LOCK_TRIES):
                self.folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # it was discarded at this moment
                    lock = FileLock.try_acquire(self.lock_file)
                    if lock is not None and lock.is_current():
                        return lock
                    if lock is not None:
                        lock.release()
                time.sleep(LOCK_PAUSE_SECONDS)
        return None

    def drop_files(self) -> None:
        """Delete the collected files, and keep the notes of how the pull went."""
        shutil.rmtree(self.files, ignore_errors=True)

    def discard(self) -> None:
        """Delete the folder. The caller must hold the lock."""
        self.drop_files()
        shutil.rmtree(self.folder, ignore_errors=True)

    def changed_at(self) -> datetime:
        """Return when the folder last got bytes."""
        moments = [0.0]
        for found in (self.folder, self.job_file, self.events_file, *_files_below(self.files)):
            with contextlib.suppress(OSError):
                moments.append(found.stat().st_mtime)
        return datetime.fromtimestamp(max(moments), UTC)


def find_stagings(models: Path) -> list[Staging]:
    """Return the folders of all pulls, by name."""
    with contextlib.suppress(OSError):
        names = sorted(entry.name.removeprefix(PREFIX) for entry in os.scandir(models) if _is_staging(entry))
        return [Staging(models, name) for name in names if NAME.fullmatch(name)]
    return []


def _is_staging(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)


def _identity(file: PullFile) -> tuple[int, str | None, str | None]:
    return file.size_bytes, file.sha256, file.git_sha1


def _files_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield Path(root) / name
