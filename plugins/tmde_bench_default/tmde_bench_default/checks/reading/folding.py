"""Give characters that mean the same the same form.

`fold_signs` is for texts in which numbers, letters and formulas are read. `plain` is for texts in which words are
looked for.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

from tmde_bench_default.checks.reading.latex import unlatex

BOX, BOX_END = "\ue000", "\ue001"
"""Stand around a marked final answer: LaTeX's \\boxed{…}, or <answer>…</answer>."""

_DASHES = dict.fromkeys("-‐‑‒–—―−⁃﹘﹣－", "-")
_SAME = {
    **_DASHES,
    **dict.fromkeys("'’‘‛′ʼʹ＇´", "'"),
    **dict.fromkeys('"“”„‟″«»「」『』＂', '"'),
    **dict.fromkeys("×✕✖⨯", "×"),
    **dict.fromkeys("·⋅∙・", "·"),
    **dict.fromkeys("∗＊⁎", "*"),
    **dict.fromkeys("⁄∕／", "/"),
    **dict.fromkeys("%％٪﹪", "%"),
    **dict.fromkeys("~～∼〜", "~"),
    "٬": ",",
    "٫": ".",
    "،": ", ",
    "、": ", ",
    "。": ". ",
    "｡": ". ",
    "।": ". ",
    "：": ": ",
    "；": "; ",
    "∶": ":",
    "\u2028": "\n",
    "\u2029": "\n",
    "\x85": "\n",
    "\t": " ",
    "\ufe0f": "",
    "\u20e3": "",
    "\ufe0e": "",
    "\u034f": "",
    BOX: "",
    BOX_END: "",
}
_SUPERSCRIPTS, _SUBSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "₀₁₂₃₄₅₆₇₈₉₊₋"
_ABOVE = re.compile(f"[{_SUPERSCRIPTS}]+")
_BELOW = re.compile(f"[{_SUBSCRIPTS}]+")
_FLAT = str.maketrans(_SUPERSCRIPTS + _SUBSCRIPTS, "0123456789+-" * 2)
_VULGAR = re.compile("(\\d?)([¼-¾⅐-⅞↉])")

_TAGS = re.compile(r"(?i)</?(?:b|i|u|em|strong|span|p|div|mark|center|font|h[1-6]|br|li|ul|ol)\b[^<>]{0,80}>")
_RAISED = re.compile(r"(?i)<(su[bp])>([^<>]{1,20})</su[bp]>")
_ANSWER_TAG = re.compile(r"(?i)<(/?)(?:final[_ ]?)?answer>")

_POWER = re.compile(r"(?<=[\d)])( ?)\*\*\1(?=[\d(-])")
_EMPHASIS = re.compile(r"(?<![\w*\\])([*_])(?=\S)([^*_\n]{1,80}?)(?<=\S)\1(?![\w*])")
_STRUCK = re.compile(r"(?<!~)~~(?=[^\s~])[^~\n]{1,200}~~(?!~)")
"""What Markdown strikes through."""
_LOOSE_DASH = re.compile(r"[–—―](?=\s|\Z)")
_WIDE_MINUS = re.compile(r"(?<![\d)%\s])(\s*)[−﹣－][ \u00a0\u2009\u202f]+(?=[\d.,$€£¥½])")
"""A true minus sign with a blank before its number, where no operand stands before it."""


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    known = _SAME.get(character)
    if known is not None:
        return known
    category = unicodedata.category(character)
    if category == "Cf":  # soft hyphens, marks of direction, joiners and blanks without width
        return ""
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Zs":
        return " "
    if category in {"No", "Nl"}:  # a circled or Roman number is not the digits that it is made of
        return character
    return unicodedata.normalize("NFKC", character)


def _fold_characters(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    if text.isascii():
        return text.replace("\t", " ")
    text = _ABOVE.sub(lambda match: "^" + match[0].translate(_FLAT), text)
    text = _BELOW.sub(lambda match: "_" + match[0].translate(_FLAT), text)
    text = _VULGAR.sub(_fraction, text)
    return unicodedata.normalize("NFC", "".join(map(_folded, text)))


def _fraction(match: re.Match[str]) -> str:
    written = unicodedata.normalize("NFKC", match[2]).replace("⁄", "/")
    return f"{match[1]} {written}" if match[1] else written


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fold_signs(text: str) -> str:
    """Return the text with one form for each digit, sign, dash, blank, quote and formula.

    Digits of all scripts become ASCII. Superscripts become `^2`, subscripts `_2`, and ½ becomes `1/2`. LaTeX and
    Markdown emphasis become plain text; a marked final answer stands between `BOX` and `BOX_END`.
    """
    if "&" in text:
        text = html.unescape(text)
    text = _WIDE_MINUS.sub(r"\1-", _lines(text))
    text = text.replace(BOX, "").replace(BOX_END, "")
    if "~~" in text:
        text = _STRUCK.sub(" ", text)
    # An en or em dash before a blank is punctuation. It stays apart from the sign.
    pieces = _LOOSE_DASH.split(text)
    text = "–".join(map(_fold_characters, pieces)) if len(pieces) > 1 else _fold_characters(text)
    if "<" in text:
        text = _ANSWER_TAG.sub(lambda match: BOX_END if match[1] else BOX, text)
        text = _RAISED.sub(lambda match: ("^" if match[1].lower() == "sup" else "_") + match[2], text)
        text = _TAGS.sub(" ", text)
    text = _POWER.sub("^", unlatex(text, BOX, BOX_END))
    text = text.replace("**", "").replace("__", "").replace("`", "").replace("=>", "→").replace("->", "→")
    return _EMPHASIS.sub(r"\2", text)


_RAISED_AFTER_LETTER = re.compile(r"(?<=[^\W\d_])[\^_](?=[\d+-])")


def flatten_raised(text: str) -> str:
    """Return folded text whose sub- and superscripts after a letter are plain digits: H_2O is H2O, m^2 is m2."""
    return _RAISED_AFTER_LETTER.sub("", text)


def plain(text: str) -> str:
    """Return the text in lower case with single blanks, straight apostrophes and hyphens, and without emphasis.

    Sentence marks stay. Sub- and superscripts after a letter become plain digits (H₂O is H2O, m² is m2); those after a
    digit stay marked, so that 10² is not 102. Letters without a dot and capital letters with one are the usual i, so
    that both spellings of Turkish names agree.
    """
    folded = fold_signs(text).replace(BOX, " ").replace(BOX_END, " ").replace("–", "-")
    folded = folded.casefold().replace("i\u0307", "i").replace("ı", "i")
    return " ".join(re.sub(r"[*_\"$]", "", flatten_raised(folded)).split())
