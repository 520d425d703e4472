"""Figures and texts as a person reads them."""

from __future__ import annotations

import re

from tmde_core.errors import TmdeError

_MARKS = re.compile(r"\*\*|__|`+|^#{1,6} |^> |^[-*] ", re.MULTILINE)


def score(value: float | None) -> str:
    """Return a score of 0–10 without needless decimals, or a dash for None."""
    return "–" if value is None else f"{value:.1f}".removesuffix(".0")


def count(number: int, one: str, many: str | None = None) -> str:
    """Return `1 trace`, `1,204 traces`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_bytes(number: int | None) -> str:
    """Return a number of bytes in a suitable unit."""
    if number is None:
        return ""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in {"B", "kB", "MB"} else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def snippet(text: str, length: int = 240) -> str:
    """Return the beginning of a text as one line, without Markdown marks."""
    return " ".join(_MARKS.sub("", text[: 2 * length]).split())[:length]


def short_id(identity: object) -> str:
    """Return the first eight characters, which is enough to tell the items of one person apart."""
    return str(identity)[:8]


def plain(text: str) -> str:
    """Return a text without the marks that a terminal shows around code."""
    return text.replace("`", "")


def sentence(error: BaseException) -> str:
    """Return the sentence for an error: the detail of a `TmdeError`, or an apology for a defect."""
    if isinstance(error, TmdeError):
        return plain(error.detail)
    return "Something went wrong in TMDE. Try again. The server's log has the details."


def source(name: str) -> str:
    """Return where a trace came from."""
    return _SOURCES.get(name, name)


_SOURCES = {
    "ui": "pages",
    "api": "API",
    "cli": "command line",
    "import": "import",
    "loop": "loop",
    "benchmark": "benchmark",
}
