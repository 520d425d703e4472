"""Figures and times as a person reads them."""

from __future__ import annotations

import re

from tmde_core.errors import TmdeError

_MARKS = re.compile(r"\*\*|__|`+|^#{1,6} |^> |^[-*] ", re.MULTILINE)


def score(value: float | None) -> str:
    """A score of 0–10 without needless decimals; a dash for none."""
    return "–" if value is None else f"{value:.1f}".removesuffix(".0")


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 trace`, `1,204 traces`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(number: int | None) -> str:
    """Bytes in the unit that fits."""
    if number is None:
        return ""
    value = float(number)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in {"B", "KB", "MB"} else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def snippet(text: str, length: int = 240) -> str:
    """The beginning of a text as one line, without Markdown's marks."""
    return " ".join(_MARKS.sub("", text[: 2 * length]).split())[:length]


def short_id(identity: object) -> str:
    """The first eight characters, enough to tell apart what one person has."""
    return str(identity)[:8]


def sentence(error: BaseException) -> str:
    """What to tell a person about an error: the detail of ours, a plain apology for a defect."""
    if isinstance(error, TmdeError):
        return error.detail
    return "Something went wrong inside TMDE. The server's log says more; try again."


def source(name: str) -> str:
    """Where a trace came from."""
    return _SOURCES.get(name, name)


_SOURCES = {
    "ui": "pages",
    "api": "API",
    "cli": "command line",
    "import": "import",
    "loop": "loop",
    "benchmark": "benchmark",
}
