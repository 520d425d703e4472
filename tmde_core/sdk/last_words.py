"""Tells how a worker process ended, and which of its last lines give the reason.

The exit status is a fact. The last line of stderr often is not the reason: Python's warnings, progress bars and notices
of package tools are printed there too.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

__all__ = ["describe_status", "drop_noise", "find_reason", "signal_name"]

TRACEBACK = re.compile(r"Traceback \(most recent call last\):|\s*\+ Exception Group Traceback")
_WARNING = re.compile(
    r"(^|[\s:.\w])[A-Za-z]*Warning(:|\b.*\bwarn(ings)?\b)"  # FutureWarning: …, also behind a path and a line
    r"|^\W{0,2}(warn(ing)?|notice|deprecated|info|debug)\b"  # WARNING …, [notice] …, INFO:…
    r"|^[WI]\d{4}\b"  # glog
    r"|^\S+:\d+: \w*Warning\b",
    re.IGNORECASE,
)
_PROGRESS = re.compile(r"\d+%\|.*\||\b\d+/\d+ \[\d|^\s*[\d.]+%\s*$")
_LEFT_BEHIND = re.compile(r"^\s+(warnings?\.)?warn\(|^\s+_?warn\w*\(")
"""The line of source code that Python prints beneath a warning."""


def find_reason(lines: Iterable[str]) -> str:
    """Return the line of a process's stderr that says why it ended; empty if no line does.

    After a traceback this is the line of the exception. Without one it is the last line that is neither a warning, a
    progress bar nor indented.
    """
    kept = drop_noise(lines)
    places = [place for place, line in enumerate(kept) if TRACEBACK.match(line)]
    if places:
        after = kept[places[-1] + 1 :]
        # The frames are indented. A traceback without the line of its exception was cut off by the process's end.
        return next((line.strip() for line in after if line.strip() and not line[0].isspace()), "")
    whole = [line for line in kept if not line[0].isspace()]
    return whole[-1].strip() if whole else ""


def drop_noise(lines: Iterable[str]) -> list[str]:
    """Return the lines that are not blank, not a warning with its line of source, and not a progress bar."""
    kept: list[str] = []
    after_warning = False
    for line in lines:
        text = line.rstrip().split("\r")[-1]
        if not text.strip():
            continue
        if _WARNING.search(text) and not TRACEBACK.match(text):
            after_warning = True
            continue
        if (after_warning and text[0].isspace()) or _LEFT_BEHIND.match(text) or _PROGRESS.search(text):
            after_warning = False
            continue
        after_warning = False
        kept.append(text)
    return kept


def describe_status(status: int | None) -> str:
    """Return how a process ended, as a clause after its name: `was killed by signal 9 (SIGKILL)`.

    Args:
        status: the exit status as `subprocess` reports it: negative for a signal; None: unknown.
    """
    if status is None:
        return "ended before it was done"
    if status < 0:
        return f"was killed by signal {-status} ({signal_name(-status)})"
    return f"ended with exit status {status}"


def signal_name(number: int) -> str:
    """Return a signal's name, such as `SIGKILL`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
