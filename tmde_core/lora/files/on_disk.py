"""Reads one adapter directory without hashing: returns the manifest, or raises the reason why the adapter is invalid.

Paths are strings here, because pathlib doubles the time to list many adapters.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.base import from_json
from tmde_core.records.lora import MANIFEST_VERSION, LoRAAdapter, Manifest, ManifestHeader
from tmde_core.sdk.adapters import MANIFEST_FILE, REQUIRED_FILES, WEIGHTS_FILE

MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""Enough for the ids of 100,000 traces. A larger file was not written by TMDE."""

Digest = Callable[[Path], str]

T = TypeVar("T", bound="Manifest | ManifestSummary")


class InvalidFilesError(Exception):
    """A directory is not a valid adapter; the message gives the reason."""


class _Format(msgspec.Struct):
    """The only field that manifests of every format version have."""

    format: int = MANIFEST_VERSION


class ManifestSummary(ManifestHeader, frozen=True):
    """A manifest as the list reads it: the lineage is not decoded, because it can hold hundreds of trace ids."""

    lineage: msgspec.Raw = msgspec.Raw(b"{}")
    format: int = MANIFEST_VERSION


Version = tuple[int, int, int]
"""Inode, modification time and size of a manifest. They identify its content: a manifest is never written in place."""


class ListedAdapter(NamedTuple):
    """Caches what was read of a valid adapter. The cache is valid while the manifest has the same version."""

    version: Version
    adapter: LoRAAdapter
    """The adapter's list entry, with `is_active` False."""
    files: tuple[str, ...]
    content: str
    """The hashes of weights and configuration. Adapters with the same content are twins."""


def read_version(path: str) -> Version | None:
    """Return the version of a directory's manifest, or None if there is no manifest."""
    try:
        found = os.stat(f"{path}/{MANIFEST_FILE}")  # noqa: PTH116 - see above
    except OSError:
        return None
    return _version(found)


def _version(found: os.stat_result) -> Version:
    return found.st_ino, found.st_mtime_ns, found.st_size


def find_flaw(file: Path, told: str, digest: Digest) -> str | None:
    """Return what is wrong with a file's content, as a sentence, or None if the content is unchanged.

    Args:
        file: the file.
        told: the SHA-256 in the manifest, hex.
        digest: returns the SHA-256 of a file, hex.
    """
    try:
        actual = digest(file)
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})."
    if actual == told:
        return None
    return f"{file.name} has changed since it was published (SHA-256 {actual[:12]}…, expected {told[:12]}…)."


def _listed(heading: ManifestHeader, path: str) -> LoRAAdapter:
    """Return the list entry of a valid adapter, with `is_active` False."""
    return LoRAAdapter(
        id=heading.id,
        created_at=heading.created_at,
        base_model=heading.base_model,
        is_active=False,
        tags=heading.tags,
        metrics=heading.metrics,
        traces_used=heading.traces_used,
        size_bytes=heading.size_bytes,
        sha256=heading.files[WEIGHTS_FILE],
        path=path,
        is_valid=True,
        invalid_reason=None,
        gate=heading.gate,
        name=heading.name,
    )


def _size_of(path: Path) -> int:
    """Return the size of all files in a directory, in bytes. The size of a symbolic link is 0."""
    found = 0
    for folder, _, files in os.walk(path) if not path.is_symlink() else ():
        for name in files:
            with contextlib.suppress(OSError):
                found += os.lstat(f"{folder}/{name}").st_size
    return found


def describe_invalid(path: Path, reason: str, active: UUID | None) -> LoRAAdapter:
    """Return the list entry of an invalid adapter; if the directory's name is not an id, derive the id from the name.

    What an intact manifest says is kept, such as metrics and tags.

    Args:
        path: the directory.
        reason: why the adapter is invalid.
        active: the id in the pointer.
    """
    identity = _identity(path.name) or uuid5(NAMESPACE_URL, f"foreign:{path.name}")
    if (told := _told_of_invalid(path)) is not None:
        return msgspec.structs.replace(
            told, is_active=identity == active, is_valid=False, invalid_reason=reason, size_bytes=_size_of(path)
        )
    try:
        created = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except OSError:
        created = datetime.fromtimestamp(0, UTC)
    return LoRAAdapter(
        id=identity,
        created_at=created.replace(microsecond=0),
        base_model="",
        is_active=identity == active,
        tags=(),
        metrics={},
        traces_used=0,
        size_bytes=_size_of(path),
        sha256="",
        path=str(path),
        is_valid=False,
        invalid_reason=reason,
        gate="candidate",
    )


def _told_of_invalid(path: Path) -> LoRAAdapter | None:
    """Return what the manifest of an invalid adapter says; None if the manifest itself cannot be used."""
    if path.is_symlink():
        return None
    try:
        content, _ = read_manifest_bytes(str(path))
        brief = decode_manifest(content, ManifestSummary)
        _must_hold(brief, path.name)
    except InvalidFilesError:
        return None
    return _listed(brief, str(path))


