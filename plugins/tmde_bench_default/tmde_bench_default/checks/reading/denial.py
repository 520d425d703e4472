"""Find out whether a text denies what it says, only supposes it, or takes it back."""

from __future__ import annotations

import re

NEAR_WORDS = 6
"""A negation at most this many words before a statement, in the same clause, denies the statement."""

_NEGATION = re.compile(
    r"(?i)(?:\b(?:not|never|no|nor|neither|cannot|without|wrong|incorrect|false|unlike|rather than|instead of|except|excluding|other than|"
    r"apart from|far from|hardly|barely|eliminat\w+|ruling out|rule out|ruled out|discard\w*|reject\w*|worst|least likely|"
    r"(?:once|wrongly|mistakenly|falsely|erroneously|incorrectly) (?:thought|believed|assumed|held|taken|said|claimed)|anything but|everything but|all but|doubt|(?:was|were) (?:long |originally |initially |first |commonly |widely )?(?:believed|thought|assumed|rumou?red|supposed|said) to|"
    r"used to (?:think|believe|be|say)|tempted to|(?:first|initially|originally) (?:thought|said|guessed|suspected)|"
    r"(?:some|people|others|everyone|everybody|you|one|they|many|most)(?: people)?(?: (?:might|may|could|would|often|still|will|also|mistakenly))? "
    r"(?:say|says|think|thinks|believe|believes|guess|guesses|claim|claims|assume|assumes)|isnt|wasnt|arent|cant|dont|doesnt|nicht|kein\w*|weder|nie|"
    r"pas|jamais|ni|não|nunca|non|не|нет|нельзя)\b|n't\b|\bno es\b)"
)
_CALLED_WRONG = re.compile(
    r"(?i)\b(?:ruled out|excluded|eliminated|rejected|discarded|wrong|incorrect)(?: (?:answers?|options?|choices?|ones?))?\s?:\s*[\"'(\[*]{0,3}\Z"
)
_ALL_BUT = re.compile(r"(?i)\b(?:anything|everything|anyone|everyone|all|any) but[\s(\"'*]*(?:option |choice )?\Z")
_UNSPACED_NEGATION = re.compile(
    r"(?:不是|並非|并非|没有|沒有|绝非|而非|不会是|不可能是|不|非|未|无|無|ไม่ใช่|ไม่)[ \"'(]?\Z"
)
_PREFIX = re.compile(r"(?i)\b(?:non|anti|pseudo|quasi)[- ]\Z")
NO_DENIAL = re.compile(
    r"(?i)\b(?:no doubt|not only|not just|not merely|not simply|not doubt|without (?:a |any )?doubt|no question|no wonder|not to mention|not surprisingly)\b"
    r"|不仅|不但|不只|不過|不过"
)
_CLAUSE = re.compile(
    r"[.!?;:\n–](?!\d)|,(?!\d)|\b(?:but|so|sondern|mais|sino|while|whereas|yet|however)\b|[-]\s|而是|，", re.IGNORECASE
)
_SUPPOSED = re.compile(
    r"(?i)\b(?:if|whether|suppose|supposing|assume|assuming|unless|imagine|pretend)(?: that)?(?: (?:the answer|it|this|that|x|we|you|one|option|choice|answer))*"
    r"(?: (?:is|was|were|be|picks?|chooses?|selects?|says?|gives?|gets?|had|has))?(?: the)?\s*=?[\s(\"'*]*\Z"
)
_AFTER = re.compile(
    r"(?i)[\"')\]*]{0,3}(?: (?!and\b|or\b|but\b|so\b)[a-z]+){0,2}? ?(?:"
    r"\b(?:is|are|was|were|be|seems?|looks?|would be|must be|sounds?)\s+(?:(?:also|all|both|clearly|obviously|definitely|certainly|simply|just|thus|therefore|"
    r"probably|of course)\s+){0,2}(?:not(?! only| just)|never|out\b|ruled out|eliminated|excluded|wrong|incorrect|false|untrue|impossible|too (?:small|big|large|low|high|much|many|few|little)|"
    r"(?:a|the) (?:\w+ )?(?:wrong|incorrect|trap|distractor|mistake|error|lie|myth)\b|[\w-]+,? (?:but|yet|and) (?:\w+ly )?(?:wrong|incorrect|false|not)\b|no(?:t| longer)? )|"
    r"\b(?:isn't|aren't|wasn't|weren't|isnt|can't be|cannot be|couldn't be|can not be|won't be|doesn't|does not|do not|don't|fails|ruled out|eliminated|excluded|ist falsch|ist nicht|"
    r"est faux|n'est pas|es falso|no es)|[々ァ-ヺー㐀-䶿一-鿿]{0,3}(?:ではない|ではありません|じゃない|じゃなく|ではなく|でなく|不对|不對|错|錯|不正确|是错|가 아니|이 아니|은 아니))"
)
_TAKEN_BACK = re.compile(
    r"(?i)[\"')\]*]{0,3}\s*(?:,\s*no\s?[:;,–-]|\?\s*[-–]?\s*(?:no|nope|wrong|never)\b(?! (?:doubt|question|wonder))|(?:[-–(]|\.{2,}|…)[-–.\s]*(?:no(?! (?:doubt|question|wonder|other|one)\b)|nope|wrong|incorrect|false|not (?:really|right|correct|true)|✗|❌)\b|[✗❌✘])"
)
_CORRECTION = re.compile(
    r"(?i)(?:\b(?:wait|actually|correction|corrected|sorry|mistake|mistaken|oops|rather|scratch that|i mean|make that|on second thought|second thoughts|let me recheck|"
    r"reconsider|reconsidering|apologies)\b|\bno,|\bno\. |\bhmm\b|\bor rather\b)"
)


