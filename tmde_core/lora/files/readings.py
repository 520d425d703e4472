"""What reading every byte of the adapters has found, kept beside them so that a restart does not forget it.

It is advice, never proof: it makes an adapter look damaged in the list, and it lets the pass over all adapters go on where it was. Whoever
activates or carries away an adapter reads its bytes again whatever stands here.
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
from tmde_core.storage.durable import write_whole

log = structlog.get_logger(__name__)

READINGS_FILE = ".readings.json"
NEVER = datetime.fromtimestamp(0, UTC)


class Reading(Record):
    """One adapter, read as a whole."""

    version: Version
    """Of its manifest: what is said here holds while that is the same."""
    at: datetime
    flaw: str | None = None
    """What is wrong with it, in sentences; None when nothing is."""


class Readings:
    """The newest reading of each adapter of a directory, by the directory's name. Any number of processes share the file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / READINGS_FILE
        self._path = str(self._file)
        self._seen: Version | None = None
        self._kept: dict[str, Reading] = {}

    def refresh(self) -> None:
        """Take over what another process, or this one before a restart, has found. Cheap while nothing is new."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - part of the list, which is in a hurry
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

    def flaw(self, name: str, version: Version) -> str | None:
        """What is known to be wrong with an adapter; None when nothing is known."""
        reading = self._kept.get(name)
        return reading.flaw if reading is not None and reading.version == version else None

    def last(self, name: str, version: Version | None) -> datetime:
        """When an adapter was read as it is now; long ago when it never was, or by a clock that was ahead of this one."""
        reading = self._kept.get(name)
        if reading is None or reading.version != version or reading.at > utc_now():
            return NEVER
        return reading.at

    def note(self, name: str, version: Version, flaw: str | None) -> None:
        """Remember a reading; what is new about an adapter is kept at once, that it is as it was only by the next `save`."""
        before = self._kept.get(name)
        self._kept[name] = Reading(version=version, at=utc_now(), flaw=flaw)
        if flaw != (before.flaw if before else None):
            self.save()

    def carry_over(self, name: str, before: Version | None, after: Version | None) -> None:
        """Let what was found hold for a manifest that was written anew without changing what it says of the files."""
        reading = self._kept.get(name)
        if reading is not None and reading.version == before and after is not None:
            self._kept[name] = msgspec.structs.replace(reading, version=after)
            self.save()

    def save(self) -> None:
        """Keep all of it. A full disk costs this knowledge and nothing else."""
        self.refresh()
        there = {name: reading for name, reading in self._kept.items() if (self._directory / name).is_dir()}
        try:
            write_whole(self._file, to_json(there) + b"\n")
        except (TmdeError, OSError) as error:
            log.warning("readings.not_kept", file=self._path, error=str(error))
