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

    def add(self, line: bytes) -> None:
        """Store a line."""
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
        return [_plain(line) for line in self._lines if (found := _STAMP.match(line)) and found["level"] == "E"]


def _plain(line: str) -> str:
    found = _STAMP.match(line)
    return " ".join((line[found.end() :] if found else line).split())[:240]
