"""Leave the thoughts of a thinking model out of its answer."""

from __future__ import annotations

import re

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad)"
_BEGIN = re.compile(rf"<{_NAMES}>|\[THINK\]|<\|begin_of_thought\|>|◁think▷", re.IGNORECASE)
_END = re.compile(rf"</{_NAMES}>|\[/THINK\]|<\|end_of_thought\|>|◁/think▷", re.IGNORECASE)


def without_thoughts(answer: str) -> str:
    """Return the answer after its thoughts.

    The end of a thought counts even if its beginning is missing, because some chat templates write the beginning
    themselves. An unfinished thought is no answer.
    """
    end = None
    for end in _END.finditer(answer):  # noqa: B007 the last one counts
        pass
    if end is not None:
        answer = answer[end.end() :]
    begin = _BEGIN.search(answer)
    return answer[: begin.start()] if begin else answer
