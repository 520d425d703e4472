"""Writes files atomically and durably: fsync, rename, then fsync of the directory."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tmde_core.errors import InsufficientStorageError

TEMPORARY = ".tmp"
"""Suffix of a file that is being written. After a crash such a file may be deleted."""


def sync_directory(directory: Path) -> None:
    """Write a directory's entries to the disk. Without this call a power failure may undo a rename."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Path) -> None:
    """Write a file's content to the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(file: Path, content: bytes) -> None:
    """Replace the content of a file atomically.

    A reader sees either the old or the new content, never a mixture.

    Raises:
        InsufficientStorageError: the disk is full, or the directory cannot be written.
    """
    # Each writer has its own temporary file. Process ids would not do: two containers may have the same one.
    temporary = file.with_name(f".{file.name}.{uuid4().hex}{TEMPORARY}")
    with storage_errors(file):
        try:
            with temporary.open("wb") as output:
                output.write(content)
                output.flush()
                os.fsync(output.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(file.parent)


def read_small(file: Path, limit: int = 2**20) -> bytes:
    """Return the content of a small file that another process wrote.

    Reading a named pipe would wait for ever, and a huge file would fill the memory.

    Raises:
        OSError: it cannot be read, is no ordinary file, or has more bytes than `limit`.
    """
    # O_NONBLOCK: opening a named pipe would wait until its other end is opened.
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise OSError(errno.EINVAL, "This is no small file", str(file))
        return opened.read(limit)


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits.

    The memory used does not depend on the file's size.
    """
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise InsufficientStorageError for a full disk, a read-only disk or missing file locks.

    Raises:
        InsufficientStorageError: replaces the OSError; its detail is a sentence for people.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientStorageError(
                f"The disk that holds {path} is full. Free some space; nothing was lost."
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise InsufficientStorageError(
                f"{path} cannot be written: {error.strerror}. Check the permissions of the data directory."
            ) from error
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise InsufficientStorageError(
                f"The file system that holds {path} has no file locks (flock), by which TMDE's processes keep out of each other's way. "
                "Choose a data directory on a local disk (--data-dir)."
            ) from error
        raise
