"""Says which debates are alive: one locked file per running debate, which the kernel unlocks when its process ends.

A process id does not tell this. Processes in different containers share a data directory, but not their process ids.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from uuid import UUID

from tmde_core.storage.durable import storage_errors
from tmde_core.storage.locks import FileLock, is_locked

DIRECTORY = "debates"


def hold_sign_of_life(data_dir: Path, debate_id: UUID) -> FileLock:
    """Create and lock the file of a debate that begins in this process.

    Raises:
        InsufficientStorageError: the file cannot be written, or its file system has no locks.
    """
    path = _path(data_dir, debate_id)
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        return FileLock.acquire(path)


def end_sign_of_life(lock: FileLock) -> None:
    """Delete the file of a debate whose end is stored."""
    with contextlib.suppress(OSError):
        lock.path.unlink(missing_ok=True)
    lock.release()


def read_sign_of_life(data_dir: Path, debate_id: UUID) -> bool | None:
    """Return whether the process of a debate lives; None if the debate has no file."""
    path = _path(data_dir, debate_id)
    return is_locked(path) if path.exists() else None


def forget_sign_of_life(data_dir: Path, debate_id: UUID) -> None:
    """Delete the file that a dead process left behind."""
    with contextlib.suppress(OSError):
        _path(data_dir, debate_id).unlink(missing_ok=True)


def _path(data_dir: Path, debate_id: UUID) -> Path:
    return data_dir / DIRECTORY / str(debate_id)
