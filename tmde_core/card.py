"""Lends the graphics card to one training run: who has it, and which processes have still to leave it.

A training run and a model runtime are usually in different processes: the trainer is a process of its own, and the
server, a `tmde worker` or a command line may have started it. They meet in the directory `card` of the data directory.

- `loan.json` says which run has the card. It counts only while the run's leash is locked (`finetune.supervision`).
  The kernel unlocks the leash when the last process of the run has ended, so a killed trainer never keeps the card.
  A trainer that is stopped (SIGSTOP, a frozen container) lives but trains nothing, so its loan counts no more once its
  run has shown no sign of life for `SILENT_SECONDS`. Usually the watchdog has ended such a run before. If no process
  watches the run, or its process is in another container, the models answer again all the same. If the trainer goes on,
  the loan counts again, and the runtimes leave the card again.
- `users/ID` is locked by each process that has started a runtime. It holds the loan for which that process has paused
  its runtimes. The trainer waits for these answers before it begins. It does not wait for a process that has ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from tmde_core.errors import InsufficientStorageError
from tmde_core.records.base import Record, to_json, utc_now
from tmde_core.sdk.worker.run_files import ACTIVITY_FILE, EVENTS_FILE
from tmde_core.sdk.worker.vitals import HEARTBEAT_FILE
from tmde_core.storage.durable import storage_errors, write_atomic
from tmde_core.storage.locks import FileLock, is_locked

DIRECTORY = "card"
LOAN_FILE = "loan.json"
USERS = "users"
SIGNS = (HEARTBEAT_FILE, EVENTS_FILE, ACTIVITY_FILE)
"""The files of a run that its process touches while it lives."""

SILENT_SECONDS = 900.0
"""A run without a sign of life for this time has no loan. A training process gives a sign every two seconds, and the
watchdog ends a silent one after 300 s, or 600 s before its first sign (`finetune.limits`)."""

LEFTOVER_SECONDS = 60.0
"""The age from which an unlocked file of a user belongs to a process that has ended."""


class Loan(Record):
    """The card is lent to a training run."""

    id: UUID
    """Every attempt of a run has a loan of its own."""
    run_id: UUID
    run_name: str
    leash: str
    """The path of the run's leash, relative to the data directory, which other containers see elsewhere."""
    vram_bytes: int
    """The memory of the card that the run needs, as its backend estimates it."""
    ends_at: datetime | None = None
    """When the run ends, by the backend's estimate; None: unknown."""
    runtimes: tuple[str, ...] = ()
    """The runtimes that are paused for the run, by name. Other processes, too, leave them alone."""

    def is_in_force(self, data_dir: Path) -> bool:
        """Return whether the run has a process that shows life, or another process is just starting or ending one."""
        return self.is_held(data_dir) and self.seconds_silent(data_dir) < SILENT_SECONDS

    def is_held(self, data_dir: Path) -> bool:
        """Return whether a process of the run exists. It may be stopped."""
        return is_locked(data_dir / self.leash)

    def seconds_silent(self, data_dir: Path) -> float:
        """Return the time since the last sign of life of the run: an event, a heartbeat, or the loan itself."""
        run_dir = (data_dir / self.leash).parent
        signs = [data_dir / DIRECTORY / LOAN_FILE, *(run_dir / name for name in SIGNS)]
        last = 0.0
        for sign in signs:
            with contextlib.suppress(OSError):
                last = max(last, sign.stat().st_mtime)
        return time.time() - last

    def describe(self) -> str:
        """Return why a runtime is paused and until when, in sentences."""
        name = str(self.run_name or self.run_id)
        return f"The model is paused while the training run {name!r} uses the graphics card. {self._until()}"

    def _until(self) -> str:
        if self.ends_at is None:
            return "It is back when the run has ended."
        if self.ends_at <= utc_now():
            return "It should be back soon."
        return f"It is back at about {self.ends_at.astimezone():%H:%M}."

    def seconds_left(self) -> float | None:
        """Return the estimated seconds until the run ends; None: unknown or over."""
        left = (self.ends_at - utc_now()).total_seconds() if self.ends_at else 0.0
        return round(left) if left > 0 else None


class User(Record):
    """A process that has started runtimes."""

    pid: int
    loan: UUID | None = None
    """The newest loan for which this process has paused its runtimes."""
    paused: tuple[str, ...] = ()
    """The runtimes that it has paused, by name."""


def read_loan(data_dir: Path) -> Loan | None:
    """Return the loan, in force or not; None if there is none. Without a loan, this costs one look for a file."""
    try:
        content = (data_dir / DIRECTORY / LOAN_FILE).read_bytes()
        return msgspec.json.decode(content, type=Loan)
    except (OSError, msgspec.MsgspecError):
        return None


def find_loan(data_dir: Path) -> Loan | None:
    """Return the loan that is in force; None if no training run has the card."""
    loan = read_loan(data_dir)
    return loan if loan is not None and loan.is_in_force(data_dir) else None


def lend(data_dir: Path, loan: Loan) -> None:
    """Lend the card. The caller must hold the run's leash.

    Raises:
        InsufficientStorageError: the file cannot be written.
    """
    directory = data_dir / DIRECTORY
    with storage_errors(directory):
        directory.mkdir(exist_ok=True)
    write_atomic(directory / LOAN_FILE, to_json(loan))


def give_back(data_dir: Path, run_id: UUID) -> None:
    """End the loan of a run, if the run has one. The caller must hold the run's leash."""
    loan = read_loan(data_dir)
    if loan is not None and loan.run_id == run_id:
        with contextlib.suppress(OSError):
            (data_dir / DIRECTORY / LOAN_FILE).unlink()


def read_users(data_dir: Path) -> list[User]:
    """Return the living processes that have started runtimes, and remove the files of those that have ended."""
    found = []
    for path in (data_dir / DIRECTORY / USERS).glob("*"):
        try:
            if is_locked(path):
                found.append(msgspec.json.decode(path.read_bytes() or b'{"pid": 0}', type=User))
            elif path.stat().st_mtime < time.time() - LEFTOVER_SECONDS:
                path.unlink()
        except (OSError, msgspec.MsgspecError, InsufficientStorageError):
            continue  # it has just ended, or is writing its answer: the next look sees it
    return found


class Presence:
    """The file by which a process says that it has started runtimes, and for which loan it has paused them."""

    def __init__(self, data_dir: Path) -> None:
        """Create and lock the file.

        Raises:
            OSError, InsufficientStorageError: the directory cannot be written, or its file system has no locks.
        """
        directory = data_dir / DIRECTORY / USERS
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock.acquire(directory / uuid4().hex)
        self._said = User(pid=os.getpid())
        self._lock.write(to_json(self._said))

    def answer(self, loan: UUID, paused: tuple[str, ...]) -> None:
        """Say that the runtimes have left the card for this loan."""
        said = User(pid=os.getpid(), loan=loan, paused=paused)
        if said != self._said:
            self._lock.write(to_json(said))
            self._said = said

    def close(self) -> None:
        """Remove the file."""
        self._lock.path.unlink(missing_ok=True)
        self._lock.release()
