"""Stores the adapters and the pointer to the active adapter as files; listing them needs no database.

    lora-adapters/
      <id>/            one published adapter: weights, configuration, manifest.json (see `publish`)
      .staging-<id>/   an adapter that is being built; never listed
      active.json      the id of the active adapter; no other place decides this
      .readings.json   results of reading all files (see `readings`)

Listing reads each manifest and the sizes of its files; it hashes nothing. An invalid adapter is listed too, with the
reason, and does not affect the other adapters.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec

from tmde_core.errors import AdapterInvalidError, NotFoundError, TmdeError
from tmde_core.lora.files.on_disk import (
    Digest,
    InvalidFilesError,
    ListedAdapter,
    ManifestSummary,
    check_files,
    decode_manifest,
    describe_invalid,
    find_flaw,
    read_known,
    read_manifest,
    read_manifest_bytes,
    read_version,
)
from tmde_core.lora.files.readings import VerificationLog
from tmde_core.records.base import from_json, to_json
from tmde_core.records.lora import ActivePointer, LoRAAdapter, Manifest, ManifestHeader
from tmde_core.sdk.adapters import MANIFEST_FILE, REQUIRED_FILES, STAGING_PREFIX, WEIGHTS_FILE
from tmde_core.sdk.plain_lora import find_kind_flaws
from tmde_core.storage.durable import TEMPORARY, hash_file, storage_errors, sync_directory, sync_file, write_atomic
from tmde_core.storage.locks import FileLock, is_locked

ADAPTERS_DIR = "lora-adapters"
ACTIVE_FILE = "active.json"
EDIT_LOCK = ".manifests.lock"
DELETING_PREFIX = ".deleting-"
LINK = "It is a link, not a directory."

Header = TypeVar("Header", bound=ManifestHeader)
Reasons = list[str]
Adapters = list[LoRAAdapter]
Manifests = list[Manifest]
"""Aliases, because the method `list` of the class below hides the type `list`."""


class AdapterStore:
    """Stores the adapters of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / ADAPTERS_DIR
        self._active_file = self.directory / ACTIVE_FILE
        self._seen: tuple[tuple[int, int, int], ActivePointer | None] | None = None
        self._read: dict[str, ListedAdapter] = {}
        self.readings = VerificationLog(self.directory)

    def path(self, adapter_id: UUID) -> Path:
        """Return the adapter's directory, whether or not the adapter exists."""
        return self.directory / str(adapter_id)

    def list(self) -> list[LoRAAdapter]:
        """Return all adapters, valid or not, newest first."""
        active = self.active_id()
        self.readings.refresh()
        try:
            with os.scandir(self.directory) as entries:
                links = {entry.name: entry.is_symlink() for entry in entries if _is_listed(entry)}
        except FileNotFoundError:
            return []
        directory = str(self.directory)
        found = [self._adapter(f"{directory}/{name}", name, active, linked) for name, linked in links.items()]
        there = [one for one in found if one.is_valid or os.path.lexists(one.path)]  # skip those just deleted
        for gone in self._read.keys() - links:
            self._read.pop(gone, None)  # with a default, because another thread may have removed the entry
        found = sorted(there, key=lambda adapter: (adapter.created_at, adapter.id.int), reverse=True)
        return self._with_twins(found)

    def _with_twins(self, found: Adapters) -> Adapters:
        """Return the adapters, with `twin_of` of those whose weights and configuration another one had before."""
        alike: dict[str, Adapters] = {}
        for adapter in found:
            known = self._read.get(Path(adapter.path).name) if adapter.sha256 else None
            if known is not None:
                alike.setdefault(known.content, []).append(adapter)
        first: dict[UUID, UUID] = {}
        for twins in alike.values():
            if len(twins) > 1:
                first |= dict.fromkeys((one.id for one in twins), _oldest(twins).id)
        return [
            msgspec.structs.replace(one, twin_of=first[one.id]) if first.get(one.id, one.id) != one.id else one
            for one in found
        ]

    def find_twin(self, directory: Path) -> LoRAAdapter | None:
        """Return the oldest valid adapter with the same weights and configuration as the files in a directory."""
        content = " ".join(hash_file(directory / name) for name in REQUIRED_FILES)
        twins = [one for one in self.list() if one.is_valid and self._content(one) == content]
        return _oldest(twins) if twins else None

    def _content(self, adapter: LoRAAdapter) -> str:
        known = self._read.get(Path(adapter.path).name)
        return known.content if known is not None else ""

    def get(self, adapter_id: UUID) -> LoRAAdapter:
        """Return one adapter, valid or not.

        Raises:
            NotFoundError: no adapter has this id.
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

    def read_manifest(self, adapter_id: UUID) -> Manifest:
        """Return the manifest of a valid adapter.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid; the message gives the reason.
        """
        adapter = self.get(adapter_id)
        try:
            return _sound(Path(adapter.path))
        except InvalidFilesError as reason:
            raise AdapterInvalidError(
                f"The adapter {adapter_id} cannot be used: {reason}", adapterId=str(adapter_id)
            ) from None

    def read_manifests(self) -> Manifests:
        """Return all readable manifests, of valid and invalid adapters, newest first."""
        found = []
        for adapter in self.list():
            if not Path(adapter.path).is_symlink():
                with contextlib.suppress(InvalidFilesError):
                    content, _ = read_manifest_bytes(adapter.path)
                    found.append(decode_manifest(content, Manifest))
        return found

    def _adapter(self, path: str, name: str, active: UUID | None, linked: bool) -> LoRAAdapter:
        """Return the list entry of a directory. Paths are strings here: pathlib doubles the time of a long list."""
        try:
            known = self._known(path, name, linked)
        except InvalidFilesError as reason:
            return describe_invalid(Path(path), str(reason), active)
        adapter = known.adapter
        if adapter.id == active:
            adapter = msgspec.structs.replace(adapter, is_active=True, is_answering=True)
        if (flaw := self.readings.get_flaw(name, known.version)) is not None:
            adapter = msgspec.structs.replace(adapter, is_valid=False, is_answering=False, invalid_reason=flaw)
        return adapter

    def _known(self, path: str, name: str, linked: bool) -> ListedAdapter:
        """Return what the list needs of a valid adapter; read the manifest again only if its version has changed."""
        if linked:
            raise InvalidFilesError(LINK)
        known = self._read.get(name)
        if known is None or known.version != read_version(path):
            known = self._read[name] = read_known(path, name)
        else:
            check_files(path, known.files, known.adapter.size_bytes)
        return known

    def find_flaws(self, adapter_id: UUID, digest: Digest = hash_file) -> tuple[Reasons, int]:
        """Read every byte of an adapter, and return all flaws and the number of bytes. An adapter must be plain LoRA.

        The list shows an adapter with flaws as invalid from now on.

        Args:
            adapter_id: the adapter.
            digest: returns a file's SHA-256, hex.

        Raises:
            NotFoundError: no such adapter.
        """
        path = Path(self.get(adapter_id).path)
        version = read_version(str(path))
        try:
            manifest = _sound(path)
        except InvalidFilesError as reason:
            return [str(reason)], 0
        found = [flaw for name, told in manifest.files.items() if (flaw := find_flaw(path / name, told, digest))]
        if not found:
            # An older version of TMDE may have taken in an adapter that is no plain LoRA.
            with contextlib.suppress(OSError):
                found = find_kind_flaws(path)
        if version is not None:
            self.readings.note(path.name, version, " ".join(found) or None)
        return found, manifest.size_bytes

    def verify_files(self, adapter_id: UUID) -> Manifest:
        """Read every file, compare its SHA-256 with the manifest, and return the manifest.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid; the message names the files and the reasons.
        """
        manifest = self.read_manifest(adapter_id)
        found, _ = self.find_flaws(adapter_id)
        if found:
            raise AdapterInvalidError(
                f"The adapter {adapter_id} cannot be used: {' '.join(found)} Restore the files, import it again or train again.",
                adapterId=str(adapter_id),
                reasons=found,
            )
        return manifest

    def rewrite(self, manifest: Manifest) -> None:
        """Replace the manifest of a published adapter, for example to change its gate or tags."""
        path = self.path(manifest.id)
        before = read_version(str(path))
        manifest = self._with_copies(manifest)
        write_atomic(path / MANIFEST_FILE, msgspec.json.format(to_json(manifest), indent=2) + b"\n")
        self.readings.carry_over(path.name, before, read_version(str(path)))

    def refresh_copies(self, *, wait: bool = True) -> None:
        """Rewrite the manifests whose copies for other tools are outdated: who is active, and the size.

        A damaged adapter's manifest is rewritten too, if it can be read. An unreadable one is left as it is.

        Args:
            wait: whether to wait for a process that changes a manifest now; False leaves all as it is instead.

        Raises:
            InsufficientStorageError: the disk is full or read-only.
        """
        if not self.directory.is_dir():
            return
        take = FileLock.acquire if wait else FileLock.try_acquire
        with storage_errors(self.directory), take(self.directory / EDIT_LOCK) or contextlib.nullcontext() as lock:
            if lock is None:
                return
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries if _is_listed(entry) and not entry.is_symlink()]
            for name in names:
                with contextlib.suppress(InvalidFilesError):
                    content, _ = read_manifest_bytes(f"{self.directory}/{name}")
                    brief = decode_manifest(content, ManifestSummary)
                    if str(brief.id) == name and self._with_copies(brief) != brief:
                        self.rewrite(decode_manifest(content, Manifest))

    def _with_copies(self, manifest: Header) -> Header:
        """Return a manifest with the present copies for other tools."""
        active = manifest.id == self.active_id()
        return msgspec.structs.replace(manifest, copied_size=manifest.size_bytes, copied_active=active)

    def active(self) -> ActivePointer | None:
        """Return the pointer, or None if no adapter was ever activated.

        The call is cheap: the file is read only if it has changed.

        Raises:
            AdapterInvalidError: `active.json` is damaged.
        """
        try:
            found = self._active_file.stat()
        except FileNotFoundError:
            self._seen = None
            return None
        # The pointer file is always replaced, so the inode changes even if the modification time does not.
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

    def read_pointer(self) -> ActivePointer | None:
        """Return the pointer, or None if `active.json` is damaged or missing."""
        with contextlib.suppress(AdapterInvalidError):
            return self.active()
        return None

    def is_pointer_broken(self) -> bool:
        """Check whether the pointer is damaged or names a deleted adapter. The base model answers in both cases."""
        try:
            pointer = self.active()
        except AdapterInvalidError:
            return True
        return pointer is not None and pointer.adapter_id is not None and self.active_id() is None

    def has(self, adapter_id: UUID) -> bool:
        """Return whether the adapter exists, valid or not."""
        try:
            self.get(adapter_id)
        except NotFoundError:
            return False
        return True

    def active_id(self) -> UUID | None:
        """Return the id of the active adapter, or None if the base model answers; see `is_pointer_broken`."""
        try:
            pointer = self.active()
        except AdapterInvalidError:
            return None
        if pointer is None or pointer.adapter_id is None or not self.path(pointer.adapter_id).is_dir():
            return None
        return pointer.adapter_id

    def point_at(self, pointer: ActivePointer) -> None:
        """Replace the pointer, in one rename.

        Raises:
            InsufficientStorageError: the disk is full or read-only. The old pointer is unchanged.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(self._active_file, to_json(pointer) + b"\n")

    def take_away(self, adapter_id: UUID) -> None:
        """Delete an adapter: one rename removes it from the list, then its files are deleted.

        Raises:
            NotFoundError: no such adapter.
            InsufficientStorageError: the directory is read-only. The adapter still exists.
        """
        path = Path(self.get(adapter_id).path)
        hidden = self.directory / f"{DELETING_PREFIX}{path.name}"
        with storage_errors(self.directory):
            _remove(hidden)  # left over if TMDE ended while it deleted an adapter with the same id
            path.rename(hidden)
            sync_directory(self.directory)
            _remove(hidden)

    def edit(self, adapter_id: UUID, change: Callable[[Manifest], Manifest]) -> Manifest:
        """Change a manifest. A lock across processes makes concurrent changes run one after the other.

        Args:
            adapter_id: the adapter.
            change: returns the new manifest for the current one.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid.
            InsufficientStorageError: the disk is full or read-only. Nothing has changed.
        """
        with storage_errors(self.directory), FileLock.acquire(self.directory / EDIT_LOCK):
            before = self.read_manifest(adapter_id)
            after = change(before)
            if after != before:
                self.rewrite(after)
            return after

    def add_file(self, adapter_id: UUID, file: Path) -> Manifest:
        """Move a finished file into a published adapter. Do nothing if the adapter already has a file of this name.

        Args:
            adapter_id: the adapter.
            file: the file; it must be on the adapter's filesystem.

        Raises:
            NotFoundError: no such adapter.
            AdapterInvalidError: the adapter is invalid.
            InsufficientStorageError: the disk is full or read-only. Nothing has changed.
        """

        def change(manifest: Manifest) -> Manifest:
            if file.name in manifest.files:
                return manifest  # another process has added the file first
            sync_file(file)
            digest, size = hash_file(file), file.stat().st_size
            # If TMDE ends before the manifest names the file, the file is ignored, and the next attempt replaces it.
            file.replace(self.path(adapter_id) / file.name)
            sync_directory(self.path(adapter_id))
            files = dict(sorted({**manifest.files, file.name: digest}.items()))
            return msgspec.structs.replace(manifest, files=files, size_bytes=manifest.size_bytes + size)

        return self.edit(adapter_id, change)

    def sweep(self) -> None:
        """Remove adapters that a crash left half built or half deleted. Keep locked directories: they are in use.

        Call only while no switch is in progress.
        """
        self.sweep_unfinished_files()
        for path in self.directory.glob(f"{DELETING_PREFIX}*"):
            _remove(path)
        for path in self.directory.glob(f"{STAGING_PREFIX}*"):
            leash = self.directory.parent / "runs" / path.name.removeprefix(STAGING_PREFIX) / "leash"
            if not is_locked(path) and not is_locked(leash):  # an import locks the directory, a training run its leash
                _remove(path)

    def sweep_unfinished_files(self) -> None:
        """Delete half-written pointers and manifests that a crash left. Call only while no switch is in progress."""
        for path in self.directory.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        lock = FileLock.try_acquire(self.directory / EDIT_LOCK)
        if lock is None:
            return  # another process is writing a manifest; the next start cleans up
        with lock:
            for path in self.directory.glob(f"*/.*{TEMPORARY}"):
                path.unlink(missing_ok=True)


def _oldest(twins: Sequence[LoRAAdapter]) -> LoRAAdapter:
    """Return the first of some twins. A copy has the date of its original, but its weights were written later."""
    date = min(adapter.created_at for adapter in twins)
    return min((adapter for adapter in twins if adapter.created_at == date), key=_written_at)


def _written_at(adapter: LoRAAdapter) -> float:
    try:
        return os.lstat(f"{adapter.path}/{WEIGHTS_FILE}").st_mtime
    except OSError:
        return 0.0


def _is_listed(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory entry is listed: a directory or any symbolic link that is not hidden."""
    return not entry.name.startswith(".") and (entry.is_dir() or entry.is_symlink())


def _sound(path: Path) -> Manifest:
    """Return the manifest of a valid adapter; raise `InvalidFilesError` for an invalid one."""
    if path.is_symlink():
        raise InvalidFilesError(LINK)
    return read_manifest(str(path), path.name)


def _remove(path: Path) -> None:
    """Delete a directory, file or symbolic link. A symbolic link is removed, not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
