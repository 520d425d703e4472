"""Publishing an adapter: a finished directory becomes a version in one rename, or nothing changes.

Runs inside the training worker and inside imports, so it needs files only: no database, no event loop.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

from tmde_core.errors import AdapterInvalidError, ConflictError
from tmde_core.records.base import to_json
from tmde_core.records.lora import Manifest
from tmde_core.storage.durable import (
    sha256_of,
    storage_errors,
    sync_directory,
    sync_file,
)

__all__ = [
    "CONFIG_FILE",
    "GGUF_FILE",
    "MANIFEST_FILE",
    "REQUIRED_FILES",
    "STAGING_PREFIX",
    "WEIGHTS_FILE",
    "Manifest",
    "publish",
    "staging_directory",
]

MANIFEST_FILE = "manifest.json"
"""The name of the manifest."""
WEIGHTS_FILE = "adapter_model.safetensors"
"""The name of the file of weights, as PEFT has it."""
CONFIG_FILE = "adapter_config.json"
"""The name of PEFT's configuration."""
GGUF_FILE = "adapter.gguf"
"""The name of the GGUF form, which only some runtimes need."""
REQUIRED_FILES = (WEIGHTS_FILE, CONFIG_FILE)
"""The files that every adapter has. The GGUF form is needed only by runtimes that serve GGUF."""

STAGING_PREFIX = ".staging-"
"""Starts the name of a directory in which an adapter is being built. Such directories are never listed as adapters."""


def staging_directory(adapters_dir: Path, adapter_id: object) -> Path:
    """Return the directory in which an adapter is built before it is published."""
    return adapters_dir / f"{STAGING_PREFIX}{adapter_id}"


def publish(staging: Path, adapters_dir: Path, manifest: Manifest) -> Path:
    """Turn the finished directory `staging` into the adapter `adapters_dir/<manifest.id>`, whole or not at all.

    Fills `files` and `size_bytes` of the manifest, writes it, brings everything to the disk, renames.

    Args:
        staging: a flat directory on the filesystem of `adapters_dir` (see `staging_directory`); it is gone afterwards.

    Returns:
        The directory of the published adapter.

    Raises:
        AdapterInvalidError: a required file is missing, or there is something that is no plain file.
        ConflictError: the adapter exists already.
        InsufficientStorageError: the disk is full or read-only.
    """
    target = adapters_dir / str(manifest.id)
    if os.path.lexists(target):
        raise _published(manifest)
    files = _plain_files(staging)
    with storage_errors(adapters_dir):
        complete = msgspec.structs.replace(
            manifest,
            files={file.name: sha256_of(file) for file in files},
            size_bytes=sum(file.stat().st_size for file in files),
        )
        (staging / MANIFEST_FILE).write_bytes(msgspec.json.format(to_json(complete), indent=2) + b"\n")
        for file in (*files, staging / MANIFEST_FILE):
            sync_file(file)
        sync_directory(staging)
        adapters_dir.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # somebody was quicker
                raise _published(manifest) from None
            raise
        sync_directory(adapters_dir)
    return target


def _published(manifest: Manifest) -> ConflictError:
    return ConflictError(f"The adapter {manifest.id} is already published; its files are left as they are.")


def _plain_files(staging: Path) -> list[Path]:
    """The files of the adapter by name, without a manifest; refuses what an adapter must not hold."""
    if not staging.is_dir() or staging.is_symlink():
        raise AdapterInvalidError(f"There is no finished adapter in {staging}.")
    entries = sorted(entry for entry in staging.iterdir() if entry.name != MANIFEST_FILE)
    odd = [entry.name for entry in entries if not stat.S_ISREG(entry.lstat().st_mode)]
    if odd:
        raise AdapterInvalidError(f"An adapter holds plain files only; {staging} also has {', '.join(odd)}.")
    names = {entry.name for entry in entries}
    missing = [name for name in REQUIRED_FILES if name not in names]
    if missing:
        raise AdapterInvalidError(f"The adapter in {staging} lacks {', '.join(missing)}; it is not published.")
    return entries
