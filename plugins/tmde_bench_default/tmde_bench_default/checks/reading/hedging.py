"""Find out whether a text only offers a wording as one of several candidates, asks for it, or leaves it open.

All texts are normalised with `folding.plain`, so they are in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

_CLOSING = r"[\"')\]*]{0,3}"
_OR = r"(?:and/or|or|vs\.?|versus|alternatively|failing that|oder|ou|или|o|ó|或者?|还是|還是|または|あるいは|또는|혹은)"
_SOFT = r"(?:(?:maybe|perhaps|possibly|probably|even|else|the|a|an|in|at|of|it is|it's|it was|is|was|just) )*"
_OR_BEFORE = re.compile(
    rf"(?:(?:\A|(?<=[\s(,;])){_OR}\s+(?!rather\b){_SOFT}|(?:或者?|还是|還是|または|또는 |혹은 |หรือ|(?<=[一-鿿ァ-ヺー])か))[\"'(\[*]*\Z"
)
_OR_AFTER = re.compile(
    rf"{_CLOSING}\s*,?\s*\(?(?:\b{_OR}\b|或|还是|還是|または|あるいは|또는|혹은|이나 |หรือ|か(?![らつ。.,!]|\Z|です|と))(?! (?:more|less) \w+ly)[\s(]*{_SOFT}"
)
_SLASH_BEFORE = re.compile(r"[^\W_]*[^\W\d_][^\W_]*\s?/\s?\Z")
_SLASH_AFTER = re.compile(r"\s?/\s?(?=[^\W_]*[^\W\d_])")
_ASKED = re.compile(r"[.!\n]\s|\?(?!\s*(?:yes|correct|right|exactly|indeed)\b)")
_OFFERED = re.compile(
    r"\b(?:either|candidates?|possible (?:answers?|options?|choices?)|possibilities|options|choices|alternatives|guesses)\b[^.?!]*\Z"
    r"|\b(?:if not|failing that)\b[^.?!]{0,40}\Z|\b(?:opposite|contrary|reverse) (?:of|to) (?:the )?\Z|\b(?:one|any|some) of (?:the following:? |these:? )?(?:[\w'-]+(?:, | or | and )){0,6}\Z"
)
_LEFT_OPEN = re.compile(
    r",? ?\(?(?:etc\b|and so (?:on|forth)\b|and the like\b|among others\b)|[^.?!]{0,60}\bare (?:all )?(?:candidates|possible|options|possibilities)\b|[^.?!]{0,120}\b(?:one|any|either|some) of (?:these|those|them)\b|,? ?\b(?:unless|or else)\b| if \b[^.?!]{1,60}[,;] [^.?!]{1,60}\bif\b"
)
_MAYBE = re.compile(r"\b(?:maybe|perhaps|possibly|could be|might be|may be|vielleicht|peut-être|quizás?)\b")
_MAYBE_BEFORE = re.compile(rf"{_MAYBE.pattern}(?: (?:it is|it's|the|a|an|in|also))*\s\Z")
_DENIED_AFTER = re.compile(
    rf"{_CLOSING}(?:\s+(?:is|are|was|were)\s+(?:\w+ly\s+)?not (?:the|my|our|it|so|what|where|who|that)\b"
    r"|\s+(?:isn't|aren't|wasn't|weren't) (?:the|my|our|it|so|what|where|who|that)\b"
    r"|\s+(?:did not|didn't|never) (?:\w+ ){1,2}(?:it|this|that|them|the)\b"
    r"|\s+(?:can|could|may|must|should) (?:also )?be (?:ruled out|excluded|eliminated|rejected|discarded|dismissed)\b"
    r"|\s+(?:is|was) (?:my|the) (?:first|second) (?:guess|thought|idea)\b"
    r"|'s (?:rival|sister|brother|son|daughter|wife|husband|father|mother|friend|teacher|student|pupil|successor|predecessor|neighbou?r)\b"
    r"|-(?:free|less|like|ish|style)\b"
    r"|(?:이|가|은|는) ?아[니닙닌님])"
)
_BOUND = re.compile(
    r"\b(?:before|after|until|till|prior to|over|under|above|below|(?:more|less|fewer|greater|smaller|later|earlier) than|at (?:least|most)|up to|"
    r"nearly|almost|from|between(?: [\w ,.-]{1,30} and)?)\s+(?:the year |about |exactly )?[$€£]?\Z|[<>≤≥≠]\s?\Z|\d\s?-\s?\Z|\d to \Z"
)
_RANGE = re.compile(r"\s?-\s?\d| to \d| (?:or|and) (?:more|less|fewer|later|earlier|over|above|below)\b|\+(?!\w)")
_ITEMS = re.compile(r"\s*(?:[,;\n|•]| / |(?:\b(?:and|und|et|y|or)\b)|&)\s*")
_FUNCTION_WORDS = frozenset(
    ["a", "an", "the", "is", "are", "was", "were", "be", "been", "it", "its", "this", "that", "these", "those",
     "in", "on", "at", "of", "to", "from", "by", "with", "for", "as", "he", "she", "they", "we", "you", "i",
     "has", "have", "had", "do", "does", "did", "can", "could", "will", "would", "should", "may", "might",
     "must", "not", "no", "which", "who", "what", "where", "when", "because", "so", "then", "than", "there",
     "here", "but", "if", "also", "only", "called", "named", "known", "van", "von", "de", "der", "den", "del",
     "la", "le", "el", "und", "ist", "die", "das", "et", "est", "les", "des", "un", "une", "y", "es"]
)  # fmt: skip
_APART = re.compile(r"[;|•\n]| / ")
"""What stands between candidates, and not before an addition as in "Paris, France"."""
_SHARE = re.compile(r"(?:[^\W\d]+[\s.-]{0,2}){1,4}\(\d{1,3} ?%\)")
MAX_ITEM_WORDS = 3
MIN_BARE_WORDS = 4


def is_offered(text: str, start: int, end: int, same: Sequence[str] = ()) -> bool:
    """Return whether what stands from `start` to `end` is only offered, asked, bounded, or denied behind it.

    Args:
        text: normalised text.
        start: where the wording begins.
        end: where it ends.
        same: other wordings of the same thing. "Water or H2O" offers nothing else.
    """
    before, behind = text[max(0, start - 160) : start], text[end : end + 160]
    if _joins_another(before, behind, same):
        return True
    asked = _ASKED.search(behind)
    if asked is not None and asked[0] == "?":
        return True
    if _OFFERED.search(before) or _LEFT_OPEN.match(behind) or _DENIED_AFTER.match(behind):
        return True
    if _MAYBE_BEFORE.search(before) and len(list(islice(_MAYBE.finditer(text), 2))) > 1:
        return True
    return (text[start].isdigit() and _BOUND.search(before) is not None) or (
        text[end - 1].isdigit() and _RANGE.match(behind) is not None
    )


def _joins_another(before: str, behind: str, same: Sequence[str]) -> bool:
    """Return whether the text names something else beside it: X or Y, X/Y."""
    if found := _OR_BEFORE.search(before):
        other = before[: found.start()].rstrip(" ,;(\"')*")
        if other and not other.endswith(tuple(same)):
            return True
    if found := _OR_AFTER.match(behind):
        other = behind[found.end() :].lstrip(" (\"'*")
        if not other.startswith(tuple(same)):
            return True
    return _SLASH_BEFORE.search(before) is not None or _SLASH_AFTER.match(behind) is not None


def lists_others(text: str, wordings: Sequence[str]) -> bool:
    """Return whether the text is nothing but a list that holds more other items than ones that are asked for.

    A single name behind a comma is read as an addition, as in "Paris, France".
    """
    stripped = text.strip(" .!*-")
    if len(stripped) > 400:
        return False
    if len(_SHARE.findall(stripped)) > 1 and not _SHARE.sub("", stripped).strip(" .,;and"):
        return True
    items = [item.strip(" .!\"'()*-•") for item in _ITEMS.split(stripped)]
    items = [item for item in items if item]
    least, others_at_least = 3, 2
    if _APART.search(stripped) and "," not in stripped:
        least, others_at_least = 2, 1
    if len(items) == 1 and re.search(r"[()\d:]", stripped):
        return False
    if len(items) == 1:  # names with nothing between them
        items = items[0].split()
        least, others_at_least = MIN_BARE_WORDS, 3
    if len(items) < least or any(len(item.split()) > MAX_ITEM_WORDS for item in items):
        return False
    if any(word in _FUNCTION_WORDS for item in items for word in item.split()):
        return False
    asked = sum(any(wording in item or item in wording for wording in wordings) for item in items)
    others = len(items) - asked
    return others >= others_at_least and others >= asked + (others_at_least > 1)
