"""Writes an adapter as a .tar.gz, piece by piece in constant memory. The same adapter always gives the same bytes."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO

from tmde_core.errors import AdapterInvalidError, TooLargeError
from tmde_core.lora.archive.layout import (
    EXPORTED,
    MAX_ARCHIVE_BYTES,
    MAX_BYTES,
    MAX_EXPORT_BYTES,
    NOTES_FILE,
    PICKLE_FILE,
    folder_name,
)
from tmde_core.lora.archive.notes import render_notes
from tmde_core.lora.archive.torch_file import TorchFile
from tmde_core.records.lora import Manifest
from tmde_core.sdk.adapters import MANIFEST_FILE, WEIGHTS_FILE

PIECE = 1024 * 1024
LEVEL = 0
"""gzip level 0: stored. Levels 1 and 6 shrink normally distributed float32 to 93 % and take 15 times as long."""


def pack_archive(directory: Path, manifest: Manifest, pickle: TorchFile | None = None) -> Iterator[bytes]:
    """Yield the archive of a published adapter whose hashes have been verified.

    Every file is hashed again while it is read. If a file has changed since the verification, the stream ends with an
    error, so that an archive never mixes old and new files.

    Args:
        directory: the adapter's directory.
        manifest: the adapter's manifest.
        pickle: adapter_model.bin, if the archive should hold it.

    Raises:
        AdapterInvalidError: a file has changed since it was verified.
        OSError: a file cannot be read.
    """
    gzip = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)  # a gzip stream without name and time
    for block in _tar(directory, manifest, pickle):
        if piece := gzip.compress(block):
            yield piece
    yield gzip.flush()


def require_importable(directory: Path, manifest: Manifest) -> None:
    """Check that an import would accept the archive of an adapter.

    Raises:
        TooLargeError: a file or the whole archive would be larger than an import allows.
    """
    sizes = {name: (directory / name).stat().st_size for name in _names(manifest)}
    whole = sum(size + 2 * tarfile.BLOCKSIZE for size in sizes.values()) + MAX_BYTES[NOTES_FILE]
    if whole <= MAX_EXPORT_BYTES and all(size <= MAX_BYTES[name] for name, size in sizes.items()):
        return
    raise TooLargeError(
        f"The adapter {manifest.id} has {sum(sizes.values()):,} bytes. An import takes {MAX_ARCHIVE_BYTES // 1024**3} GiB at most, and "
        f"{MAX_BYTES[WEIGHTS_FILE] // 1024**3} GiB of weights, so its archive could not be brought in again: export it in the format gguf, "
        "or copy its directory.",
        limit=MAX_EXPORT_BYTES,
    )


def _names(manifest: Manifest) -> list[str]:
    return [name for name in EXPORTED if name == MANIFEST_FILE or name in manifest.files]


def stream_verified(path: Path, expected: str) -> Iterator[bytes]:
    """Yield a file in pieces, and check its SHA-256.

    Raises:
        AdapterInvalidError: the SHA-256 is not `expected`. The error is raised after the last piece.
    """
    with path.open("rb") as file:
        yield from _checked(file, path.name, path.stat().st_size, expected)


def _tar(directory: Path, manifest: Manifest, pickle: TorchFile | None) -> Iterator[bytes]:
    folder, day = folder_name(manifest.id), manifest.created_at
    text = render_notes(manifest, pickle=pickle is not None).encode()
    with ExitStack() as opened:
        # Open all files first, so that the archive is complete even if the adapter is deleted meanwhile.
        files = {name: opened.enter_context((directory / name).open("rb")) for name in _names(manifest)}
        yield _header(folder, 0, day, tarfile.DIRTYPE)
        yield from _member(f"{folder}/{NOTES_FILE}", len(text), day, iter((text,)))
        for name, file in files.items():
            size = file.seek(0, 2)
            file.seek(0)
            yield from _member(f"{folder}/{name}", size, day, _checked(file, name, size, manifest.files.get(name)))
        if pickle is not None:
            yield from _member(f"{folder}/{PICKLE_FILE}", pickle.size, day, pickle.chunks())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(name: str, size: int, moment: datetime, content: Iterator[bytes]) -> Iterator[bytes]:
    yield _header(name, size, moment, tarfile.REGTYPE)
    written = 0
    for block in content:
        written += len(block)
        yield block
    if written != size:
        raise _changed(name)
    yield bytes(-size % tarfile.BLOCKSIZE)


def _header(name: str, size: int, moment: datetime, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, max(0, int(moment.timestamp()))
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def _checked(file: IO[bytes], name: str, size: int, expected: str | None) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), size
    while left and (block := file.read(min(PIECE, left))):
        left -= len(block)
        digest.update(block)
        yield block
    if left or (expected is not None and digest.hexdigest() != expected):
        raise _changed(name)


def _changed(name: str) -> AdapterInvalidError:
    return AdapterInvalidError(f"{name} has changed while it was exported. Verify the adapter.")
