"""Records the progress of a loop: each finished piece of work is appended to a file, so that no work is repeated."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tmde_core.benchmark.questions.files import content_hash
from tmde_core.errors import ConflictError, InsufficientStorageError
from tmde_core.loop.records import Entry, Finished, LoopPlan
from tmde_core.records.base import to_json
from tmde_core.records.questions import Question
from tmde_core.storage.locks import FileLock

E = TypeVar("E", bound=msgspec.Struct)

JOURNAL_FILE = "journal.jsonl"


class Journal:
    """Stores the entries of one loop in an append-only file.

    Appended entries survive a crash. An incomplete last line is dropped when the file is read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._entries: list[Entry] = list(self._read())

    @classmethod
    def of(cls, loops: Path, questions: Sequence[Question], plan: LoopPlan, *, again: bool = False) -> Journal:
        """Return the journal for these questions and this plan: the newest existing journal, or a new one.

        Args:
            loops: the directory of all loops.
            questions: the questions of the loop.
            plan: the choices of the loop.
            again: create a new journal if the newest loop has finished.
        """
        key = hashlib.sha256(content_hash(questions).encode() + to_json(plan)).hexdigest()[:12]
        number = 1
        while (loops / f"{key}-{number + 1}").exists():
            number += 1
        journal = cls(loops / f"{key}-{number}")
        if again and journal.last(Finished) is not None:
            journal = cls(loops / f"{key}-{number + 1}")
        return journal

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Lock the journal for this process while the block runs.

        Raises:
            ConflictError: another process runs this loop.
            InsufficientStorageError: the directory cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock.try_acquire(self.directory / "lock")
        except OSError as error:
            raise InsufficientStorageError(f"{self.directory} cannot be written: {error.strerror}.") from None
        if lock is None:
            raise ConflictError(
                f"Another process runs this loop ({self.directory}). Wait for it, or change the questions or options."
            )
        with lock:
            self._entries = list(self._read())
            yield

    def append(self, entry: Entry) -> None:
        """Append an entry. The entry is on the disk when the method returns.

        Raises:
            InsufficientStorageError: the file cannot be written.
        """
        line = to_json(entry) + b"\n"
        try:
            descriptor = os.open(self.directory / JOURNAL_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise InsufficientStorageError(
                f"{self.directory} cannot be written: {error.strerror}. Free some space and start the loop again; it resumes."
            ) from None
        self._entries.append(entry)

    def all(self, kind: type[E]) -> list[E]:
        """Return all entries of a kind, oldest first."""
        return [entry for entry in self._entries if isinstance(entry, kind)]

    def last(self, kind: type[E]) -> E | None:
        """Return the newest entry of a kind, or None if there is no such entry."""
        found = self.all(kind)
        return found[-1] if found else None

    def _read(self) -> Iterator[Entry]:
        with contextlib.suppress(FileNotFoundError):
            path = self.directory / JOURNAL_FILE
            content = path.read_bytes()
            if content and not content.endswith(b"\n"):
                # Cut off an incomplete last line, or the next entry would be appended to it.
                content = content[: content.rfind(b"\n") + 1]
                os.truncate(path, len(content))
            for line in content.splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    yield msgspec.json.decode(line, type=Entry)
