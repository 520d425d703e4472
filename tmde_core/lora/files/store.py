"""The adapters on disk, and the pointer to the active one. Files only: no database is needed to list them.

    lora-adapters/
      <id>/            one published adapter: weights, configuration, manifest.json (see `publish`)
      .staging-<id>/   one that is being built; never listed
      active.json      which adapter answers; the only truth about that
      .readings.json   what reading all bytes has found (see `readings`)

Listing reads each manifest and the sizes of the files it names, and hashes nothing. A directory that is no sound
adapter is listed too, with the reason, and never stops the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec

from tmde_core.errors import AdapterInvalidError, NotFoundError, TmdeError
from tmde_core.lora.files.on_disk import (
    Digest,
    Known,
    UnsoundError,
    check_files,
    decoded,
    flaw_of,
    manifest_bytes,
    read_known,
    read_manifest,
    unsound,
    version_of,
)
from tmde_core.lora.files.readings import Readings
from tmde_core.records.base import from_json, to_json
from tmde_core.records.lora import ActivePointer, LoRAAdapter, Manifest
from tmde_core.sdk.adapters import MANIFEST_FILE, STAGING_PREFIX
from tmde_core.storage.durable import TEMPORARY, sha256_of, storage_errors, sync_directory, sync_file, write_whole
from tmde_core.storage.locks import FileLock, is_locked

ADAPTERS_DIR = "lora-adapters"
ACTIVE_FILE = "active.json"
EDIT_LOCK = ".manifests.lock"
DELETING_PREFIX = ".deleting-"
LINK = "It is a link, not a directory."

Reasons = list[str]
Manifests = list[Manifest]
"""The class below has a method called `list`, which would hide the type."""


class AdapterStore:
    """The adapters of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / ADAPTERS_DIR
        self._active_file = self.directory / ACTIVE_FILE
        self._seen: tuple[tuple[int, int, int], ActivePointer | None] | None = None
        self._read: dict[str, Known] = {}
        self.readings = Readings(self.directory)

    def path(self, adapter_id: UUID) -> Path:
        """Where the adapter's files are, or would be."""
        return self.directory / str(adapter_id)

    def list(self) -> list[LoRAAdapter]:
        """Every adapter, sound or not, newest first."""
        active = self.active_id()
        self.readings.refresh()
        try:
            with os.scandir(self.directory) as entries:
                links = {entry.name: entry.is_symlink() for entry in entries if _is_listed(entry)}
        except FileNotFoundError:
            return []
        directory = str(self.directory)
        found = [self._adapter(f"{directory}/{name}", name, active, linked) for name, linked in links.items()]
        there = [one for one in found if one.is_valid or os.path.lexists(one.path)]  # not deleted meanwhile
        for gone in self._read.keys() - links:
            self._read.pop(gone, None)  # another thread may be listing too
        return sorted(there, key=lambda adapter: (adapter.created_at, adapter.id.int), reverse=True)

    def get(self, adapter_id: UUID) -> LoRAAdapter:
        """One adapter, sound or not.

        Raises:
            NotFoundError: there is none with that id.
        """
        path = self.path(adapter_id)
        if os.path.lexists(path):
            self.readings.refresh()
            found = self._adapter(str(path), path.name, self.active_id(), path.is_symlink())
            if found.is_valid or os.path.lexists(path):
                return found
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
            return _sound(Path(adapter.path))
        except UnsoundError as reason:
            raise AdapterInvalidError(
                f"The adapter {adapter_id} cannot be used: {reason}", adapterId=str(adapter_id)
            ) from None

    def manifests(self) -> Manifests:
        """The manifests of all adapters, sound or not, as far as they can be read; newest first."""
        found = []
        for adapter in self.list():
            if not Path(adapter.path).is_symlink():
                with contextlib.suppress(UnsoundError):
                    content, _ = manifest_bytes(adapter.path)
                    found.append(decoded(content, Manifest))
        return found

    def _adapter(self, path: str, name: str, active: UUID | None, linked: bool) -> LoRAAdapter:
        """What is in the directory, as it is listed. Paths are texts here: pathlib doubles the time of a long list."""
        try:
            known = self._known(path, name, linked)
        except UnsoundError as reason:
            return unsound(Path(path), str(reason), active)
        adapter = known.adapter
        if adapter.id == active:
            adapter = msgspec.structs.replace(adapter, is_active=True)
        if (flaw := self.readings.flaw(name, known.version)) is not None:
            adapter = msgspec.structs.replace(adapter, is_valid=False, invalid_reason=flaw)
        return adapter

    def _known(self, path: str, name: str, linked: bool) -> Known:
        """What the list needs of a sound adapter; its manifest is read again only when it is another one."""
        if linked:
            raise UnsoundError(LINK)
        known = self._read.get(name)
        if known is None or known.version != version_of(path):
            known = self._read[name] = read_known(path, name)
        else:
            check_files(path, known.files, known.adapter.size_bytes)
        return known

    def flaws(self, adapter_id: UUID, digest: Digest = sha256_of) -> tuple[Reasons, int]:
        """Everything that reading every byte finds wrong, and how many bytes those are. The list tells it from then on.

        Args:
            digest: gives a file's SHA-256, hex.

        Raises:
            NotFoundError: no such adapter.
        """
        path = Path(self.get(adapter_id).path)
        version = version_of(str(path))
        try:
            manifest = _sound(path)
        except UnsoundError as reason:
            return [str(reason)], 0
        found = [flaw for name, told in manifest.files.items() if (flaw := flaw_of(path / name, told, digest))]
        if version is not None:
            self.readings.note(path.name, version, " ".join(found) or None)
        return found, manifest.size_bytes

    def verified(self, adapter_id: UUID) -> Manifest:
        """The manifest, after every file was read and its SHA-256 found as the manifest has it.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound; says which files and why.
        """
        manifest = self.manifest(adapter_id)
        found, _ = self.flaws(adapter_id)
        if found:
            raise AdapterInvalidError(
                f"The adapter {adapter_id} cannot be used: {' '.join(found)} Restore the files, import it again or train again.",
                adapterId=str(adapter_id),
                reasons=found,
            )
        return manifest

    def rewrite(self, manifest: Manifest) -> None:
        """Replace the manifest of a published adapter (gate, tags); its other files are left alone."""
        path = self.path(manifest.id)
        before = version_of(str(path))
        write_whole(path / MANIFEST_FILE, msgspec.json.format(to_json(manifest), indent=2) + b"\n")
        self.readings.carry_over(path.name, before, version_of(str(path)))

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

    def pointer(self) -> ActivePointer | None:
        """What `active.json` says; None where it is damaged or not there."""
        with contextlib.suppress(AdapterInvalidError):
            return self.active()
        return None

    def points_nowhere(self) -> bool:
        """Whether the pointer is damaged, or names an adapter that is gone: the base model answers, but it does not say so."""
        try:
            pointer = self.active()
        except AdapterInvalidError:
            return True
        return pointer is not None and pointer.adapter_id is not None and self.active_id() is None

    def has(self, adapter_id: UUID) -> bool:
        """Whether there is such an adapter, sound or not."""
        try:
            self.get(adapter_id)
        except NotFoundError:
            return False
        return True

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

    def take_away(self, adapter_id: UUID) -> None:
        """Delete an adapter: gone from the list in one rename, then from the disk.

        Raises:
            NotFoundError: no such adapter.
            InsufficientStorageError: the directory is read-only; it is still there.
        """
        path = Path(self.get(adapter_id).path)
        hidden = self.directory / f"{DELETING_PREFIX}{path.name}"
        with storage_errors(self.directory):
            _remove(hidden)  # left by an end in the middle of deleting an adapter of the same id
            path.rename(hidden)
            sync_directory(self.directory)
            _remove(hidden)

    def edit(self, adapter_id: UUID, change: Callable[[Manifest], Manifest]) -> Manifest:
        """Change a manifest; of several who do so at once, in whatever process, each builds on the one before.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound.
            InsufficientStorageError: the disk is full or read-only; nothing has changed.
        """
        with storage_errors(self.directory), FileLock.acquire(self.directory / EDIT_LOCK):
            before = self.manifest(adapter_id)
            after = change(before)
            if after != before:
                self.rewrite(after)
            return after

    def add_file(self, adapter_id: UUID, file: Path) -> Manifest:
        """Move a finished file, of this filesystem, into a published adapter that has none of that name.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: it is not sound.
            InsufficientStorageError: the disk is full or read-only; nothing has changed.
        """

        def change(manifest: Manifest) -> Manifest:
            if file.name in manifest.files:
                return manifest  # somebody was quicker
            sync_file(file)
            digest, size = sha256_of(file), file.stat().st_size
            # Until the manifest names it, it is a file that means nothing, and the next one takes its place.
            file.replace(self.path(adapter_id) / file.name)
            sync_directory(self.path(adapter_id))
            files = dict(sorted({**manifest.files, file.name: digest}.items()))
            return msgspec.structs.replace(manifest, files=files, size_bytes=manifest.size_bytes + size)

        return self.edit(adapter_id, change)

    def sweep(self) -> None:
        """Remove what a crash left half built or half deleted. Only while nobody switches; what is held is left alone."""
        self.sweep_unfinished_files()
        for path in self.directory.glob(f"{DELETING_PREFIX}*"):
            _remove(path)
        for path in self.directory.glob(f"{STAGING_PREFIX}*"):
            leash = self.directory.parent / "runs" / path.name.removeprefix(STAGING_PREFIX) / "leash"
            if not is_locked(path) and not is_locked(leash):  # an import that builds it, a training run
                _remove(path)

    def sweep_unfinished_files(self) -> None:
        """Delete half-written pointers and manifests that a crash left. Only while nobody switches."""
        for path in self.directory.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        lock = FileLock.try_acquire(self.directory / EDIT_LOCK)
        if lock is None:
            return  # somebody writes a manifest; the next start looks again
        with lock:
            for path in self.directory.glob(f"*/.*{TEMPORARY}"):
                path.unlink(missing_ok=True)


def _is_listed(entry: os.DirEntry[str]) -> bool:
    """What is not hidden and no file; a link is, wherever it leads."""
    return not entry.name.startswith(".") and (entry.is_dir() or entry.is_symlink())


def _sound(path: Path) -> Manifest:
    """All that the manifest of a sound adapter says."""
    if path.is_symlink():
        raise UnsoundError(LINK)
    return read_manifest(str(path), path.name)


def _remove(path: Path) -> None:
    """Delete a directory; a link is removed, never followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
