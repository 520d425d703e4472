"""Store the log of the model servers in one file, rotated by size, and keep the latest lines for error sentences."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from pathlib import Path

MAX_BYTES = 2 * 1024 * 1024
"""The size at which the file is renamed to `embedded.log.1`, which replaces the previous one."""
KEPT_LINES = 40

_STAMP = re.compile(r"^[\d.]+ (?P<level>[A-Z]) +")
"""Matches the beginning of llama.cpp's lines: seconds since the start, and I, W or E."""
_TROUBLE = re.compile(r"\berror\b|\bfailed\b|\bcannot\b|couldn't", re.IGNORECASE)
"""Matches an error in the lines of builds and libraries that write no level."""
_SHORT_OF_MEMORY = re.compile(
    rb"out of memory|outofdevicememory|outofhostmemory|cudamalloc failed|unable to allocate|insufficient memory"
    rb"|failed to allocate|erroroutofmemory",
    re.IGNORECASE,
)
"""What CUDA, ROCm, Vulkan, Metal and llama.cpp itself write when there is not enough memory."""
_PORT_TAKEN = re.compile(rb"couldn't bind", re.IGNORECASE)


class ServerLog:
    """Appends lines to the log file. On a full or read-only disk the log is lost, but no request fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, line: bytes) -> None:
        """Append one line, including its newline."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(line)
                full = file.tell() > MAX_BYTES
            if full:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))


class LastLines:
    """The latest lines of one server."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.short_of_memory = False
        """Whether a line said that memory is lacking."""
        self.port_taken = False
        """Whether a line said that the port is in use."""

    def add(self, line: bytes) -> None:
        """Store a line."""
        self.short_of_memory = self.short_of_memory or _SHORT_OF_MEMORY.search(line) is not None
        self.port_taken = self.port_taken or _PORT_TAKEN.search(line) is not None
        if text := line.decode("utf-8", "replace").strip():
            self._lines.append(text)

    def telling(self) -> str:
        """Return the line that most likely says what went wrong: the last error, or the last line. It may be empty."""
        return next(iter((*reversed(self._errors()), *(_plain(line) for line in reversed(self._lines)))), "")

    def first_error(self) -> str:
        """Return the first error, or an empty string.

        The first error names the cause; later errors only repeat that there was one.
        """
        return next(iter(self._errors()), "")

    def _errors(self) -> list[str]:
        stamped = [_plain(line) for line in self._lines if (found := _STAMP.match(line)) and found["level"] == "E"]
        return stamped or [_plain(line) for line in self._lines if not _STAMP.match(line) and _TROUBLE.search(line)]


def _plain(line: str) -> str:
    found = _STAMP.match(line)
    return " ".join((line[found.end() :] if found else line).split())[:240]
