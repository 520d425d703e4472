"""Stores the results of reading every byte of the adapters, in a file beside the adapters that survives restarts.

A reading marks an adapter as damaged in the list, and the patrol continues after a restart where it stopped. A reading
is never proof: activation and export always read the adapter's files again.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

from tmde_core.errors import TmdeError
from tmde_core.lora.files.on_disk import Version
from tmde_core.records.base import Record, from_json, to_json, utc_now
from tmde_core.storage.durable import write_atomic

log = structlog.get_logger(__name__)

READINGS_FILE = ".readings.json"
NEVER = datetime.fromtimestamp(0, UTC)


class Reading(Record):
    """The result of reading all files of one adapter."""

    version: Version
    """Version of the adapter's manifest. The reading is valid while the manifest has this version."""
    at: datetime
    flaw: str | None = None
    """What is wrong with the adapter, in sentences; None if the files are unchanged."""


class VerificationLog:
    """Stores the newest reading of each adapter, by the name of its directory. All processes share the file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / READINGS_FILE
        self._path = str(self._file)
        self._seen: Version | None = None
        self._kept: dict[str, Reading] = {}

    def refresh(self) -> None:
        """Load the readings of other processes and of earlier runs. The call is cheap if the file has not changed."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - pathlib is slower, and every listing calls this
        except OSError:
            return
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if version == self._seen:
            return
        self._seen = version
        try:
            told = from_json(self._file.read_bytes(), dict[str, Reading])
        except (TmdeError, OSError) as error:
            log.warning("readings.unreadable", file=self._path, error=str(error))
            return
        for name, reading in told.items():
            if reading.at.tzinfo is not None and (name not in self._kept or self._kept[name].at < reading.at):
                self._kept[name] = reading

    def get_flaw(self, name: str, version: Version) -> str | None:
        """Return the known damage of an adapter, or None if no damage is known."""
        reading = self._kept.get(name)
        return reading.flaw if reading is not None and reading.version == version else None

    def last(self, name: str, version: Version | None) -> datetime:
        """Return when the adapter's current version was last read.

        The result is `NEVER` if this version was never read, or if the stored time lies in the future.
        """
        reading = self._kept.get(name)
        if reading is None or reading.version != version or reading.at > utc_now():
            return NEVER
        return reading.at

    def note(self, name: str, version: Version, flaw: str | None) -> None:
        """Store a reading. A changed result is saved at once; an unchanged result is saved by the next `save`.

        Args:
            name: the name of the adapter's directory.
            version: the version of the adapter's manifest.
            flaw: what is wrong with the adapter; None if the files are unchanged.
        """
        before = self._kept.get(name)
        self._kept[name] = Reading(version=version, at=utc_now(), flaw=flaw)
        if flaw != (before.flaw if before else None):
            self.save()

    def carry_over(self, name: str, before: Version | None, after: Version | None) -> None:
        """Keep a reading after the manifest was rewritten without changes to the files it lists.

        Args:
            name: the name of the adapter's directory.
            before: the version of the old manifest.
            after: the version of the new manifest.
        """
        reading = self._kept.get(name)
        if reading is not None and reading.version == before and after is not None:
            self._kept[name] = msgspec.structs.replace(reading, version=after)
            self.save()

    def save(self) -> None:
        """Save all readings to the file. If this fails, only the readings are lost."""
        self.refresh()
        there = {name: reading for name, reading in self._kept.items() if (self._directory / name).is_dir()}
        try:
            write_atomic(self._file, to_json(there) + b"\n")
        except (TmdeError, OSError) as error:
            log.warning("readings.not_kept", file=self._path, error=str(error))
