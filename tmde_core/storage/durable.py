"""Files that are there whole or not at all, whatever dies: fsync, rename, fsync of the directory."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmde_core.errors import InsufficientStorageError

TEMPORARY = ".tmp"
"""Suffix of a file that is being written; whoever finds one after a crash may delete it."""


def sync_directory(directory: Path) -> None:
    """Write a directory's entries to the disk. Without this a power cut may undo a rename."""
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


def write_whole(file: Path, content: bytes) -> None:
    """Replace the content of a file. A reader sees the old bytes or the new ones, never a mixture.

    Raises:
        InsufficientStorageError: the disk is full, or the directory cannot be written.
    """
    # The ids keep processes and threads that write at the same time out of each other's temporary file.
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_native_id()}{TEMPORARY}")
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


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits. Large files need no more memory."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only disk and missing file locks into a sentence for people.

    Raises:
        InsufficientStorageError: in place of the OSError.
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
