"""Publishes adapters atomically, and checks that a trained adapter can be used.

Publishing renames a finished directory, so an adapter appears completely or not at all. The module is used in training
workers and during imports, so it needs only files: no database and no event loop.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

from tmde_core.errors import AdapterInvalidError, ConflictError
from tmde_core.records.base import to_json
from tmde_core.records.lora import Manifest
from tmde_core.sdk.plain_lora import find_kind_flaws
from tmde_core.sdk.safetensors_header import SafetensorsError, all_zero, find_non_finite, read_tensors
from tmde_core.storage.durable import (
    hash_file,
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
    "Flaw",
    "Manifest",
    "find_flaw",
    "publish",
    "staging_directory",
]

MANIFEST_FILE = "manifest.json"
"""The name of the manifest."""
WEIGHTS_FILE = "adapter_model.safetensors"
"""The name of the file of weights, as in PEFT."""
CONFIG_FILE = "adapter_config.json"
"""The name of PEFT's configuration file."""
GGUF_FILE = "adapter.gguf"
"""The name of the GGUF form, which only runtimes that serve GGUF need."""
REQUIRED_FILES = (WEIGHTS_FILE, CONFIG_FILE)
"""The files that every adapter has. Only runtimes that serve GGUF need the GGUF form as well."""

STAGING_PREFIX = ".staging-"
"""The prefix of a directory in which an adapter is built. Such directories are never listed as adapters."""

_B_MATRIX = "lora_b"
"""Part of the name of every B matrix, in upper or lower case. B starts at zero, so a nonzero B shows that training
worked."""
_SHOWN = 3
"""The number of tensors that a flaw names. The others are counted."""


class Flaw(NamedTuple):
    """The reason why a trained adapter cannot be used."""

    reason: str
    """A stable word for programs."""
    detail: str
    """A sentence for people."""


def find_flaw(directory: Path, base_model: str) -> Flaw | None:
    """Return why a trained adapter cannot be used; None if it is plain LoRA with valid weights and a named base model.

    The function reads every weight once.

    Raises:
        OSError: the weights cannot be read.
    """
    if not base_model.strip():
        return Flaw(
            "no-base-model",
            "The adapter does not say which base model it was trained on, and on any other its answers are gibberish. "
            "The training backend must name the base model.",
        )
    if (directory / CONFIG_FILE).is_file() and (kind := find_kind_flaws(directory)):
        return Flaw("not-plain-lora", f"The trained adapter cannot be served: {' '.join(kind)}")
    weights = directory / WEIGHTS_FILE
    try:
        tensors = read_tensors(weights)
        spoilt = find_non_finite(weights, tensors)
    except SafetensorsError as error:
        return Flaw("bad-weights", f"The trained weights in {WEIGHTS_FILE} cannot be used: {error}.")
    if spoilt:
        more = f" and {len(spoilt) - _SHOWN} more" if len(spoilt) > _SHOWN else ""
        return Flaw(
            "nan-weights",
            f"The trained weights hold NaN or infinity in {', '.join(spoilt[:_SHOWN])}{more}. Lower the learning rate and "
            "start again.",
        )
    learned = [tensor for tensor in tensors if _B_MATRIX in tensor.name.lower()]
    if not learned:
        return Flaw(
            "bad-weights",
            f"The trained weights in {WEIGHTS_FILE} have no B matrix: no tensor has a name like "
            "base_model.model.MODULE.lora_B.weight, as PEFT writes them.",
        )
    if len(all_zero(weights, learned)) == len(learned):
        return Flaw("nothing-learned", "Training changed nothing: every B matrix of the adapter is still zero.")
    return None


def staging_directory(adapters_dir: Path, adapter_id: object) -> Path:
    """Return the directory in which an adapter is built before it is published."""
    return adapters_dir / f"{STAGING_PREFIX}{adapter_id}"


def publish(staging: Path, adapters_dir: Path, manifest: Manifest) -> Path:
    """Publish the finished directory `staging` atomically as the adapter `adapters_dir/<manifest.id>`.

    The function fills in `files` and `size_bytes` of the manifest, writes it, syncs everything to the disk, and renames
    the directory.

    Args:
        staging: a flat directory on the file system of `adapters_dir` (see `staging_directory`). It no longer exists
            afterwards.
        adapters_dir: the directory of all adapters.
        manifest: the manifest without `files` and `size_bytes`.

    Returns:
        The directory of the published adapter.

    Raises:
        AdapterInvalidError: a required file is missing, or an entry is not a regular file.
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
            files={file.name: hash_file(file) for file in files},
            size_bytes=(size := sum(file.stat().st_size for file in files)),
            copied_size=size,
            copied_active=False,
        )
        (staging / MANIFEST_FILE).write_bytes(msgspec.json.format(to_json(complete), indent=2) + b"\n")
        for file in (*files, staging / MANIFEST_FILE):
            sync_file(file)
        sync_directory(staging)
        adapters_dir.mkdir(parents=True, exist_ok=True)
        try:
            staging.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another process published it first
                raise _published(manifest) from None
            raise
        sync_directory(adapters_dir)
    return target


def _published(manifest: Manifest) -> ConflictError:
    return ConflictError(f"The adapter {manifest.id} is already published; its files are left as they are.")


def _plain_files(staging: Path) -> list[Path]:
    """Return the adapter's files by name, without the manifest; refuse entries that an adapter must not have."""
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
