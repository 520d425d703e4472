"""Finds the files of base models in `data/models`.

    data/models/NAME/model.json     what is known of the base model (`ModelNotes`)
    data/models/NAME/*.gguf         forms to serve; a large one may be split into parts
    data/models/NAME/weights/       the form to train: config.json, safetensors, tokenizer

A file or the folder `weights` may be a symbolic link to a place outside: TMDE then does not own it.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

from tmde_core.errors import InvalidInputError, TmdeError
from tmde_core.records.base import from_json
from tmde_core.records.models import MODEL_FILE, WEIGHTS_FOLDER, FileNotes, ModelNotes, ServerModel
from tmde_core.sdk.gguf_header import is_count, shorten

__all__ = [
    "MODEL_FILE",
    "WEIGHTS_FOLDER",
    "FileNotes",
    "ModelFolder",
    "ModelNotes",
    "ServerModel",
    "check_folder_name",
    "find_folder",
    "is_later_part",
    "list_folders",
    "weights_lack",
]

_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", re.ASCII)
_PART = re.compile(r".*-(\d{5})-of-\d{5}\.gguf", re.IGNORECASE)
_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_MAX_NOTES = 512 * 1024
"""The notes of a model in a thousand parts have 200 kB. They are read often."""
_MAX_NAMES = 100
"""The most aliases and servers of a base model that are believed."""


class ModelFolder(NamedTuple):
    """The folder of one base model."""

    path: Path
    """The folder."""
    notes: ModelNotes
    """The content of its `model.json`."""

    @property
    def gguf_files(self) -> list[Path]:
        """The GGUF files to serve, by name. Of a model in parts, only the first part, which names the others."""
        return [
            file
            for file in sorted(self.path.glob("*.gguf"))
            if not file.name.startswith(".") and file.is_file() and not is_later_part(file.name)
        ]

    @property
    def weights(self) -> Path | None:
        """The directory of weights to train, or None if there is none or it is incomplete."""
        directory = self.path / WEIGHTS_FOLDER
        return directory if directory.is_dir() and not weights_lack(directory) else None


def is_later_part(file_name: str) -> bool:
    """Return whether a file is the second or a later part of a split GGUF file."""
    found = _PART.fullmatch(file_name)
    return found is not None and found[1] != "00001"


def weights_lack(directory: Path) -> list[str]:
    """Return what a directory of weights lacks to be trained, as file names; empty if it is complete."""
    lacking = [name for name in _NEEDED if not (directory / name).is_file()]
    files = list(directory.glob("*.safetensors"))
    # The target of a link may have been deleted, for example from a hub's cache.
    lacking += sorted(file.name for file in files if not file.is_file())[:5]
    if not files:
        lacking.append("*.safetensors")
    return lacking


def check_folder_name(name: str) -> str:
    """Return the name of a base model's folder unchanged.

    Raises:
        InvalidInputError: the name could not be a folder's name: it has other characters than letters, digits, dots,
            dashes and underscores, does not begin with a letter or digit, or has more than 96 characters.
    """
    if not _FOLDER_NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name[:120]!r} cannot be the name of a base model. Use 1 to 96 letters, digits, dots, dashes and "
            "underscores, and begin with a letter or a digit.",
            field="name",
        )
    return name


def list_folders(models_dir: Path) -> list[ModelFolder]:
    """Return the folders of all base models, by name. A folder whose `model.json` is damaged is left out."""
    found = []
    for file in sorted(models_dir.glob(f"*/{MODEL_FILE}")):
        folder = _read(file.parent)
        if folder is not None:
            found.append(folder)
    return found


def find_folder(models_dir: Path, name: str) -> ModelFolder | None:
    """Return the folder of the base model called `name`, or None. Upper and lower case do not matter."""
    if not _FOLDER_NAME.fullmatch(name):
        return None
    if (exact := _read(models_dir / name)) is not None:
        return exact
    wanted = name.casefold()
    return next((one for one in list_folders(models_dir) if one.path.name.casefold() == wanted), None)


def _read(folder: Path) -> ModelFolder | None:
    file = folder / MODEL_FILE
    try:
        if folder.name.startswith(".") or not _FOLDER_NAME.fullmatch(folder.name):
            return None
        state = file.stat()
        # Reading a pipe would wait for ever.
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MAX_NOTES:
            return None
        return ModelFolder(folder, _clean(from_json(file.read_bytes(), ModelNotes)))
    except (OSError, TmdeError):
        return None


def _clean(notes: ModelNotes) -> ModelNotes:
    """Return the notes with short texts and credible numbers. Somebody else may have written the file."""
    return msgspec.structs.replace(
        notes,
        name=shorten(notes.name),
        license=shorten(notes.license),
        parameters=notes.parameters if is_count(notes.parameters) else None,
        context_length=notes.context_length if is_count(notes.context_length) else None,
        source=shorten(notes.source),
        revision=shorten(notes.revision),
        gguf_source=shorten(notes.gguf_source),
        gguf_revision=shorten(notes.gguf_revision),
        aliases=tuple(map(shorten, notes.aliases[:_MAX_NAMES])),
        servers=tuple(
            ServerModel(runtime=shorten(one.runtime), model=shorten(one.model)) for one in notes.servers[:_MAX_NAMES]
        ),
    )