def is_denied(text: str, position: int, words: re.Pattern[str] | None = None) -> bool:
    """Return whether the statement at `position` is denied or only supposed just before, in the same clause.

    Args:
        text: the text.
        position: where the statement begins.
        words: words that deny nothing here, because they are options themselves.
    """
    before = NO_DENIAL.sub(" ", text[max(0, position - 120) : position])
    if words is not None:
        before = words.sub("…", before)
    if _PREFIX.search(before) or _UNSPACED_NEGATION.search(before):
        return True
    if _ALL_BUT.search(before) or _CALLED_WRONG.search(before):
        return True
    clause = _CLAUSE.split(before)[-1]
    near = " ".join(clause.split()[-NEAR_WORDS:])
    return _NEGATION.search(near) is not None or _SUPPOSED.search(clause) is not None


def is_denied_after(text: str, end: int) -> bool:
    """Return whether what ends at `end` is called wrong or taken back just behind it."""
    behind = text[end : end + 80]
    return _AFTER.match(behind) is not None or _TAKEN_BACK.match(behind) is not None


def is_called_wrong(text: str, end: int) -> bool:
    """Return whether what ends at `end` is called wrong as an answer, not only said not to have a property."""
    found = re.match(
        r"(?i)[\"')\]*]{0,3}\s*(?:(?:is|are|was|were|would be)\s+(?:\w+ly\s+)?(?:wrong|incorrect|false|untrue|not (?:right|correct|true|it\b|so\b|the (?:\w+ )?answer))|"
        r"(?:isn't|wasn't|aren't) (?:right|correct|true|it\b|the (?:\w+ )?answer)|[々ァ-ヺー㐀-䶿一-鿿]{0,3}(?:ではない|ではありません|ではなく|でなく|じゃない|じゃなく|不对|不對|가 아니|이 아니))",
        text[end : end + 80],
    )
    return found is not None or _TAKEN_BACK.match(text[end : end + 40]) is not None


_GIVES_UP = re.compile(
    r"(?i)\b(?:i (?:do not|don't|dont|cannot|can't|can not|couldn't|could not)(?: really| even)? (?:know|tell|say|decide|answer)(?: (?:for sure|which|that|it|this))*|(?:i have )?no idea|"
    r"who knows|(?:it is |it's )?impossible to (?:say|tell)|hard to (?:say|tell))\W*\Z"
)


def gives_up(text: str) -> bool:
    """Return whether the text ends with the words that it cannot tell."""
    return _GIVES_UP.search(text[-120:]) is not None


_OFFERS_SEVERAL = re.compile(
    r"(?i)\bi (?:would |could |will )?also (?:say|pick|choose|guess|answer|name|offer)\b|\bin order of (?:likelihood|probability|confidence)\b|\b(?:my|possible|potential|candidate) answers\b"
    r"|\b(?:first|1st) (?:answer|guess|choice)\b[\s\S]{0,200}\b(?:second|2nd) (?:answer|guess|choice)\b|\b(?:answer|guess|option) \(?1\)?:[\s\S]{0,200}\b(?:answer|guess|option) \(?2\)?:"
)


def offers_several(text: str) -> bool:
    """Return whether the text says that it gives several answers."""
    return _OFFERS_SEVERAL.search(text[-2_000:]) is not None


def last_correction(text: str, begin: int = 0) -> int | None:
    """Return the end of the last words that correct what was said before, or None."""
    end = None
    for match in _CORRECTION.finditer(text, begin):
        end = match.end()
    return end
