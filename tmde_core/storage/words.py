"""Prepares texts for full-text search: which words the index holds, and which terms a search text asks for.

SQLite's own tokenizer splits at blanks and punctuation, so it takes a Chinese, Japanese or Thai sentence for one word.
It also treats the vowel signs of Thai or Hindi as separators. Therefore TMDE prepares each text before it is indexed:

- Forms of one character become one: decomposed letters, full-width letters, upper and lower case.
- The digits of all scripts become 0 to 9.
- Accents and strokes of Latin and Greek letters are removed (`đ` becomes `d`), as are the vowel marks of Arabic and
  Hebrew, and `ё` becomes `е`.
- Runs of scripts without blanks, and of Korean, become overlapping pairs: `東京都` becomes `東京 京都`. A search for any
  part of the run is then a search for neighbouring pairs. The single characters follow at the end of the text.

The schema's triggers call `search_words`, and `Database` registers it on each connection.
"""

from __future__ import annotations

import re
import unicodedata

from tmde_core.records.base import Record

LONGEST_RUN = 64
"""The number of characters of a run that a search uses."""

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf"  # Thai, Lao, without their digits
    "\u1000-\u103f\u104c-\u109f\ua9e0-\ua9ef\uaa60-\uaa7f\u1780-\u17d3\u17dd"  # Burmese, Khmer
    "\u1950-\u19df\u1a20-\u1aad\uaa80-\uaadf"  # scripts of the Tai languages
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u302f\u3031-\u303c\u3041-\u309f\u30a1-\u30fa\u30fc-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese, Japanese
    "\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"  # Korean: words have blanks, but particles follow without one
)
_RUN = re.compile(f"[{_UNSPACED}]+")

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""A colour or cursor command of a terminal, whose last letter would join the next word."""

_MARKS = re.compile(
    "(?<![\u0400-\u052f])[\u0300-\u036f]+|(?<=\u0435)\u0308"  # accents, but not those that make Cyrillic letters
    "|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]"
)

_STROKES = str.maketrans(
    {"đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "ø": "o", "ŧ": "t", "þ": "th", "æ": "ae", "œ": "oe"}
)
"""Latin letters that Unicode does not decompose. People without them on their keyboard type the plain ones."""

_OTHER_DIGIT = re.compile(r"[^\D0-9]")
"""A digit of another script, such as Thai or Arabic."""

_UNSEEN = re.compile(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u08e2\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff\ud800-\uf8ff\U000f0000-\U0010ffff]"
)
"""Characters without a shape, such as soft hyphens and directions, and private ones, which the index uses itself."""

MAX_TERMS = 32
"""The number of words of a search text that are used. Each word costs a lookup, and nobody types more words."""


class Term(Record):
    """One word of a search text, as one or more neighbouring tokens of the index."""

    tokens: tuple[str, ...]
    spaced: bool = True
    """Whether blanks separate this word from others. Only the beginning of such a word is found, not its middle."""

    def quoted(self) -> str:
        """Return the term for FTS5. The quotes keep a token from acting as an operator."""
        return f'"{" ".join(self.tokens)}"'


def search_words(text: str | None) -> str:
    """Return a text as the index reads it."""
    folded = _fold(text or "")
    if folded.isascii() or not _RUN.search(folded):
        return folded
    singles = dict.fromkeys("".join(_RUN.findall(folded)))
    paired = _RUN.sub(lambda run: " ".join(("", *_pairs(run[0]), "")), folded)
    return " ".join((paired, *singles))


def search_terms(text: str, most: int = MAX_TERMS) -> list[Term]:
    """Return the terms of a search text, in its order."""
    terms: list[Term] = []
    folded, position = _fold(text), 0
    for run in _RUN.finditer(folded):
        terms += [Term((word,)) for word in _spaced(folded[position : run.start()])]
        terms.append(Term(tuple(_pairs(run[0][:LONGEST_RUN])), spaced=False))
        position = run.end()
    terms += [Term((word,)) for word in _spaced(folded[position:])]
    return terms[:most]


def search_marks(
    source: str,
    withdrawn_at: str | None,
    user_rating: int | None,
    auto_score: float | None,
    corrected_answer: str | None,
    finish_reason: str | None,
) -> str:
    """Return what filters choose a trace by, as tokens of the index; see `source_mark` and the constants beside it."""
    quality = user_rating if user_rating is not None else auto_score
    marks = [source_mark(source)]
    if withdrawn_at is not None:
        marks.append(WITHDRAWN_MARK)
    if user_rating is not None:
        marks.append(RATED_MARK)
    if corrected_answer is not None and corrected_answer.strip(BLANKS):
        marks.append(CORRECTED_MARK)
    if finish_reason in CUT_REASONS and user_rating is None and corrected_answer is None:
        marks.append(CUT_MARK)
    if quality is not None:
        marks += [quality_mark(step) for step in range(int(quality * QUALITY_STEPS) + 1)]
    return " ".join(marks)


def source_mark(source: str) -> str:
    """Return the token of all traces with this source."""
    return f"\ue000s{source.encode().hex()}z"


def quality_mark(step: int) -> str:
    """Return the token of all traces whose quality score is at least `step / QUALITY_STEPS`."""
    return f"\ue000q{step}z"  # the stemmer would remove some other last letters


CORRECTED_MARK, CUT_MARK = "\ue000kz", "\ue000xz"
"""The tokens of all traces that a person has corrected, and of all whose answer was cut off and that no person has rated
or corrected."""
CUT_REASONS = ("length", "content_filter")
BLANKS = "\t\n\r "
"""The blanks that the database's triggers trim from a correction: both must agree about what is one."""

WITHDRAWN_MARK, RATED_MARK = "\ue000wz", "\ue000rz"
"""The tokens of all withdrawn and of all rated traces. `search_words` removes the private character \\ue000 from texts."""

QUALITY_STEPS = 2
"""Tokens for each point of the quality score: thresholds in halves are found in the index alone."""


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)] or [run]


def _spaced(text: str) -> list[str]:
    """Split at the characters that separate tokens in the index; see the tokenizer in the schema."""
    return "".join(one if unicodedata.category(one)[0] in "LMN" else " " for one in text).split()


def _fold(text: str) -> str:
    text = _ESCAPE.sub(" ", text)
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", _UNSEEN.sub("", text)).casefold()
    plain = _MARKS.sub("", unicodedata.normalize("NFKD", decomposed)).translate(_STROKES)
    plain = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), plain)
    return unicodedata.normalize("NFC", plain)


_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0")
"""Fillers and the empty Braille pattern, which Unicode counts as letters or signs."""


def is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen: blanks, control characters and invisible characters only."""
    return all(
        one.isspace()
        or one in _BLANK_LETTERS
        or unicodedata.category(one) in ("Cc", "Cf")
        or "\ufe00" <= one <= "\ufe0f"
        for one in text
    )
