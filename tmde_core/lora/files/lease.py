"""Who answers by an adapter holds a lease on it, so that nobody deletes it meanwhile, in whatever process.

A lease is a shared lock on the adapter's directory (`storage.locks`); deleting takes the exclusive one. The kernel lets go of it when its holder dies,
and nothing has to be cleared away. Where the file system has no locks nobody can hold one, so nothing is deleted there
while that cannot be told: see `sole`.
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
    """Keeps an adapter on the disk until it is released or this process ends. Releasing again does nothing."""

    def __init__(self, lock: FileLock | None = None) -> None:
        self._lock = lock

    def release(self) -> None:
        """Let go of it."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def shared(directory: Path) -> Lease | None:
    """A lease on an adapter; None when somebody is deleting it, or asks whether it may be deleted, in this moment.

    Raises:
        NotFoundError: there is no such adapter, or no longer.
    """
    try:
        lock = FileLock.try_acquire(directory, shared=True, create=False)
    except FileNotFoundError:
        raise NotFoundError(f"There is no adapter with the id {directory.name}.") from None
    except (OSError, InsufficientStorageError) as error:
        # A link: whoever answers by it will find that out and say it better. No locks: answers are more important, and
        # whoever deletes finds the same.
        log.warning("lease.not_had", directory=str(directory), error=str(error))
        return Lease()
    if lock is None:
        return None
    if not lock.is_current():
        lock.release()
        raise NotFoundError(f"The adapter {directory.name} has just been deleted.")
    return Lease(lock)


@contextmanager
def sole(directory: Path) -> Iterator[None]:
    """No lease is held on the adapter, and none is given out, while the block runs.

    Raises:
        ConflictError: somebody holds one, or it cannot be told.
    """
    try:
        lock = FileLock.try_acquire(directory, create=False)
    except InsufficientStorageError as error:
        why = getattr(error.__cause__, "strerror", error.detail)
        raise ConflictError(
            f"It cannot be told whether a process of TMDE still uses the adapter {directory.name}: the file system of "
            f"{directory.parent} has no locks ({why}). Stop every TMDE, then remove {directory} by hand."
        ) from None
    except OSError:  # a link, or gone: nothing that anybody could be answered by
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
    """Whether somebody holds a lease on the adapter, or that cannot be told."""
    try:
        with sole(directory):
            return False
    except ConflictError:
        return True
