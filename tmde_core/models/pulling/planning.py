"""Decides what a pull fetches, under which name, and whether there is room for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tmde_core.errors import ConflictError, InsufficientStorageError, InvalidInputError
from tmde_core.models.pulling.listing import HubListing
from tmde_core.models.pulling.names import Reference, check_name, derive_name
from tmde_core.models.pulling.selection import select
from tmde_core.models.pulling.staging import Staging
from tmde_core.records.base import from_json
from tmde_core.records.models import MODEL_FILE, ModelNotes
from tmde_core.records.pulls import PullFile, PullPlan, PullRequest

SPARE_BYTES = 200_000_000
"""What is left free on the disk: the database and the logs need room too."""


def make_plan(request: PullRequest, reference: Reference, listing: HubListing, models: Path) -> PullPlan:
    """Return what a request fetches.

    Args:
        request: the request.
        reference: the repository that it names.
        listing: what the hub tells about the repository.
        models: the folder of the base models.

    Raises:
        ConflictError: another base model has the name.
        InvalidInputError, NotFoundError, UnprocessableError: see `select`.
    """
    chosen = select(listing, request.form, request.file or reference.file, request.quantization)
    aliases = tuple(dict.fromkeys((listing.repository, reference.repository, *listing.base_models)))
    name = _choose_name(request.name, reference.repository, aliases, models)
    notes = read_notes(models / name)
    if notes is not None and not request.name:
        _must_not_replace(chosen.files, notes, listing.repository)
    staging = Staging(models, name)
    present = sum(present_bytes(file, staging, notes) for file in chosen.files)
    return PullPlan(
        name=name,
        repository=listing.repository,
        endpoint=listing.endpoint,
        revision=request.revision or reference.revision or "main",
        commit=listing.commit,
        form=chosen.form,
        quantization=chosen.quantization,
        license=listing.license,
        gated=listing.gated,
        files=chosen.files,
        total_bytes=sum(file.size_bytes for file in chosen.files),
        present_bytes=present,
        free_bytes=free_bytes(models),
        left_out=chosen.left_out,
        choices=chosen.choices,
        aliases=aliases,
        weights_repository=_find_original(chosen.form, listing),
        parameters=listing.parameters,
        notes=chosen.notes,
        merges=notes is not None,
        here=all(is_here(file, models / name, notes) for file in chosen.files),
    )


def require_room(plan: PullPlan, models: Path) -> None:
    """Check that the disk has room for what is missing.

    Raises:
        InsufficientStorageError: it has not; the detail names both figures.
    """
    free = free_bytes(models)
    if plan.here or plan.missing_bytes + SPARE_BYTES <= free:
        return
    raise InsufficientStorageError(
        f"{plan.repository} needs {_gigabytes(plan.missing_bytes)} more, and the disk of {models} has "
        f"{_gigabytes(free)} free, of which {_gigabytes(SPARE_BYTES)} are kept. Free some space, or choose a smaller "
        "model or quantisation.",
        needed=plan.missing_bytes,
        free=free,
    )


def read_notes(folder: Path) -> ModelNotes | None:
    """Return the notes of a base model; None if it has none that can be read."""
    with contextlib.suppress(OSError, InvalidInputError, msgspec.MsgspecError):
        if (folder / MODEL_FILE).is_file():  # reading a pipe would wait for ever
            return from_json((folder / MODEL_FILE).read_bytes(), ModelNotes)
    return None


def is_here(file: PullFile, folder: Path, notes: ModelNotes | None) -> bool:
    """Return whether the base model's folder has exactly this file, as far as size and noted hash tell."""
    known = notes.files.get(file.target) if notes else None
    if known is None or known.size_bytes != file.size_bytes:
        return False
    if file.sha256 is not None and known.sha256 != file.sha256:
        return False
    if file.sha256 is None and file.git_sha1 is not None and _git_sha1(folder / file.target) != file.git_sha1:
        return False
    with contextlib.suppress(OSError):
        return (folder / file.target).stat().st_size == file.size_bytes
    return False


