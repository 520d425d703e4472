"""Check the length and the format of a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import msgspec
import regex  # type: ignore[import-untyped]

from tmde_bench_default.checks.reading.folding import plain
from tmde_bench_default.checks.schema import find_mismatch, schema_problems
from tmde_core.sdk.judges import CountCheck, FormCheck

_WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*(?:['’\-‑][\p{L}\p{N}][\p{L}\p{N}\p{M}]*)*")
_SENTENCE_END = re.compile(r"[.!?…]+(?=[\s\"'”’)*_]|\Z)(?![\"'”’)*_]+\s+[a-z])|[。！？｡]+")
"""What ends a sentence. In "Stop!" she said. the first mark ends none."""
LOOKS_LATIN = str.maketrans("аеорсухіјѕԁԛԝһкмтвнο", "aeopcyxijsdqwhkmtbho")
"""Cyrillic and Greek letters that look like Latin ones. A letter that must be absent must not be seen either."""
_ABBREVIATION = re.compile(
    r"(?i)\b(?:mr|mrs|ms|dr|st|prof|vs|e\.g|i\.e|cf|approx|fig|no(?=\.\s?\d))\."
    r"|\b(?:etc|[ap]\.m|ca|al|inc|ltd|jr|sr)\.(?=[,;)]|\s+(?-i:[a-z]|\d))|(?-i:(?:(?<![^\W_])[A-Z]\.\s?)+(?=(?!(?:The|Then|They|This|That|There|These|She|You|His|Her|Its|Our|But|And|Not|All|One|For|What|When|Why|How|Who|Now|Let)\b)[A-Z][a-z]{2}))"
)
"""Full stops that end no sentence: titles, abbreviations before small letters, and initials."""
_ITEM = re.compile(r"^\s*(?:[-*•+]|\(?\d{1,3}[.):])\s+\S")
_LIST_MARK = re.compile(r"^(?:[-*•+>#]+|\(?\d{1,3}[.):])\s*")
_FENCE = re.compile(r"\A(```|~~~)(?:json[c5]?)?[ \t]*\r?\n(.*)\n?[ \t]*\1\Z", re.DOTALL | re.IGNORECASE)


def visible(text: str) -> str:
    """Return the text with composed letters and without invisible characters."""
    composed = unicodedata.normalize("NFC", text)
    if composed.isascii():
        return composed
    return "".join(one for one in composed if unicodedata.category(one) != "Cf" or one in "\u200c\u200d")


def words(text: str) -> list[str]:
    """Return the words in lower case. "well-known" and "don't" are one word each."""
    return [match[0].casefold().replace("’", "'") for match in _WORD.finditer(visible(text))]


def lines(text: str) -> list[str]:
    """Return the lines that are not blank."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def sentences(text: str) -> int:
    """Return the number of sentences. A rest without a full stop counts as one."""
    plain_text = _ABBREVIATION.sub("x", text)
    pieces = [piece for piece in _SENTENCE_END.split(plain_text) if _WORD.search(piece)]
    return len(pieces)


_COUNTS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(words(text)),
    "lines": lambda text: len(lines(text)),
    "sentences": sentences,
    "characters": lambda text: len(visible(text).strip()),
}


def check_count(answer: str, check: CountCheck) -> tuple[float, str]:
    """Return the score, 1 or 0, and a sentence with the count."""
    found = _COUNTS[check.of](answer)
    wanted = f"at least {check.minimum}" if check.maximum is None else f"{check.minimum} to {check.maximum}"
    right = found >= check.minimum and (check.maximum is None or found <= check.maximum)
    return float(right), f"It has {found} {check.of}; wanted {wanted}."


def check_form(answer: str, check: FormCheck) -> tuple[float, str]:
    """Return how far the text has the required format, from 0 to 1, and a sentence."""
    return _FORMS[check.form](answer.strip(), check.value)


def _acrostic(text: str, value: str) -> tuple[float, str]:
    said = [_LIST_MARK.sub("", line) for line in lines(visible(text))]
    initials = "".join(next((letter for letter in line if letter.isalpha()), "") for line in said)
    bare = sum(sum(map(str.isalpha, line)) <= 1 for line in said)
    if bare > 1 and 2 * bare >= len(said):
        return 0.0, "Its lines are single letters."
    return float(initials.casefold() == value.strip().casefold()), f"Its lines begin with {initials[:40]!r}."


