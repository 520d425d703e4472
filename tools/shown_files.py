"""Update the files that `docs/plugins.md` shows: `python -m tools.shown_files`.

A line that contains only a link to a file, and the code block after it, show that file:

    [`tmde_judge_length.py`](../examples/tmde-judge-length/tmde_judge_length.py):
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "plugins.md"

SHOWN = re.compile(
    r"^(?P<link>\[`[^`]+`\]\(\.\./(?P<file>examples/[^)]+)\):\n\n```\w+\n)(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def refreshed(page: str) -> str:
    """Return the page with the current content of every shown file."""

    def shown(found: re.Match[str]) -> str:
        code = (REPOSITORY / found["file"]).read_text(encoding="utf-8")
        return f"{found['link']}{code}```"

    return SHOWN.sub(shown, page)


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