def present_bytes(file: PullFile, staging: Staging, notes: ModelNotes | None) -> int:
    """Return how many bytes of a file need not be fetched."""
    if is_here(file, staging.target, notes):
        return file.size_bytes
    job = staging.job()
    before = {one.target: one for one in job.plan.files} if job else {}
    known = before.get(file.target)
    if known is None or (known.size_bytes, known.sha256, known.git_sha1) != (
        file.size_bytes,
        file.sha256,
        file.git_sha1,
    ):
        return 0
    return staging.bytes_of(file)


def free_bytes(models: Path) -> int:
    """Return the free space of the disk that holds the base models, which may not exist yet."""
    place = models
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def find_models(models: Path) -> Iterator[ModelNotes]:
    """Yield the notes of the base models."""
    with contextlib.suppress(OSError):
        for folder in sorted(models.iterdir()):
            if not folder.name.startswith(".") and (notes := read_notes(folder)) is not None:
                yield notes


def _find_original(form: str, listing: HubListing) -> str:
    """Return the repository of the original weights; empty if it is unknown or not only one."""
    if form == "weights":
        return listing.repository
    return listing.base_models[0] if len(listing.base_models) == 1 else ""


def _choose_name(wanted: str, repository: str, aliases: tuple[str, ...], models: Path) -> str:
    """Return the name of the base model, which may be there already in another form.

    Raises:
        ConflictError: the name belongs to another model.
    """
    if wanted:
        name = check_name(wanted)  # a person says that it is the same model
    else:
        known = next((notes.name for notes in find_models(models) if _is_same(notes, aliases)), None)
        name = known if known is not None else derive_name(repository)
    folder = models / name
    if folder.exists() and not folder.is_dir():
        raise ConflictError(f"{folder} is in the way. Move it away, or choose another name with --name.")
    if wanted or not folder.exists():
        return name
    notes = read_notes(folder)
    if notes is not None and _is_same(notes, aliases):
        return name
    source = (notes.source or notes.gguf_source) if notes else ""
    raise ConflictError(
        f"There is a base model {name} already{f', from {source}' if source else ''}, and nothing says that "
        f"{repository} is the same model. If it is, say `--name {name}`; otherwise give it a name of its own, such as "
        f"`--name {repository.partition('/')[0]}-{name}`.",
        name=name,
    )


def _must_not_replace(files: tuple[PullFile, ...], notes: ModelNotes, repository: str) -> None:
    """Check that a GGUF file of one repository does not replace that of another.

    Raises:
        ConflictError: it would.
    """
    for file in files:
        known = notes.files.get(file.target)
        if (
            file.target.endswith(".gguf")
            and known is not None
            and known.sha256 not in (None, file.sha256)
            and _plain(notes.gguf_source or notes.source) != _plain(repository)
        ):
            raise ConflictError(
                f"The base model {notes.name} has a file {file.target} of {notes.gguf_source or notes.source} already, "
                f"and that of {repository} is another one. Say `--name {notes.name}` to replace it, or give it a name of "
                "its own.",
                name=notes.name,
            )


def _is_same(notes: ModelNotes, aliases: tuple[str, ...]) -> bool:
    """Return whether a base model is the one of these repositories.

    A GGUF repository of the same owner counts: `Qwen/Qwen3-4B-GGUF` belongs to `Qwen/Qwen3-4B`.
    """
    known = {_plain(name) for name in (notes.source, notes.gguf_source, *notes.aliases) if "/" in name}
    return bool(known & {_plain(name) for name in aliases})


def _plain(repository: str) -> str:
    lower = repository.lower()
    for ending in ("-gguf", "_gguf", ".gguf"):
        lower = lower.removesuffix(ending)
    return lower


def _git_sha1(path: Path) -> str | None:
    from tmde_core.models.pulling.checking import git_sha1

    with contextlib.suppress(OSError):
        return git_sha1(path)
    return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