def _must_use(text: str, value: str) -> tuple[float, str]:
    wanted = _listed(value)
    held = f" {' '.join(words(text))} "
    missing = [word for word in wanted if f" {' '.join(words(word))} " not in held]
    return (
        1 - len(missing) / len(wanted),
        f"It lacks {', '.join(missing)}." if missing else "It uses every word that it must.",
    )


def _starts_with(text: str, value: str) -> tuple[float, str]:
    begins = bool(re.match(rf"\W*{re.escape(plain(value))}(?!\w)", plain(text)))
    return float(begins), f"It {'begins' if begins else 'does not begin'} with {value!r}."


def _ends_with(text: str, value: str) -> tuple[float, str]:
    ends = bool(re.search(rf"(?<!\w){re.escape(plain(value))}\W*\Z", plain(text)))
    return float(ends), f"It {'ends' if ends else 'does not end'} with {value!r}."


def _json(text: str, value: str) -> tuple[float, str]:
    fenced = _FENCE.match(text)
    try:
        found: Any = msgspec.json.decode(fenced[2] if fenced else text.lstrip("\ufeff"))
        reason = find_mismatch(found, msgspec.json.decode(value or "{}"))
    except (msgspec.DecodeError, RecursionError):
        return 0.0, "It is no JSON, or not only JSON."
    return float(reason is None), f"The JSON is not as wanted: {reason}." if reason else "The JSON is as wanted."


def _list(text: str, value: str) -> tuple[float, str]:
    found = sum(bool(_ITEM.match(line)) for line in text.splitlines())
    return float(found == int(value)), f"It lists {found} items; wanted {value}."


def _no_letter(text: str, value: str) -> tuple[float, str]:
    letter = value.strip().casefold()
    seen = unicodedata.normalize("NFKC", visible(text)).casefold()
    absent = letter not in seen and letter not in seen.translate(LOOKS_LATIN) and bool(words(text))
    return float(absent), f"The letter {letter!r} {'is absent' if absent else 'is there'}."


def _unique_words(text: str, value: str) -> tuple[float, str]:  # noqa: ARG001 every form has a value; this one's is empty
    found = words(text)
    twice = sorted({word for word in found if found.count(word) > 1}) if len(found) <= 500 else ["far too much"]
    return float(bool(found) and not twice), f"Used twice: {', '.join(twice[:5])}." if twice else "No word comes twice."


_FORMS: dict[str, Callable[[str, str], tuple[float, str]]] = {
    "acrostic": _acrostic,
    "must-use": _must_use,
    "starts-with": _starts_with,
    "ends-with": _ends_with,
    "json": _json,
    "list": _list,
    "no-letter": _no_letter,
    "unique-words": _unique_words,
}


def count_problems(check: CountCheck) -> list[str]:
    """Return what is wrong with a count check, one sentence for each problem."""
    if check.maximum is not None and check.maximum < check.minimum:
        return [f"The count check wants at least {check.minimum} and at most {check.maximum} {check.of}. Swap them."]
    if check.minimum == 0 and check.maximum is None:
        return ["The count check has neither minimum nor maximum: every answer would pass."]
    return []


def form_problems(check: FormCheck) -> list[str]:
    """Return what is wrong with a form check, one sentence for each problem."""
    value = check.value.strip()
    if check.form == "json":
        try:
            return schema_problems(msgspec.json.decode(value or "{}"))
        except msgspec.DecodeError as error:
            return [f"The JSON Schema of the form check is no JSON: {error}."]
    wants: dict[str, tuple[bool, str]] = {
        "acrostic": (value.isalpha(), "one word"),
        "must-use": (bool(_listed(value)), "words between commas"),
        "starts-with": (bool(words(value)), "words"),
        "ends-with": (bool(words(value)), "words"),
        "list": (value.isascii() and value.isdigit() and int(value[:9]) > 0, "a number of items from 1 on"),
        "no-letter": (len(value) == 1 and value.isalpha(), "one letter"),
        "unique-words": (not value, "no value"),
    }
    right, what = wants[check.form]
    return [] if right else [f"The form {check.form!r} needs {what} as its value; it is {check.value[:40]!r}."]


def _listed(value: str) -> list[str]:
    return [word.strip() for word in value.split(",") if words(word)]
