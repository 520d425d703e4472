r"""Find the places where an answer announces what it comes to: \boxed{42}, #### 42, Final answer: 42."""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from tmde_bench_default.checks.reading.denial import is_denied
from tmde_bench_default.checks.reading.folding import BOX, BOX_END

MAX_MARKS = 20
"""How many announcements of a final answer are read, from the end of the text."""

MAX_LINE = 1_000
"""The longest final answer, in characters."""

_ANSWER = r"(?:answer|ans|antwort|lösung|réponse|respuesta|resposta|risposta|antwoord|ответ)"
_MARK = re.compile(
    rf"(?i){BOX}|^[ \t]*\#{{3,}}(?=[ \t]*[^\s#])|\b{_ANSWER}\b(?:\s+(?:to|for|of)\b[^.\n:=?!]{{0,80}}?)?[)\"'*]{{0,2}}\s*"
    r"(?:(?:\bis\b|\bwas\b|'s\b|\b(?:would|should|must|will|has to|ought to) be\b|\bist\b|\blautet\b|\bwäre\b|\best\b|\bes\b|\bé\b|\bè\b|:|=|→|->|=>|[-–—](?=\s))"
    r"[ \t]*(?:therefore|thus|then|hence|simply|just|clearly|definitely|indeed)?[ \t]*:?)|"
    r"(?:答案|答え|答え|答|正解|정답|답)\s*(?:应该是|應該是|就是|是|为|為|は|은|는|：|:)\s*:?",
    re.MULTILINE,
)
_NOTHING = re.compile(
    r"(?i)(?:unknown|unclear|undefined|undetermined|impossible|nothing|none|not |unable|indeterminate|ambiguous)"
)
_HEADING = re.compile(r"[-+]?[$€£¥]?[\d.(]|[A-Za-z][).]?\s*\Z|yes\b|no\b|true\b|false\b", re.IGNORECASE)


class Mark(NamedTuple):
    """What an answer announces as its result."""

    start: int
    """Where the announcement begins."""
    begin: int
    """Where its text begins."""
    text: str
    """The rest of the line."""


def final_parts(text: str) -> list[Mark]:
    """Return the marks of a final answer in order. Fold the text first.

    Marks without text, and marks that are denied or only supposed, are skipped.
    """
    found = []
    for match in deque(_MARK.finditer(text), maxlen=MAX_MARKS):
        begin = match.end()
        while begin < len(text) and text[begin] in " \n\t*:":
            begin += 1
        line = text[begin : begin + MAX_LINE]
        if match[0] == BOX:
            line = line.split(BOX_END, 1)[0]
        else:
            line = line.split("\n", 1)[0]
            if match[0].lstrip().startswith("#") and not _HEADING.match(line.strip()):
                continue
        line = line.replace(BOX, " ").replace(BOX_END, " ")
        if line.strip() and not is_denied(text, match.start()):
            found.append(Mark(match.start(), begin, line))
    return found


def final_part(text: str) -> str | None:
    """Return the rest of the line after the last mark of a final answer, or None if there is no mark."""
    parts = final_parts(text)
    return parts[-1].text.strip() if parts else None


def says_nothing(part: str) -> bool:
    """Return whether a marked part says that there is no answer."""
    return _NOTHING.match(part.strip()) is not None
