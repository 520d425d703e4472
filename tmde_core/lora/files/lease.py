"""Leases prevent any process from deleting an adapter while the adapter is in use.

A lease is a shared lock on the adapter's directory (`storage.locks`); deleting takes the exclusive lock. The kernel
releases the lock when the process ends, so no cleanup is needed. On a file system without locks nobody can hold a
lease, so adapters are not deleted there: see `sole`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from tmde_core.errors import ConflictError, InsufficientStorageError, NotFoundError
from tmde_core.storage.locks import FileLock

log = structlog.get_logger(__name__)


class Lease:
    """Prevents the deletion of an adapter until the lease is released or the process ends."""

    def __init__(self, lock: FileLock | None = None) -> None:
        self._lock = lock
        self.flaw: str | None = None
        """Why the leased adapter cannot answer, so that the base model does; None if it can."""

    def release(self) -> None:
        """Release the lease. A second call does nothing."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def acquire_lease(directory: Path) -> Lease | None:
    """Return a lease on an adapter, or None if a process is deleting the adapter or checking whether it may.

    Raises:
        NotFoundError: the adapter does not exist, or not any more.
    """
    try:
        lock = FileLock.try_acquire(directory, shared=True, create=False)
    except FileNotFoundError:
        raise NotFoundError(f"There is no adapter with the id {directory.name}.") from None
    except (OSError, InsufficientStorageError) as error:
        # Either the directory is a symbolic link: loading the adapter fails later, with a better message. Or the file
        # system has no locks: continue without one, because `sole` then refuses to delete.
        log.warning("lease.not_had", directory=str(directory), error=str(error))
        return Lease()
    if lock is None:
        return None
    if not lock.is_current():
        lock.release()
        raise NotFoundError(f"The adapter {directory.name} has just been deleted.")
    return Lease(lock)


@contextmanager
def lock_for_deletion(directory: Path) -> Iterator[None]:
    """Ensure that nobody holds or gets a lease on an adapter while the block runs.

    Raises:
        ConflictError: a process holds a lease, or the file system cannot tell.
    """
    try:
        lock = FileLock.try_acquire(directory, create=False)
    except InsufficientStorageError as error:
        why = getattr(error.__cause__, "strerror", error.detail)
        raise ConflictError(
            f"It cannot be told whether a process of TMDE still uses the adapter {directory.name}: the file system of "
            f"{directory.parent} has no locks ({why}). Stop every TMDE, then remove {directory} by hand."
        ) from None
    except OSError:  # a symbolic link, or deleted: nobody can use such an adapter
        yield
        return
    if lock is None:
        raise ConflictError(
            f"The adapter {directory.name} answers a debate, benchmark or question that has not ended yet, here or in "
            "another process. Try again when it has."
        )
    with lock:
        yield


def is_leased(directory: Path) -> bool:
    """Return True if a process holds a lease on the adapter, or if the file system cannot tell."""
    try:
        with lock_for_deletion(directory):
            return False
    except ConflictError:
        return True
