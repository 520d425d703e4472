"""Tells every program on a data directory whether a `tmde worker` runs there, and what it can train with.

The worker holds a lock on `worker.lock` while it lives, and writes into this file who it is. The kernel releases the
lock when the worker ends. The lock also reaches another container, where the worker's process id means nothing. The
worker renews what it wrote every few seconds, so a health check notices a worker that hangs.
"""

from __future__ import annotations

import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Self

import msgspec

from tmde_core.errors import ConflictError, InsufficientStorageError
from tmde_core.records.base import Record, to_json, utc_now
from tmde_core.records.runtimes import Availability
from tmde_core.storage.durable import read_small, storage_errors
from tmde_core.storage.locks import FileLock, is_locked

WORKER_FILE = "worker.lock"
RENEW_SECONDS = 5.0
"""How often a worker renews what it says about itself."""
LATE_SECONDS = 60.0
"""A worker that has not renewed its file for so long hangs, or its machine does."""

NO_WORKER = "No worker is running. Start `tmde worker` on this data directory."


class WorkerBackend(Record, frozen=True):
    """A training backend, as the worker finds it in its own environment."""

    name: str
    availability: Availability


class WorkerPresence(Record, frozen=True):
    """What a running worker says about itself."""

    host: str = ""
    """The name of its machine or container."""
    pid: int | None = None
    """Its process id, which only means something on the same machine and in the same container."""
    since: datetime | None = None
    seen: datetime | None = None
    """When it renewed this."""
    doing: str = ""
    """What it does before it takes runs, as a sentence; empty: it takes runs."""
    backends: tuple[WorkerBackend, ...] = ()
    """What it can train with. Empty until it has looked."""
    auto: str = ""
    """The backend that `auto` selects there; empty: unknown."""

    def find(self, name: str) -> Availability | None:
        """Return whether a backend works in the worker's environment; None if it has not said so."""
        return next((one.availability for one in self.backends if one.name == name), None)

    def is_late(self) -> bool:
        """Return whether the worker has not renewed its file for too long."""
        return self.seen is None or (utc_now() - self.seen).total_seconds() > LATE_SECONDS

    def describe(self) -> str:
        """Return who the worker is and what it does, in sentences."""
        who = f"A worker runs on {self.host or 'a machine that it has not named yet'}"
        who += f" (process {self.pid})." if self.pid is not None else "."
        late = " It has not answered for more than a minute." if self.seen is not None and self.is_late() else ""
        return " ".join(part for part in (who + late, self.doing) if part)


def find_worker(data_dir: Path) -> WorkerPresence | None:
    """Return what the worker of a data directory says about itself; None if no worker runs."""
    path = data_dir / WORKER_FILE
    try:
        if not is_locked(path):
            return None
        return msgspec.json.decode(read_small(path), type=WorkerPresence)
    except (OSError, InsufficientStorageError):
        return None
    except msgspec.MsgspecError:
        return WorkerPresence()  # it is just writing


class WorkerRegistration:
    """Holds the lock of the worker of a data directory. Use it as a context manager."""

    def __init__(self, data_dir: Path) -> None:
        """Become the worker of this data directory.

        Raises:
            ConflictError: another worker runs; the detail says where.
            InsufficientStorageError: the directory cannot be written, or its file system has no locks.
        """
        path = data_dir / WORKER_FILE
        with storage_errors(path):
            lock = FileLock.try_acquire(path)
        if lock is None:
            other = find_worker(data_dir) or WorkerPresence()
            raise ConflictError(
                f"{other.describe()} One worker looks after all training runs of a data directory, and runs are trained "
                "one after the other. Stop it first, or let it work."
            )
        self._lock = lock
        now = utc_now()
        self._said = WorkerPresence(host=socket.gethostname(), pid=os.getpid(), since=now, seen=now)
        self._lock.write(to_json(self._said))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(
        self, *, doing: str | None = None, backends: tuple[WorkerBackend, ...] | None = None, auto: str | None = None
    ) -> None:
        """Write that the worker still works. Values that are None stay as they are."""
        changes = {"doing": doing, "backends": backends, "auto": auto}
        known = {name: value for name, value in changes.items() if value is not None}
        self._said = msgspec.structs.replace(self._said, seen=utc_now(), **known)
        self._lock.write(to_json(self._said))
