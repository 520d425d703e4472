"""Computes the SHA-256 of model files once, and remembers it across processes: a large file takes half a minute."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

import msgspec

from tmde_core.errors import TmdeError
from tmde_core.records.base import Record, from_json, to_json
from tmde_core.records.models import MODEL_FILE, FileNotes
from tmde_core.sdk.model_folders import list_folders
from tmde_core.storage.durable import hash_file, write_atomic

HASHES_FILE = ".hashes.json"
"""In the directory of models."""
MOST_HASHES = 1000
_MAX_BYTES = 4 * 1024 * 1024


class _Hash(Record):
    size: int
    mtime_ns: int
    sha256: str


class _Hashes(Record):
    files: dict[str, _Hash] = msgspec.field(default_factory=dict)
    """By absolute path."""


class ModelHashes:
    """The hashes of model files on this machine."""

    def __init__(self, models_dir: Path) -> None:
        self._models_dir = models_dir
        self._file = models_dir / HASHES_FILE
        self._known: dict[str, _Hash] = {}

    def find(self, path: str) -> str | None:
        """Return the hash of a model's weights if it is remembered and the file has not changed; read nothing else."""
        found = _weights_file(path)
        if found is None:
            return None
        try:
            state = found.stat()
        except OSError:
            return None
        for known in (self._known, self._read()):
            one = known.get(str(found))
            if one is not None and (one.size, one.mtime_ns) == (state.st_size, state.st_mtime_ns):
                self._known[str(found)] = one
                return one.sha256
        return None

    def compute(self, path: str) -> str | None:
        """Return the hash of a model's weights; None if there is no single file of weights, or it cannot be read."""
        if (known := self.find(path)) is not None:
            return known
        found = _weights_file(path)
        if found is None:
            return None
        try:
            state = found.stat()
            sha256 = hash_file(found)
        except OSError:
            return None
        self._known[str(found)] = _Hash(size=state.st_size, mtime_ns=state.st_mtime_ns, sha256=sha256)
        self._write()
        return sha256

    def _read(self) -> dict[str, _Hash]:
        try:
            if self._file.stat().st_size > _MAX_BYTES:
                return {}
            return from_json(self._file.read_bytes(), _Hashes).files
        except (OSError, TmdeError):
            return {}

    def _write(self) -> None:
        merged = {**self._read(), **self._known}
        newest = dict(list(merged.items())[-MOST_HASHES:])
        # Only a cache: on a read-only directory the next process reads the file again.
        with contextlib.suppress(OSError, TmdeError):
            write_atomic(self._file, to_json(_Hashes(files=newest)))

    def list_noted(self) -> dict[str, str]:
        """Return the hashes that the notes of pulled models hold, by absolute path.

        A file that was replaced under its name after the notes were written is left out.
        """
        return {
            str(folder.path / name): notes.sha256
            for folder in list_folders(self._models_dir)
            for name, notes in folder.notes.files.items()
            if notes.sha256 and is_as_noted(folder.path, name, notes)
        }


def is_as_noted(folder: Path, name: str, notes: FileNotes) -> bool:
    """Return whether a file of a base model is still the one that the notes describe."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return False  # not a file of this folder
    try:
        file, noted = (folder / name).stat(), (folder / MODEL_FILE).stat()
    except (OSError, ValueError):
        return False
    # Moving another file to this place keeps the file's mtime, and sets its ctime.
    return file.st_size == notes.size_bytes and file.st_ctime_ns <= noted.st_ctime_ns


def _weights_file(path: str) -> Path | None:
    """Return the one file of weights of a GGUF file or a directory of safetensors; None if there are several."""
    found = Path(path)
    if not found.is_dir():
        return found if found.is_file() else None
    weights = list(found.glob("*.safetensors"))
    return weights[0] if len(weights) == 1 else None
