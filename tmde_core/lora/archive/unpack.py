"""Unpacks an adapter's files from an archive into an empty directory.

No name from the archive becomes a path. A member is written only if its name equals one of the constants for an
adapter's files. The constant is the file's name, the file is opened with `O_EXCL | O_NOFOLLOW`, and the path is
relative to the directory that was opened before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from tmde_core.lora.archive.layout import (
    ARGUMENTS_FILE,
    MAX_BYTES,
    MAX_OTHER_BYTES,
    METRICS_FILE,
    PICKLE_FILE,
    PICKLES,
)
from tmde_core.lora.archive.tar_reader import DamagedArchiveError, Member, TarReader
from tmde_core.sdk.adapters import CONFIG_FILE, MANIFEST_FILE, REQUIRED_FILES, WEIGHTS_FILE

WRITTEN = frozenset({WEIGHTS_FILE, CONFIG_FILE, ARGUMENTS_FILE, METRICS_FILE})
"""Files that are written unchanged.

The manifest is decoded and written again. The GGUF form is created again from the weights, because a C++ program reads
it without checks. The notes are not needed.
"""


@dataclass
class Unpacked:
    """Stores what was read from an archive."""

    reasons: list[str] = field(default_factory=list)
    """Reasons to reject the archive; empty if no fault was found so far."""
    missing: list[str] = field(default_factory=list)
    """Names of the files that every adapter has and this one does not. `check` gives the reason."""
    deeper: list[str] = field(default_factory=list)
    """Names of the files that lie deeper than one folder and were not taken. `check` gives the reason."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Known file → SHA-256 of its content, written or not."""
    manifest: bytes | None = None
    ignored: list[str] = field(default_factory=list)
    """Names of the files that TMDE does not use."""
    folders: set[str] = field(default_factory=set)


def unpack(file: IO[bytes], directory: Path, stopped: Callable[[], bool] = lambda: False) -> Unpacked:
    """Unpack the adapter's files into `directory`, which must be empty.

    Args:
        file: the archive.
        directory: the empty directory.
        stopped: returns whether to stop.

    Raises:
        InvalidInputError: the file is not a gzipped tar archive.
        TooLargeError: the unpacked archive is larger than an adapter may be.
        OSError: the directory cannot be written.
    """
    reader = TarReader(file, stopped)
    found = Unpacked()
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for member in reader.members():
            _take(reader, member, opened, found)
    except DamagedArchiveError as reason:
        reader.refuse(str(reason))
    else:
        if len(found.folders) > 1:
            reader.refuse(f"The adapter's files lie in {len(found.folders)} different folders.")
        found.missing = [name for name in REQUIRED_FILES if name not in found.hashes]
    finally:
        os.close(opened)
    found.reasons, found.deeper = reader.reasons, reader.deeper
    return found


def _take(reader: TarReader, member: Member, directory: int, found: Unpacked) -> None:
    path = PurePosixPath(member.name)
    name = path.name
    if member.kind == "folder":
        if len(path.parts) > 1:
            found.ignored.append(member.name)
        return
    if name.casefold().endswith(PICKLES):
        hint = " Export it in the format peft, without the .bin." if name == PICKLE_FILE else ""
        reader.refuse(
            f"{member.name!r} is a pickle, which runs code when it is loaded; pack the adapter without it.{hint}"
        )
        return
    if name not in MAX_BYTES:
        if member.size > MAX_OTHER_BYTES:
            reader.refuse(f"{member.name!r} has {member.size:,} bytes and is no part of an adapter.")
        found.ignored.append(member.name)
        return
    if name in found.hashes:
        reader.refuse(f"There is more than one {name}.")
        return
    if member.size > MAX_BYTES[name]:
        reader.refuse(f"{member.name!r} has {member.size:,} bytes; at most {MAX_BYTES[name]:,} are taken.")
        return
    found.folders.add(str(path.parent))
    found.hashes[name] = _copied(reader, name, directory, found)


def _copied(reader: TarReader, name: str, directory: int, found: Unpacked) -> str:
    """Write the current member to its file, or keep it in memory (the manifest), and return its SHA-256."""
    digest = hashlib.sha256()
    if name in WRITTEN:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o644, dir_fd=directory), "wb") as output:
            for block in reader.content():
                digest.update(block)
                output.write(block)
    else:
        kept = []
        for block in reader.content():
            digest.update(block)
            if name == MANIFEST_FILE:
                kept.append(block)
        if name == MANIFEST_FILE:
            found.manifest = b"".join(kept)
    return digest.hexdigest()
