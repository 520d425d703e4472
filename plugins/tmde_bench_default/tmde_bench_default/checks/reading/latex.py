"""Turn LaTeX into plain text that keeps what numbers and letters mean."""

from __future__ import annotations

import re

MAX_DEPTH = 20
"""Braces that are nested deeper are left out, and what they hold is read as plain text."""

_TEXT = frozenset(
    [
        "text",
        "textbf",
        "textit",
        "textrm",
        "textsf",
        "texttt",
        "textnormal",
        "mathrm",
        "mathbf",
        "mathit",
        "mathsf",
        "mathtt",
        "mathbb",
        "mathcal",
        "operatorname",
        "mbox",
        "hbox",
        "emph",
        "underline",
        "bm",
        "ce",
        "boldsymbol",
        "pmb",
    ]
)
_BOXED = frozenset({"boxed", "fbox", "framebox", "bbox"})
_FRACTIONS = frozenset({"frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"})
_ABOUT = {"begin": "\n", "end": "\n", "color": "", "textcolor": "", "hspace": " ", "vspace": " ", "tag": ""}
"""Commands whose argument is not said."""

_SIGNS = {
    "times": "×", "cdot": "·", "ast": "*", "div": "÷", "pm": "±", "mp": "±", "approx": "≈", "sim": "~", "simeq": "≈", "le": "≤", "leq": "≤",
    "ge": "≥", "geq": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠", "infty": "∞", "pi": "π", "circ": "°", "degree": "°", "equiv": "=",
    "ldots": "…", "dots": "…", "cdots": "…", "quad": " ", "qquad": " ", "left": "", "right": "", "big": "", "Big": "", "bigl": "", "bigr": "",
    "displaystyle": "", "textstyle": "", "limits": "", "nobreak": "", "thinspace": " ", "rightarrow": "→", "to": "→", "implies": "→",
    "Rightarrow": "→", "minus": "-", "lbrace": "{", "rbrace": "}", "percent": "%", "textdollar": "$", "euro": "€", "pounds": "£",
    "prime": "'", "ell": "l", "mu": "µ", "AA": "Å", "neg": "¬", "lnot": "¬", "not": "¬", "land": " and ", "lor": " or ",
}  # fmt: skip
_MARKS = {
    ",": " ", ";": " ", ":": " ", " ": " ", "!": "", "\n": "\n", "\\": "\n", "(": " ", ")": " ", "[": " ", "]": " ", "%": "%", "$": "$",
    "&": "&", "#": "#", "_": "_", "{": "{", "}": "}", "/": "", "-": "",
}  # fmt: skip

_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|[{}]|[\^_]|[^\\{}^_]+", re.DOTALL)
_SIMPLE = re.compile(r"\s*([+-]?)\s*(\d[\d,.]*)\s*")
_EXPONENT = re.compile(r"[+-]?\d+|\d*°|\w")


def unlatex(text: str, box: str, box_end: str) -> str:
    """Return the text without LaTeX.

    Args:
        text: any text; text without backslashes and braces comes back unchanged.
        box: stands before what was boxed.
        box_end: stands after what was boxed.
    """
    if "\\" not in text and "{" not in text:
        return text
    reader = _Reader([match[0] for match in _TOKEN.finditer(text)], (box, box_end))
    return reader.rest()


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[str], box: tuple[str, str]) -> None:
        self._tokens, self._box = tokens, box
        self._at = 0
        self._blank = False

    def rest(self) -> str:
        out: list[str] = []
        while self._at < len(self._tokens):
            out += self._until_brace(0)
            if self._at < len(self._tokens):  # a brace that closes nothing
                self._at += 1
        return "".join(out)

    def _until_brace(self, depth: int) -> list[str]:
        """Read until the brace that closes this group, and leave the brace."""
        out: list[str] = []
        while self._at < len(self._tokens) and self._tokens[self._at] != "}":
            piece = self._piece(depth, out[-1] if out else "")
            if piece:
                out.append(piece)
        return out

    def _piece(self, depth: int, before: str) -> str:
        piece = self._tokens[self._at]
        self._at += 1
        if piece == "{":
            return self._group(depth)
        if piece in {"^", "_"}:
            return self._raised(piece, depth)
        if not piece.startswith("\\"):
            return piece
        return self._command(piece[1:], depth, before)

    def _group(self, depth: int) -> str:
        """Read what stands between the brace before this place and the brace that closes it."""
        if depth >= MAX_DEPTH:
            return ""
        inside = "".join(self._until_brace(depth + 1))
        if self._at < len(self._tokens):
            self._at += 1
        return inside

    def _argument(self, depth: int) -> str:
        """Read a group, or the next character or command."""
        if self._at < len(self._tokens) and self._tokens[self._at].isspace():
            self._at += 1
        if self._at >= len(self._tokens) or self._tokens[self._at] == "}":
            return ""
        piece = self._tokens[self._at]
        if piece == "{":
            self._at += 1
            return self._group(depth)
        if piece.startswith("\\"):
            self._at += 1
            return self._command(piece[1:], depth, "") if depth < MAX_DEPTH else ""
        stripped = piece.lstrip()
        self._tokens[self._at] = stripped[1:]
        return stripped[:1]

    def _raised(self, sign: str, depth: int) -> str:
        following = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if following not in {"{", "\\circ", "\\degree"}:
            return sign
        inside = self._argument(depth + 1).strip()
        if inside in {"°", "'"}:
            return inside
        if sign == "_" or not inside or _EXPONENT.fullmatch(inside):
            return sign + inside
        return f"{sign}({inside})"

    def _command(self, name: str, depth: int, before: str) -> str:
        if name in _MARKS:
            return _MARKS[name]
        if name in _SIGNS:
            if name in {"left", "right"} and self._at < len(self._tokens) and self._tokens[self._at].startswith("."):
                self._tokens[self._at] = self._tokens[self._at][1:]
            return _SIGNS[name]
        if name in _BOXED:
            return self._box[0] + self._argument(depth + 1) + self._box[1]
        if name in _TEXT:
            return self._argument(depth + 1)
        if name in _FRACTIONS:
            return _quotient(self._argument(depth + 1), self._argument(depth + 1), before)
        if name == "sqrt":
            return f"√({self._argument(depth + 1)})"
        if name in _ABOUT:
            self._argument(depth + 1)
            return _ABOUT[name]
        return f"\\{name}"


def _quotient(above: str, below: str, before: str) -> str:
    """Return a fraction of two numbers as `1/2`, after a blank if a whole number stands before it."""
    upper, lower = _SIMPLE.fullmatch(above), _SIMPLE.fullmatch(below)
    if upper is None or lower is None:
        return f"({above})/({below})"
    sign = "-" if (upper[1] == "-") != (lower[1] == "-") else ""
    blank = " " if before[-1:].isdigit() else ""
    return f"{blank}{sign}{upper[2]}/{lower[2]}"
