"""Says which questions are one question: those whose texts differ in form only.

One function decides this everywhere: for the duplicates and the split of a dataset, for the leak check, for a person's
own benchmark questions, and for the questions of a loop.

| these differences do not count | these make another question |
|---|---|
| invisible characters: zero-width blanks, soft hyphens, direction and byte order marks, variation selectors | any letter or word |
| kinds of blanks, and how many | a blank or none |
| curly and straight quotation marks, «» and 「」 | single or double quotation marks |
| kinds of dashes, and the minus sign | `+` and `-`, `C`, `C++` and `C#` |
| question marks and full stops of all scripts; those at the end | `5!` and `5` |
| composed and decomposed letters, ligatures, full-width and other presentation forms | `x²`, `x₂` and `x2`; `½` and `1/2`; `①` and `1` |
| the digits of other scripts | their values |
| upper and lower case | accents |

A text in plain ASCII keeps the form that earlier versions gave it, so its example stays in its part of the split.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ENGLAND_SCOTLAND_WALES = "\U0001f3f4[\U000e0061-\U000e007a]+\U000e007f"
"""A black flag with invisible letters after it. Only these letters tell such flags apart."""
_HIDDEN = re.compile(
    f"({_ENGLAND_SCOTLAND_WALES}"
    "|(?<=\\d)[\u2062-\u2064](?=\\d))"  # an invisible times, comma or plus between digits: 2⁢3 is not 23
    "|[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point, and control characters that are no blanks. The group stays."""

_GUILLEMETS = re.compile(r"(?<!\w)([«‹])\s+|\s+([»›])(?!\w)")
"""French puts blanks inside its quotation marks; German and Danish turn the marks round."""

_SAME = {
    **dict.fromkeys("‘’‚‛‹›´′ʹʼ՚׳＇", "'"),
    **dict.fromkeys("“”„‟«»″〝〞〟「」『』｢｣״＂", '"'),
    **dict.fromkeys("‐‑‒–—―−﹘﹣－⸺⸻", "-"),
    **dict.fromkeys("？؟⁇⁈⁉‽⸮⸘፧᥅꘏꛷❓❔﹖︖𞥟", "?"),
    **dict.fromkeys("。｡．۔։።।॥။។᙮᠃᠉⳹꓿꘎꛳﹒︒", "."),
    **dict.fromkeys("՞¿", ""),
    **dict.fromkeys("⁄∕", "/"),
    **dict.fromkeys("，、､،፣", ","),
    "；": ";",
    "؛": ";",
    "٪": "%",
    "٫": ".",
    "٬": ",",
}
"""Armenian puts its question mark on a vowel, and Spanish another one at the begin; both are left out."""

_KEPT_APART = ("<super>", "<sub>", "<fraction>", "<circle>")
"""Compatibility characters with a meaning of their own: NFKC would turn x² into x2, and 2½ into 21⁄2."""

_GREEK = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")


def normalise_question(query: str) -> str:
    """Return the form of a question in which differences that do not count are gone.

    Two questions count as the same if this function returns the same text.
    """
    folded = fold_characters(query)
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", folded).casefold())
    # A Greek question ends with what looks like a semicolon; Unicode even composes the Greek mark to one.
    return " ".join(folded.split()).rstrip(" ?.;" if _GREEK.search(folded) else " ?.")


def fold_characters(text: str) -> str:
    """Return a text whose characters are written in one way. Case, blanks and line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    shown = unicodedata.normalize("NFC", _HIDDEN.sub(r"\1", text))
    return unicodedata.normalize("NFC", "".join(map(_written, _GUILLEMETS.sub(r"\1\2", shown))))


@lru_cache(maxsize=8192)
def _written(character: str) -> str:
    """Return a character in its usual form."""
    if character.isascii():
        return character
    if (same := _SAME.get(character)) is not None:
        return same
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    decomposed = unicodedata.decomposition(character)
    if not decomposed.startswith("<") or decomposed.startswith(_KEPT_APART):
        return character
    return "".join(map(_written, unicodedata.normalize("NFKC", character)))
