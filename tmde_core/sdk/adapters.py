"""Publishing an adapter: a finished directory becomes a version in one rename, or nothing changes. And what a trained one must be.

Runs inside the training worker and inside imports, so it needs files only: no database, no event loop.
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
from tmde_core.sdk.safetensors_header import SafetensorsError, all_zero, not_finite, read_tensors
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
    "Flaw",
    "Manifest",
    "find_flaw",
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

_B_MATRIX = "lora_b"
"""Stands in the name of every B matrix, in capital or small letters. B begins at zero, so what is learned shows in it."""
_SHOWN = 3
"""Tensors that a flaw names; the rest are counted."""


class Flaw(NamedTuple):
    """Why a trained adapter is of no use."""

    reason: str
    """A stable word for programs."""
    detail: str
    """A sentence for people."""


def find_flaw(directory: Path, base_model: str) -> Flaw | None:
    """Say why a trained adapter is of no use; None if nothing is wrong with its weights and its base model has a name.

    Reads every weight once.

    Raises:
        OSError: the weights cannot be read.
    """
    if not base_model.strip():
        return Flaw(
            "no-base-model",
            "The adapter does not say which base model it was trained on, and on any other its answers are gibberish. "
            "The training backend must name the base model.",
        )
    weights = directory / WEIGHTS_FILE
    try:
        tensors = read_tensors(weights)
        spoilt = not_finite(weights, tensors)
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
