"""Locks between processes: `flock` on a file or a directory, freed by the kernel however the holder ends.

    with FileLock.acquire(path):                     # wait until the lock is free
        ...
    lock = FileLock.try_acquire(path, shared=True)   # do not wait: None if somebody is in the way

- An *exclusive* lock has one holder and no shared holders beside it.
- A *shared* lock has any number of holders, and no exclusive one beside them.
- Either can be *inherited*: a child that is started with `pass_fds=(lock.fileno(),)` holds the same lock. The lock is free
  once every process that has it has released it or is gone. No other child gets it (close-on-exec).

Two locks in one process exclude each other as those of two processes do. Lock files are never deleted while TMDE may wait
for them: who waits on a deleted file and who makes a new one would both hold "the" lock. Where the locked thing itself may be
deleted, such as an adapter's directory, ask `FileLock.is_current` after the lock is held.

The lock objects of `filelock` and `portalocker` cannot do this. They open a lock file for writing themselves, so they cannot lock
a directory, and they release with LOCK_UN, which takes the lock from the child that inherited it. filelock's native lock is
exclusive only, asks again and again instead of waiting, and becomes a mere marker file where the file system has no `flock`.
What is left, `filelock.lock_descriptor` and `portalocker.lock`, is little more than the call of `flock` below.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tmde_core.storage.durable import storage_errors


class FileLock:
    """A lock that is held. Made by `acquire` and `try_acquire`; free after `release` or a `with` block."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, *, shared: bool = False, create: bool = True) -> Self:
        """Wait until the lock is free, and hold it.

        Args:
            shared: hold it beside others who hold it shared.
            create: `path` is a lock file, created if it is missing. Else `path` is a file or directory that must exist; a link is
                not followed.

        Raises:
            OSError: it cannot be opened.
            InsufficientStorageError: the file system has no locks.
        """
        descriptor = _opened(path, create)
        _lock(path, descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        return cls(path, descriptor)

    @classmethod
    def try_acquire(cls, path: Path, *, shared: bool = False, create: bool = True) -> Self | None:
        """Hold the lock if it is free; None when somebody holds it in a way that excludes this. See `acquire`."""
        descriptor = _opened(path, create)
        if _lock(path, descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB):
            return cls(path, descriptor)
        os.close(descriptor)
        return None

    def fileno(self) -> int:
        """The descriptor to hand to a child that shall hold the lock too.

        Raises:
            ValueError: the lock was released.
        """
        if self._descriptor is None:
            raise ValueError(f"The lock on {self.path} was released.")
        return self._descriptor

    def is_current(self) -> bool:
        """Whether the path still names what is locked. It may have been deleted or replaced before the lock was held."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.fileno()))
        except OSError:
            return False

    def write(self, content: bytes) -> None:
        """Replace the content of the lock file: it tells others who holds the lock."""
        os.ftruncate(self.fileno(), 0)
        os.pwrite(self.fileno(), content, 0)

    def release(self) -> None:
        """Let go of the lock. A child that inherited it keeps it. Releasing again does nothing."""
        if self._descriptor is not None:
            # Closing, not LOCK_UN, which would free the lock for the child too.
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds an exclusive lock on a file or directory. What cannot be opened is not locked.

    Holds a shared lock for a moment, so that two who ask do not take each other for the holder. Whoever tries to get the
    exclusive lock in that moment is refused.

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
    # O_NONBLOCK: a named pipe would keep this waiting for its other end. It does not concern the lock.
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _lock(path: Path, descriptor: int, operation: int) -> bool:
    """Lock a descriptor; False when another lock is in the way. Closes the descriptor when it raises."""
    try:
        with storage_errors(path.parent):
            try:
                fcntl.flock(descriptor, operation)
            except BlockingIOError:
                return False
            except OSError as error:
                # File systems without locks say so in several ways: NFS answers EBADF for a directory.
                raise OSError(errno.ENOLCK, error.strerror) from error
    except BaseException:
        os.close(descriptor)
        raise
    return True
