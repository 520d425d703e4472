"""The adapters on disk, and the pointer to the active one. Files only: no database is needed to list them.

    lora-adapters/
      <id>/            one published adapter: weights, configuration, manifest.json (see `publish`)
      .staging-<id>/   one that is being built; never listed
      active.json      which adapter answers; the only truth about that

Listing reads each manifest and the sizes of the files it names, and hashes nothing. A directory that is no sound
adapter is listed too, with the reason, and never stops the others.
"""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from tmde_core.errors import AdapterInvalidError, NotFoundError, TmdeError
from tmde_core.lora.publish import CONFIG_FILE, MANIFEST_FILE, REQUIRED_FILES, WEIGHTS_FILE
from tmde_core.lora.records import MANIFEST_VERSION, ActivePointer, LoRAAdapter, Manifest
from tmde_core.record import from_json, to_json
from tmde_core.storage.durable import TEMPORARY, sha256_of, write_whole

ADAPTERS_DIR = "lora-adapters"
ACTIVE_FILE = "active.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""Trace ids of a hundred thousand traces fit; a larger file is no manifest of ours."""


class _UnsoundError(Exception):
    """Why a directory is no sound adapter."""


class _Format(msgspec.Struct):
    """The one field of a manifest that every format has."""

    format: int = MANIFEST_VERSION


