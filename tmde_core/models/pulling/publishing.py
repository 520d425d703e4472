"""Moves the checked files of a pull into the base model's folder, and notes what they are."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import msgspec

from tmde_core.errors import ConflictError
from tmde_core.models.pulling.checking import count_parameters, read_context_length
from tmde_core.models.pulling.planning import read_notes
from tmde_core.models.pulling.staging import Staging
from tmde_core.records.base import to_json, utc_now
from tmde_core.records.models import MODEL_FILE, WEIGHTS_FOLDER, FileNotes, ModelNotes
from tmde_core.records.pulls import PullPlan
from tmde_core.storage.durable import storage_errors, sync_directory, write_atomic


def publish(staging: Staging, plan: PullPlan, hashes: dict[str, str]) -> None:
    """Move the files of a pull into place.

    A new base model appears with one rename. An existing one gets its new form with one rename, or, if a GGUF model
    has several parts, with its first part last; readers look for the first part.

    Args:
        staging: the folder of the pull, with every file of the plan whole.
        plan: what was fetched.
        hashes: the SHA-256 of the files, by target.

    Raises:
        ConflictError: another model has taken the name meanwhile.
        InsufficientStorageError: the disk is full or cannot be written.
    """
    before = read_notes(staging.target)
    notes = merge_notes(before, staging, plan, hashes)
    with storage_errors(staging.target):
        _sync_folders(staging.files)
        if not staging.target.exists():
            write_atomic(staging.files / MODEL_FILE, _encoded(notes))
            staging.files.rename(staging.target)
            sync_directory(staging.models)
            return
        if not staging.target.is_dir():
            raise ConflictError(f"{staging.target} is in the way. Move it away, and pull again.")
        if plan.form == "weights":
            _replace_weights(staging)
        else:
            for file in sorted(plan.files, key=lambda one: one.target, reverse=True):
                staging.whole(file).replace(staging.target / file.target)
        sync_directory(staging.target)
        write_atomic(staging.target / MODEL_FILE, _encoded(notes))


def merge_notes(before: ModelNotes | None, staging: Staging, plan: PullPlan, hashes: dict[str, str]) -> ModelNotes:
    """Return the notes of the base model with those of the fetched form."""
    known = before or ModelNotes(name=plan.name, added_at=utc_now())
    kept = known.files
    if plan.form == "weights":  # the folder of weights is replaced as a whole
        kept = {path: notes for path, notes in kept.items() if not path.startswith(f"{WEIGHTS_FOLDER}/")}
    files = kept | {
        file.target: FileNotes(size_bytes=file.size_bytes, sha256=hashes.get(file.target)) for file in plan.files
    }
    weights = plan.form == "weights"
    # The weights say best what the model is; a GGUF file fills in what is unknown.
    parameters, context = count_parameters(staging.files, plan), read_context_length(staging.files, plan)
    return msgspec.structs.replace(
        known,
        name=plan.name,
        license=(plan.license or known.license) if weights else (known.license or plan.license),
        parameters=(parameters or known.parameters) if weights else (known.parameters or parameters),
        context_length=(context or known.context_length) if weights else (known.context_length or context),
        source=plan.repository if weights else known.source or plan.weights_repository,
        revision=plan.commit if weights else known.revision,
        gguf_source=known.gguf_source if weights else plan.repository,
        gguf_revision=known.gguf_revision if weights else plan.commit,
        aliases=_distinct((*known.aliases, *plan.aliases)),
        files=files,
        added_at=known.added_at or utc_now(),
    )


def _replace_weights(staging: Staging) -> None:
    fresh, old = staging.files / WEIGHTS_FOLDER, staging.target / WEIGHTS_FOLDER
    aside = staging.folder / "replaced"
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        old.rename(aside)
    try:
        fresh.rename(old)
    except OSError:
        with contextlib.suppress(OSError):
            aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync_folders(folder: Path) -> None:
    for inner in (folder, *(entry for entry in folder.rglob("*") if entry.is_dir())):
        sync_directory(inner)


def _encoded(notes: ModelNotes) -> bytes:
    return msgspec.json.format(to_json(notes), indent=2) + b"\n"


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names without repetition; upper and lower case do not matter."""
    return tuple({name.lower(): name for name in reversed(names)}.values())[::-1]
