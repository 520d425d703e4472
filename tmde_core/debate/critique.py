"""Reads the Skeptic's answers: the JSON schema, a tolerant parser, and the rule for acceptance."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal

import msgspec

from tmde_core.records.base import Record
from tmde_core.records.debate import Critique, Issue, Severity

MAX_ISSUES = 3
MAX_ISSUE_CHARS = 200
"""Small models that write more repeat themselves until the token budget is used up."""

RATHER_RIGHT = 5.0
"""The middle of the scale."""

ECHO_SHARE = 0.7
"""An issue says nothing if at least this share of it stands in the answer or the question.

An issue that quotes a few words to say what is wrong stays well below this share.
"""

CRITIQUE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        # In this order: servers that enforce the schema also generate in its order.
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "verdict": {"type": "string", "enum": ["accept", "revise"]},
        "issues": {
            "type": "array",
            "maxItems": MAX_ISSUES,
            "items": {
                "type": "object",
                "properties": {
                    "severity": {"type": "string", "enum": ["minor", "major", "critical"]},
                    "text": {"type": "string", "maxLength": MAX_ISSUE_CHARS},
                },
                "required": ["severity", "text"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["score", "verdict", "issues"],
    "additionalProperties": False,
}

_SEVERITIES: dict[str, Severity] = {
    **dict.fromkeys(("minor", "low", "trivial", "nit", "info", "small"), "minor"),
    **dict.fromkeys(("major", "medium", "moderate", "high", "serious", "error"), "major"),
    **dict.fromkeys(("critical", "fatal", "severe", "blocker", "wrong"), "critical"),
}
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SCALE = re.compile(r"^\s*(-?\d+(?:\.\d+)?)\s*(?:/|out of|of)\s*(\d+(?:\.\d+)?)")
_MAX_SCAN = 20_000
"""The number of characters that the parser reads. A critique is far shorter, and parsing nonsense must stay cheap."""
_MAX_DEPTH = 40


def parse_critique(text: str) -> Critique:
    """Read a critique from any text; never raise.

    The parser finds JSON inside prose and code fences, and completes JSON that the token budget cut off. A text that is
    not a critique becomes a malformed critique with the text as its only, minor issue.
    """
    found = _object(text[:_MAX_SCAN])
    if found is None:
        return Critique(issues=_note(text), malformed=True)
    value, whole = found
    raw_issues = value.get("issues")
    issues, sound = _issues(raw_issues)
    score, score_sound = _score(value.get("score"))
    verdict = _verdict(value.get("verdict"))
    complete = (
        whole and sound and score_sound and isinstance(raw_issues, list) and verdict is not None and score is not None
    )
    if not issues and score is None and verdict is None:
        return Critique(issues=_note(text), malformed=True)
    return Critique(issues=issues, score=score, verdict=verdict, malformed=not complete)


def is_accepted(critique: Critique, accept_score: float) -> bool:
    """Return whether the critique allows the debate to end.

    A critique accepts the answer by its verdict, or by a high score with only minor issues. An "accept" that names a
    critical issue, or that scores the answer as more wrong than right, contradicts itself and does not count.
    """
    if critique.malformed or any(issue.severity == "critical" for issue in critique.issues):
        return False
    if critique.verdict == "accept":
        return find_contradiction(critique) is None
    harmless = all(issue.severity == "minor" for issue in critique.issues)
    return harmless and critique.score is not None and critique.score >= accept_score


def find_contradiction(critique: Critique) -> str | None:
    """Return a sentence that says how a critique contradicts itself; None if it does not.

    Such a critique accepts the answer and, at the same time, names a critical issue or scores the answer as more wrong
    than right. It does not end a debate.
    """
    if critique.verdict != "accept" or critique.malformed:
        return None
    if any(issue.severity == "critical" for issue in critique.issues):
        return "It accepts the answer but names a critical issue, so the acceptance does not count."
    if critique.score is not None and critique.score < RATHER_RIGHT:
        return f"It accepts the answer but scores it {critique.score:g} of 10, so the acceptance does not count."
    return None


class CritiqueSummary(Record, frozen=True):
    """A critique in a few words, for people. The pages and the command line show these words."""

    decision: str
    """What the Skeptic decides: accepts, wants a revision, or contradicts itself; empty: nothing."""
    kind: Literal["accepts", "revises", "contradicts", "none"]
    score: str
    """The score, as `4 of 10`; empty if there is none, or if the note names it."""
    note: str
    """What more must be said, in a sentence; may be empty."""
    nothing_named: str
    """The sentence for a critique without issues; empty if there are issues."""


def summarise(critique: Critique) -> CritiqueSummary:
    """Return a critique in words that do not contradict each other."""
    note = find_contradiction(critique)
    score = "" if critique.score is None else f"{critique.score:g} of 10"
    if note is not None:
        decision, kind, score = "Contradicts itself", "contradicts", ""
    elif critique.verdict == "accept":
        decision, kind = "Accepts", "accepts"
    elif critique.verdict == "revise":
        decision, kind = "Wants a revision", "revises"
    else:
        decision, kind = "", "none"
    if critique.malformed:
        note = "The critique did not have the required format, so it could not end the debate early."
    nothing = ""
    if not critique.issues:
        content = kind != "contradicts" and critique.verdict != "revise"
        content = content and (critique.score is None or critique.score >= RATHER_RIGHT)
        nothing = "No errors found." if content else "No specific issue named."
        nothing = "The critique could not be read." if critique.malformed else nothing
    return CritiqueSummary(
        decision=decision,
        kind=kind,  # type: ignore[arg-type]  # one of the four words above
        score=score,
        note=note or "",
        nothing_named=nothing,
    )


def remove_echoes(critique: Critique, *sources: str) -> Critique:
    """Return the critique without issues that only repeat the answer or the question.

    Small models fill the schema with such issues. If the Proposer receives one, it repeats itself too.
    """
    told = [_words(source) for source in sources]
    kept = tuple(issue for issue in critique.issues if not any(_repeats(_words(issue.text), words) for words in told))
    return critique if len(kept) == len(critique.issues) else msgspec.structs.replace(critique, issues=kept)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _repeats(words: list[str], source: list[str]) -> bool:
    """Return whether most runs of three words (or the whole text, if shorter) also occur in the source."""
    size = min(3, len(words))
    if size == 0:
        return True
    there = {tuple(source[index : index + size]) for index in range(len(source) - size + 1)}
    runs = [tuple(words[index : index + size]) for index in range(len(words) - size + 1)]
    return sum(run in there for run in runs) >= ECHO_SHARE * len(runs)


def _note(text: str) -> tuple[Issue, ...]:
    words = " ".join(text.split())
    return (Issue(severity="minor", text=_cut(words)),) if words else ()


def _said_once(text: str) -> str:
    """Return the text on one line with each sentence once; small models repeat sentences until the budget ends."""
    return " ".join(dict.fromkeys(re.split(r"(?<=[.!?])\s+", " ".join(text.split()))))


def _cut(text: str) -> str:
    if len(text) <= MAX_ISSUE_CHARS:
        return text
    head = text[: MAX_ISSUE_CHARS - 1]
    return (head.rsplit(" ", 1)[0] if " " in head else head) + "…"


def _issues(raw: Any) -> tuple[tuple[Issue, ...], bool]:
    """Return the issues, and whether all of them match the schema."""
    if isinstance(raw, (str, dict)):
        raw = [raw]
    if not isinstance(raw, list):
        return (), False
    sound = len(raw) <= MAX_ISSUES
    issues: list[Issue] = []
    seen: set[str] = set()
    for item in raw:
        severity, text = (item.get("severity"), item.get("text")) if isinstance(item, dict) else (None, item)
        text = _said_once(text) if isinstance(text, str) else ""
        known = _SEVERITIES.get(severity.strip().lower()) if isinstance(severity, str) else None
        sound = sound and known is not None
        if text and text.lower() not in seen and len(issues) < MAX_ISSUES:
            seen.add(text.lower())
            issues.append(Issue(severity=known or "minor", text=_cut(text)))
    return tuple(issues), sound


def _score(raw: Any) -> tuple[float | None, bool]:
    """Return the score on the scale 0–10, and whether the value is a valid score."""
    if isinstance(raw, bool) or raw is None:
        return None, False
    if isinstance(raw, str):
        if scaled := _SCALE.match(raw):
            top = float(scaled[2])
            return (_clamp(float(scaled[1]) / top * 10), True) if top > 0 else (None, False)
        number = _NUMBER.search(raw)
        if number is None:
            return None, False
        raw = float(number[0])
    if not isinstance(raw, (int, float)):
        return None, False
    try:
        value = float(raw)
    except OverflowError:
        return None, False
    if not math.isfinite(value):
        return None, False
    return _clamp(value), 0 <= value <= 10


def _clamp(value: float) -> float:
    return max(0.0, min(10.0, value))


def _verdict(raw: Any) -> Literal["accept", "revise"] | None:
    word = raw.strip().lower() if isinstance(raw, str) else ""
    if word in {"accept", "accepted", "ok", "pass", "approve", "approved"}:
        return "accept"
    return "revise" if word in {"revise", "revision", "reject", "rejected", "fail"} else None


def _object(text: str) -> tuple[dict[str, Any], bool] | None:
    """Return the first JSON object with `issues`, `score` or `verdict`, and whether the object was complete."""
    decoder = json.JSONDecoder(strict=False)
    starts = [found.start() for found in re.finditer(r"\{", text)][:20]
    for start in starts:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if _is_critique(value):
            return value, True
    for start in starts:
        value = _completed(text[start:])
        if _is_critique(value):
            return value, False
    return None


def _is_critique(value: Any) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint({"issues", "score", "verdict"})


def _completed(text: str) -> Any:
    """Parse JSON that was cut off: close everything open; if that is not enough, cut back to an earlier comma."""
    cuts = [len(text), *(found.start() for found in reversed(list(re.finditer(r"[,{\[]", text))))]
    for cut in cuts[:30]:
        closing = _closing(text[:cut])
        if closing is None:
            continue
        try:
            return json.loads(text[:cut] + closing, strict=False)
        except (ValueError, RecursionError):
            continue
    return None


def _closing(text: str) -> str | None:
    """Return the characters that close the open strings, lists and objects of `text`.

    Returns:
        The closing characters, or None if `text` is not the beginning of JSON.
    """
    stack: list[str] = []
    inside = escaped = False
    for char in text:
        if inside:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                inside = False
        elif char == '"':
            inside = True
        elif char in "{[":
            stack.append("}" if char == "{" else "]")
            if len(stack) > _MAX_DEPTH:
                return None
        elif char in "}]" and (not stack or stack.pop() != char):
            return None
    if escaped:
        return None
    return ('"' if inside else "") + "".join(reversed(stack))
