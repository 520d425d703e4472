"""Who answers by an adapter holds a lease on it, so that nobody deletes it meanwhile, in whatever process.

A lease is a shared `flock` on the adapter's directory; deleting takes the exclusive one. The kernel lets go of it when its holder dies,
and nothing has to be cleared away. Where the file system has no `flock` nobody can hold one, so nothing is deleted there
while that cannot be told: see `sole`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from tmde_core.errors import ConflictError, NotFoundError

log = structlog.get_logger(__name__)


class Lease:
    """Keeps an adapter on the disk until it is released or this process ends. Releasing again does nothing."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

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
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotFoundError(f"There is no adapter with the id {directory.name}.") from None
    except OSError as error:  # a link, say: whoever answers by it will find that out and say it better
        log.warning("lease.not_had", directory=str(directory), error=str(error))
        return Lease()
    lease = Lease(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        lease.release()
        return None
    except OSError as error:  # answers are more important: whoever deletes finds the same
        log.warning("lease.not_had", directory=str(directory), error=str(error))
    if not _still_there(directory, descriptor):
        lease.release()
        raise NotFoundError(f"The adapter {directory.name} has just been deleted.")
    return lease


@contextmanager
def sole(directory: Path) -> Iterator[None]:
    """No lease is held on the adapter, and none is given out, while the block runs.

    Raises:
        ConflictError: somebody holds one, or it cannot be told.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # a link, a file, or gone: nothing that anybody could be answered by
        yield
        return
    with Lease(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"The adapter {directory.name} answers a debate, benchmark or question that has not ended yet, here or in "
                "another process. Try again when it has."
            ) from None
        except OSError as error:
            raise ConflictError(
                f"It cannot be told whether a process of TMDE still uses the adapter {directory.name}: the file system of "
                f"{directory.parent} has no locks ({error.strerror}). Stop every TMDE, then remove {directory} by hand."
            ) from None
        yield


def is_leased(directory: Path) -> bool:
    """Whether somebody holds a lease on the adapter, or that cannot be told."""
    try:
        with sole(directory):
            return False
    except ConflictError:
        return True


def _still_there(directory: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(directory), os.fstat(descriptor))
    except OSError:
        return False
