"""Locks between processes: `flock` on a file or a directory. The kernel releases a lock when its holder ends.

    with FileLock.acquire(path):                     # wait until the lock is free
        ...
    lock = FileLock.try_acquire(path, shared=True)   # do not wait: None if another lock excludes this one

- An *exclusive* lock has one holder and excludes shared locks.
- A *shared* lock has any number of holders and excludes an exclusive lock.
- A child process can *inherit* either kind. Start the child with `pass_fds=(lock.fileno(),)`. The lock is free once
  every process that holds it has released it or has ended. Other children do not inherit the lock (close-on-exec).

Two locks in one process exclude each other in the same way as locks in two processes.

TMDE never deletes a lock file while a process may wait for it. Otherwise one process could lock the deleted file and
another process a new file of the same name, and both would believe that they hold the lock. If the locked file or
directory itself may be deleted, such as an adapter's directory, call `FileLock.is_current` after acquiring the lock.

The lock classes of `filelock` and `portalocker` cannot do this. They open a lock file for writing, so they cannot lock
a directory. They release with LOCK_UN, which also releases the lock of a child that inherited it. filelock's native
lock is exclusive only, polls instead of waiting, and falls back to a marker file if the file system has no `flock`.
The functions that remain, `filelock.lock_descriptor` and `portalocker.lock`, do little more than the call of `flock`
below.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tmde_core.storage.durable import storage_errors

if TYPE_CHECKING:
    from typing import Self  # not in Python 3.10, where workers with their own environments may run


class FileLock:
    """A lock that is held. `acquire` and `try_acquire` create it. `release` or the end of a `with` block frees it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, *, shared: bool = False, create: bool = True) -> Self:
        """Wait until the lock is free, and acquire it.

        Args:
            path: the file or directory to lock.
            shared: acquire a shared lock.
            create: `path` is a lock file; create it if it is missing. If False, `path` must be an existing file or
                directory; links are not followed.

        Raises:
            OSError: the path cannot be opened.
            InsufficientStorageError: the file system has no locks.
        """
        descriptor = _opened(path, create)
        _lock(path, descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        return cls(path, descriptor)

    @classmethod
    def try_acquire(cls, path: Path, *, shared: bool = False, create: bool = True) -> Self | None:
        """Acquire the lock without waiting; return None if another lock excludes it. See `acquire`."""
        descriptor = _opened(path, create)
        if _lock(path, descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB):
            return cls(path, descriptor)
        os.close(descriptor)
        return None

    def fileno(self) -> int:
        """Return the descriptor to pass to a child process that must hold the lock too.

        Raises:
            ValueError: the lock was released.
        """
        if self._descriptor is None:
            raise ValueError(f"The lock on {self.path} was released.")
        return self._descriptor

    def is_current(self) -> bool:
        """Return whether the path still names the locked file.

        It may have been deleted or replaced before the lock was held.
        """
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.fileno()))
        except OSError:
            return False

    def write(self, content: bytes) -> None:
        """Replace the content of the lock file, which tells other processes who holds the lock."""
        os.ftruncate(self.fileno(), 0)
        os.pwrite(self.fileno(), content, 0)

    def release(self) -> None:
        """Release the lock. A child that inherited the lock still holds it. Calling this method again does nothing."""
        if self._descriptor is not None:
            # Close the descriptor. LOCK_UN would also release the child's lock.
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds an exclusive lock on a file or directory; False if the path cannot be opened.

    The function holds a shared lock for a moment, so that two callers do not see each other as the holder. An attempt
    to acquire the exclusive lock in that moment fails.

    Raises:
        InsufficientStorageError: the file system has no locks.
    """
    try:
        descriptor = _opened(path, create=False)
    except OSError:
        return False
    if not _lock(path, descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB):
        os.close(descriptor)
        return True
    os.close(descriptor)
    return False


def _opened(path: Path, create: bool) -> int:
    if create:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    # O_NONBLOCK: opening a named pipe would block until its other end is opened. The flag does not affect the lock.
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _lock(path: Path, descriptor: int, operation: int) -> bool:
    """Lock a descriptor; return False if another lock excludes this one. Close the descriptor on an error."""
    try:
        with storage_errors(path.parent):
            try:
                fcntl.flock(descriptor, operation)
            except BlockingIOError:
                return False
            except OSError as error:
                # File systems without locks report different errors: NFS reports EBADF for a directory.
                raise OSError(errno.ENOLCK, error.strerror) from error
    except BaseException:
        os.close(descriptor)
        raise
    return True