def read_manifest(path: str, name: str) -> Manifest:
    """Return the manifest of the directory called `name`, after all checks that need no hashing.

    Raises:
        UnsoundError: the adapter is invalid; the message gives the reason.
    """
    content, _ = read_manifest_bytes(path)
    manifest = decode_manifest(content, Manifest)
    _must_hold(manifest, name)
    check_files(path, manifest.files, manifest.size_bytes)
    return manifest


def read_known(path: str, name: str) -> ListedAdapter:
    """Check a directory as `read_manifest` does, and return only what the list needs.

    Raises:
        UnsoundError: the adapter is invalid; the message gives the reason.
    """
    content, version = read_manifest_bytes(path)
    brief = decode_manifest(content, ManifestSummary)
    if bytes(brief.lineage)[:1] != b"{":
        decode_manifest(content, Manifest)  # raises an error that names the field
    _must_hold(brief, name)
    check_files(path, brief.files, brief.size_bytes)
    hashes = " ".join(brief.files[name] for name in REQUIRED_FILES)
    return ListedAdapter(version, _listed(brief, path), tuple(brief.files), hashes)


def _must_hold(heading: ManifestHeader, name: str) -> None:
    if str(heading.id) != name:
        raise InvalidFilesError(f"It is foreign: the directory is called {name!r}, its manifest says {heading.id}.")
    if heading.created_at.tzinfo is None:
        raise InvalidFilesError(f"Its {MANIFEST_FILE} says when it was made without a time zone.")
    missing = [file for file in REQUIRED_FILES if file not in heading.files]
    if missing:
        raise InvalidFilesError(f"Its manifest does not name {', '.join(missing)}.")
    if odd := [file for file in heading.files if "/" in file or file.startswith(".")]:
        raise InvalidFilesError(f"Its manifest names the file {odd[0]!r}, which is no plain file name.")


def read_manifest_bytes(path: str) -> tuple[bytes, Version]:
    """Return the content of a directory's manifest and its version.

    Raises:
        UnsoundError: the manifest is missing or unreadable.
    """
    try:
        # A Python file object would double the time. O_NONBLOCK: opening a pipe of that name must not block.
        descriptor = os.open(f"{path}/{MANIFEST_FILE}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            # Ask for the file's size only: os.read allocates a buffer of the requested size first.
            content = os.read(descriptor, min(found.st_size, MAX_MANIFEST_BYTES) + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        half = any(Path(path, name).exists() for name in REQUIRED_FILES)
        raise InvalidFilesError(
            f"It has no {MANIFEST_FILE}: {'it was not made by TMDE; import it' if half else 'it is foreign or half copied'}."
        ) from None
    except OSError as error:
        raise InvalidFilesError(f"Its {MANIFEST_FILE} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_MANIFEST_BYTES:
        raise InvalidFilesError(f"Its {MANIFEST_FILE} is larger than {MAX_MANIFEST_BYTES // 1024**2} MB.")
    return content, _version(found)


def decode_manifest(content: bytes, as_type: type[T]) -> T:
    """Decode a manifest.

    Raises:
        UnsoundError: the manifest is damaged, or its format is newer than this version of TMDE.
    """
    try:
        manifest = from_json(content, as_type)
    except TmdeError as error:
        _refuse_newer(_format_of(content))
        raise InvalidFilesError(f"Its {MANIFEST_FILE} is damaged: {error.detail}") from None
    _refuse_newer(manifest.format)
    return manifest


def _format_of(content: bytes) -> int:
    """Return the format version of a manifest that cannot be decoded; a newer format may be the cause."""
    try:
        return msgspec.json.decode(content, type=_Format).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return MANIFEST_VERSION


def _refuse_newer(version: int) -> None:
    if version > MANIFEST_VERSION:
        raise InvalidFilesError(
            f"It was written by a newer version of TMDE (format {version}, this one knows {MANIFEST_VERSION}). Update TMDE."
        )


def check_files(path: str, files: Iterable[str], size_bytes: int) -> None:
    """Check that the files of a manifest exist, are plain files, and have `size_bytes` in total.

    Raises:
        UnsoundError: a file is missing or not a plain file, or the total size differs.
    """
    size, lstat, is_plain = 0, os.lstat, stat.S_ISREG
    for name in files:
        try:
            found = lstat(f"{path}/{name}")
        except (OSError, ValueError):
            raise InvalidFilesError(f"Its file {name} is missing.") from None
        if not is_plain(found.st_mode):
            raise InvalidFilesError(f"Its file {name} is not a plain file.")
        size += found.st_size
    if size != size_bytes:
        raise InvalidFilesError(f"Its files have {size:,} bytes in all where the manifest says {size_bytes:,}.")


def _identity(name: str) -> UUID | None:
    try:
        identity = UUID(name)
    except ValueError:
        return None
    return identity if str(identity) == name else None