class AdapterStore:
    """The adapters of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / ADAPTERS_DIR
        self._active_file = self.directory / ACTIVE_FILE
        self._seen: tuple[tuple[int, int, int], ActivePointer | None] | None = None

    def path(self, adapter_id: UUID) -> Path:
        """Where the adapter's files are, or would be."""
        return self.directory / str(adapter_id)

    def list(self) -> list[LoRAAdapter]:
        """Every adapter, sound or not, newest first."""
        active = self.active_id()
        try:
            entries = [entry for entry in os.scandir(self.directory) if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        found = [_adapter(Path(entry.path), active) for entry in entries if entry.is_dir() or entry.is_symlink()]
        return sorted(found, key=lambda adapter: (adapter.created_at, str(adapter.id)), reverse=True)

    def get(self, adapter_id: UUID) -> LoRAAdapter:
        """One adapter, sound or not.

        Raises:
            NotFoundError: there is none with that id.
        """
        path = self.path(adapter_id)
        if os.path.lexists(path):
            return _adapter(path, self.active_id())
        for adapter in self.list():
            if adapter.id == adapter_id:
                return adapter
        raise NotFoundError(f"There is no adapter with the id {adapter_id}.")

    def manifest(self, adapter_id: UUID) -> Manifest:
        """The manifest of a sound adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound; says why.
        """
        adapter = self.get(adapter_id)
        try:
            return _read(Path(adapter.path))
        except _UnsoundError as reason:
            raise AdapterInvalidError(
                f"The adapter {adapter_id} cannot be used: {reason}", adapterId=str(adapter_id)
            ) from None

    def verified(self, adapter_id: UUID) -> Manifest:
        """The manifest, after every file was read and its SHA-256 found as the manifest has it.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound; says which file and why.
        """
        manifest = self.manifest(adapter_id)
        for name, expected in manifest.files.items():
            try:
                actual = sha256_of(self.path(adapter_id) / name)
            except OSError as error:
                raise AdapterInvalidError(
                    f"The adapter {adapter_id} cannot be used: {name} cannot be read ({error.strerror}).",
                    adapterId=str(adapter_id),
                ) from None
            if actual != expected:
                raise AdapterInvalidError(
                    f"The adapter {adapter_id} cannot be used: {name} has changed since it was published "
                    f"(SHA-256 {actual[:12]}…, expected {expected[:12]}…). Restore the file or train again.",
                    adapterId=str(adapter_id),
                    file=name,
                )
        return manifest

    def rewrite(self, manifest: Manifest) -> None:
        """Replace the manifest of a published adapter (gate, tags); its other files are left alone."""
        write_whole(self.path(manifest.id) / MANIFEST_FILE, msgspec.json.format(to_json(manifest), indent=2) + b"\n")

    def active(self) -> ActivePointer | None:
        """The pointer; None when no adapter was ever activated. Cheap: reads only when the file has changed.

        Raises:
            AdapterInvalidError: `active.json` is damaged.
        """
        try:
            found = self._active_file.stat()
        except FileNotFoundError:
            self._seen = None
            return None
        # The pointer is always replaced, so a new one is a new inode even within the clock's resolution.
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._seen is None or self._seen[0] != version:
            try:
                pointer = from_json(self._active_file.read_bytes(), ActivePointer)
            except TmdeError as error:
                raise AdapterInvalidError(
                    f"{self._active_file} is damaged: {error.detail} Activate an adapter, or deactivate, to write it anew."
                ) from None
            self._seen = (version, pointer)
        return self._seen[1]

    def active_id(self) -> UUID | None:
        """The adapter that answers; None when the base model does, or the pointer is damaged or points nowhere."""
        try:
            pointer = self.active()
        except AdapterInvalidError:
            return None
        if pointer is None or pointer.adapter_id is None or not self.path(pointer.adapter_id).is_dir():
            return None
        return pointer.adapter_id

    def point_at(self, pointer: ActivePointer) -> None:
        """Switch, in one rename.

        Raises:
            InsufficientStorageError: the disk is full or read-only; the old pointer stands.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        write_whole(self._active_file, to_json(pointer) + b"\n")

    def sweep_unfinished_files(self) -> None:
        """Delete half-written pointers and manifests that a crash left. Only while nobody switches."""
        for pattern in (f".*{TEMPORARY}", f"*/.*{TEMPORARY}"):
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)


def _adapter(path: Path, active: UUID | None) -> LoRAAdapter:
    """What is in the directory, as it is listed."""
    try:
        manifest = _read(path)
    except _UnsoundError as reason:
        return _unsound(path, str(reason), active)
    return LoRAAdapter(
        id=manifest.id,
        created_at=manifest.created_at,
        base_model=manifest.base_model,
        is_active=manifest.id == active,
        tags=manifest.tags,
        metrics=manifest.metrics,
        traces_used=manifest.traces_used,
        size_bytes=manifest.size_bytes,
        sha256=manifest.files[WEIGHTS_FILE],
        path=str(path),
        is_valid=True,
        invalid_reason=None,
        gate=manifest.gate,
    )


def _unsound(path: Path, reason: str, active: UUID | None) -> LoRAAdapter:
    identity = _identity(path) or uuid5(NAMESPACE_URL, f"foreign:{path.name}")
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
        size_bytes=0,
        sha256="",
        path=str(path),
        is_valid=False,
        invalid_reason=reason,
        gate="candidate",
    )


def _read(path: Path) -> Manifest:
    """The manifest of a directory, if that is a sound adapter as far as can be told without hashing."""
    if path.is_symlink():
        raise _UnsoundError("It is a link, not a directory.")
    identity = _identity(path)
    content = _manifest_bytes(path)
    manifest = _decode(content)
    if identity is None or manifest.id != identity:
        raise _UnsoundError(f"It is foreign: the directory is called {path.name!r}, its manifest says {manifest.id}.")
    missing = [name for name in REQUIRED_FILES if name not in manifest.files]
    if missing:
        raise _UnsoundError(f"Its manifest does not name {', '.join(missing)}.")
    _check_files(path, manifest)
    return manifest


def _manifest_bytes(path: Path) -> bytes:
    try:
        with (path / MANIFEST_FILE).open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        half = (path / WEIGHTS_FILE).exists() or (path / CONFIG_FILE).exists()
        raise _UnsoundError(
            f"It has no {MANIFEST_FILE}: {'it was not made by TMDE; import it' if half else 'it is foreign or half copied'}."
        ) from None
    except OSError as error:
        raise _UnsoundError(f"Its {MANIFEST_FILE} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_MANIFEST_BYTES:
        raise _UnsoundError(f"Its {MANIFEST_FILE} is larger than {MAX_MANIFEST_BYTES // 1024**2} MB.")
    return content


def _decode(content: bytes) -> Manifest:
    try:
        manifest = from_json(content, Manifest)
    except TmdeError as error:
        _refuse_newer(_format_of(content))
        raise _UnsoundError(f"Its {MANIFEST_FILE} is damaged: {error.detail}") from None
    _refuse_newer(manifest.format)
    return manifest


def _format_of(content: bytes) -> int:
    """The format of a manifest that cannot be read as ours: perhaps because it is newer."""
    try:
        return msgspec.json.decode(content, type=_Format).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return MANIFEST_VERSION


def _refuse_newer(version: int) -> None:
    if version > MANIFEST_VERSION:
        raise _UnsoundError(
            f"It was written by a newer version of TMDE (format {version}, this one knows {MANIFEST_VERSION}). Update TMDE."
        )


def _check_files(path: Path, manifest: Manifest) -> None:
    size = 0
    for name in manifest.files:
        if "/" in name or name.startswith("."):
            raise _UnsoundError(f"Its manifest names the file {name!r}, which is no plain file name.")
        try:
            found = os.lstat(os.path.join(path, name))  # noqa: PTH118 - pathlib doubles the time of a long list
        except OSError:
            raise _UnsoundError(f"Its file {name} is missing.") from None
        if not stat.S_ISREG(found.st_mode):
            raise _UnsoundError(f"Its file {name} is not a plain file.")
        size += found.st_size
    if size != manifest.size_bytes:
        raise _UnsoundError(f"Its files have {size:,} bytes in all where the manifest says {manifest.size_bytes:,}.")


def _identity(path: Path) -> UUID | None:
    try:
        identity = UUID(path.name)
    except ValueError:
        return None
    return identity if str(identity) == path.name else None
