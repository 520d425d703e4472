"""Find the one of some options that an answer commits to. Several named options, and denied ones, are no commitment."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from tmde_bench_default.checks.committed import find_number, parse_number
from tmde_bench_default.checks.reading.denial import (
    NO_DENIAL,
    gives_up,
    is_denied,
    is_denied_after,
    last_correction,
    offers_several,
)
from tmde_bench_default.checks.reading.folding import BOX, BOX_END, flatten_raised, fold_signs, plain
from tmde_bench_default.checks.reading.marks import Mark, final_parts
from tmde_bench_default.checks.reading.numbers import is_unspaced
from tmde_bench_default.checks.sums import false_comparison

MAX_MENTIONS = 500
"""At most this many mentions of options are read, from the end of the text."""

_REST_OF_LIST = re.compile(
    r"(?i)[\"')\]*]{0,3}\s*(?:,\s*(?:and\b|or\b)?|and\b|or\b|nor\b|&|/)\s*(?:option\s|choice\s)?[\"'(\[*]{0,3}"
)
_WORDS_A = re.compile(
    r"(?i)\s*(?:\Z|[^\x00-\x7f]|(?-i:[B-Z]\b)|[.,;:!?()\]}/&+\n–\"*]|-\s|['\"]\s|(?:because|since|as|is|are|it|and|or|but|not|nor|was|were|would|will|can|could|may|might|have|has|seems|fits|wins|follows|applies|holds|matches|describes|looks|makes|must|should|for|rather|among|"
    r"with|if|over|instead|than|then|too|from|ist|und|oder|option|choice|here|best|from)\b(?! (?:good|great|nice|big|small|bad)\b))"
)
"""What may follow the letter A where it is an option, and not the article."""

_NAMED = re.compile(r"(?i)\b(?:option|choice|letter|answer)\s+[\"'(\[*]{0,3}\Z")
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|Fig)\.\s\Z")
_CHOOSES = re.compile(
    r"(?i)(?:\b(?:lean(?:ing)? (?:to|towards?)|vote|(?:looks|seems|sounds) like|choose|chose|choosing|pick|picked|select|selected|option|choice|letter|answer|answers|go(?:ing)? (?:with|for)|went (?:with|for)|vote for|opt for|opted for|prefer|"
    r"settle on|say|answer would be|answer is|correct is|right is|it is|it's|it must be|is option|is choice|would be|should be|is|be|es|est|ist|é|è|sarà|antwort|wähle|nehme|elijo|choisis)"
    r"|选择?|選擇?|选项|是|：)\s*[:=]?\s*[\"'(\[*]{0,3}\Z"
)
_STRONG_BEFORE = re.compile(
    r"(?i)(?:\b(?:i|we|i'd|i'll|i would|i will|i'm|my|so|therefore)\s+(?:\w+\s+){0,2}?(?:choose|chose|pick|picked|select|selected|go(?:ing)? (?:with|for)|went (?:with|for)|vote for|opt for|prefer|settle on|say)|"
    r"\b(?:the|my) (?:final |correct |right |best )*(?:answer|option|choice|one|solution) (?:is|must be|would be|should be)|\bcorrect (?:answer|option|choice) (?:is|:)|"
    r"\bit (?:is|must be)|\bit's|\bi (?:wähle|nehme))\s*:?\s*(?:(?:option|choice|letter|answer)\s+)?[\"'(\[*]{0,3}\Z"
)
_STRONG_AFTER = re.compile(
    r"(?i)[\"')\]*]{0,3}\s*(?:is|are|must be|would be|seems|looks|:)\s+(?:(?:clearly|therefore|thus|definitely|surely|indeed|obviously)\s+)?(?:the\s+)?"
    r"(?:correct|right|true|best|answer|my choice|my answer|the one)\b|[\"')\]*]{0,3}\s*[:.]?\s*(?:✓|✔|✅)|\s+it is\b(?! (?:not|wrong|false))"
)
_CONCLUDES = re.compile(
    r"(?i)(?:\b(?:so|therefore|thus|hence|consequently|which (?:makes|means|leaves)|this (?:makes|means)|that (?:makes|means|leaves)|leaving)\b[^.?!;\n]{0,60}?\s|[=→]\s?)"
    r"[\"'(\[*]{0,3}\Z"
)
"""What leads to the last option of an answer that reasons with others: so it will be Saturday."""
_FROM_AMONG = re.compile(
    r"(?i)(?:\b(?:if i (?:had|have) to (?:choose|pick|decide) )?\b(?:between|among|amongst|out of|of|from|compar(?:ed|ing)(?: with| to)?)\s+"
    r"(?:(?:the )?(?:options?|choices?|letters?) )?)\Z"
)
_AMONG_REST = re.compile(
    r"(?i)[\"')\]*]{0,3}\s*(?:,\s*(?:and|or)?|and|or|with|to|&|/)\s*(?:option |choice )?[\"'(\[*]{0,3}"
)
_ONLY_AN_OPTION = re.compile(
    r"(?i)[\"')\]*]{0,3}\s+(?:is|was)\s+(?:just |only |also |but )?(?:an?|one|the (?!best|right|correct|only|final|better|most|logical|true|obvious|one|answer)\w+)"
    r"(?: (?:possible|valid|plausible|good|of the))? (?:option|options|possibility|candidate|choice|choices|letter|guess|grade|vitamin)\b(?! (?:that|which|i)\b)"
)
_BESIDE = re.compile(
    r"(?i)\b(?:sometimes|rarely|seldom|occasionally|half|partly|partially|almost|nearly|(?:rhymes|starts|begins|ends) with|after|before|opposite(?: of| to)?|contrary of|next to|(?:left|right) of|behind|in front of|beside|besides|ask|unlike|near|close to|outside|similar to|followed by|following|preceding|preceded by|"
    r"until|(?:every|any|all)(?:one|thing|body|where)?(?: (?!but)[a-z]{3,8})? but|no(?:body|thing|where| one) but)\s+(?:the\s+)?[\"'(\[*]{0,3}\Z"
)
"""What makes an option a place to look from, and not the one that is chosen: the day after Saturday."""
_LEFT_OPEN = re.compile(
    r"(?i)[\"')\]*]{0,3}\s*,?\s*(?:\(?alternatively\b|or (?:not|none|whatever|failing that|if not|neither|else|maybe|perhaps|possibly|any|another|other|some(?:thing|one)?)\b|unless\b|and (?:(?:all|any|each|every one) (?:of )?)?(?:the )?(?:others?|rest|remaining)\b"
    r"(?! (?:options? |ones? |choices? )?(?:are|is|can|do|does|don't|have|seem))|as well as\b|(?:and so (?:on|forth)|etc)\b|[.…]{2,}\s*or\b|(?:is|are) (?:also )?(?:right|correct|true)[^.?!\n]{0,20}\band so (?:is|are)\b)|\s?[♭♯]"
)
_OVER_ANOTHER = re.compile(
    r"(?i)[\"')\]*]{0,3}\s*,?\s*(?:over|rather than|instead of|in place of|and not|but not|not)\s+(?:option |choice )?[\"'(\[*]{0,3}"
)
_OWNED = re.compile(
    r"(?i)'s\s+(?:\w+\s+)?(?:(?:step|half|grand|god)?-?(?:sister|brother|son|daughter|mother|father|mum|mom|dad|parents?|child|children)|wife|husband|friend|partner|boss|"
    r"uncle|aunt|cousin|niece|nephew|twin|teacher|student|pupil|neighbou?r|colleague|rival|successor|predecessor|opponent|assistant|classmate|roommate)s?\b"
)
_PERSON = re.compile(
    r"\.\s[A-Z][a-z]+ (?:says|said|thinks|thought|wrote|writes|claims|claimed|believes|chose|chooses|picks|picked)\b"
)
_FAILS = re.compile(
    r"(?i)[\"')\]*]{0,3}\s+(?:(?:has|have|had|gives|gets|uses|contains|makes|misses)\s+(?:(?:the|a|an)\s+)?(?:\w+ )?(?:wrong|incorrect|false|opposite|mistakes?|errors?|flaws?)\b|"
    r"(?:is|are|was)\s+(?:\w+ly )?(?:(?:inferior to|worse than|less (?:likely|plausible|good|accurate|convincing))|(?:half|partly|partially|almost|nearly|only)[ -](?:right|true|correct))\b|loses\b)"
)
_VERDICT_YES = re.compile(r"(?i)[)\]]?\s*[:.)-]\s*yes\b")
_VERDICT_NO = re.compile(
    r"(?i)[)\]*\"']{0,2}\s*[):.–-]\s*(?:is |this is )?(?:false|wrong|incorrect|untrue|no|nope|not (?:correct|true|right)|✗|❌|✘)(?=\s*(?:[.;,]|\Z|\n))"
)
_CLOSED = re.compile(r"[)\]*\"'”]")
_SENTENCE = re.compile(r"[.!?\n](?=\s|\Z)")
_LISTED = re.compile(r"(?i)[)\]]?\s*(?:,\s*(?:and\b|or\b|nor\b)?|and\b|or\b|nor\b)\s*[(\[]?")
_EXPLAINS = re.compile(
    r"(?i)[.!\s*]+(?:explanation|reason|reasoning|rationale|justification|why|because|here is why|here's why)\b"
)
_BECAUSE = re.compile(r"(?i)\W*(?:because|since|as(?! well)|given|weil|denn|parce)\b")


_NEGATIONS = frozenset({"no", "not", "never", "none", "false", "wrong", "incorrect", "neither", "nein", "non"})
_AFTER_NO = re.compile(
    r"(?i)(?!\s?\.\s?\d)\s*(?:\Z|[^\w\s]|(?:yes|because|since|as|and|or|but|it|they|he|she|we|you|i|this|that|there|if|is|was|would|here|und|oder|weil|for|to)\b)"
)
"""What may follow "no" where it is an answer. In "no cat" it is none."""

_BEFORE_LETTER = re.compile(
    r"(?i)(?:(?-i:\b[A-Z]\s\Z)|(?:\A|[.!?;:,\n([{/&+*\"'$–\ue000-]\s*|\s-\s|[^\x00-\x7f]|\b(?:that|think|guess|get|got|leaves|leaving|leaves us with|remains|take|plus|as|eliminat\w+|exclud\w+|reject\w*|discard\w*|out|thus|so|therefore|hence|believe|not|but|and|or|nor|either|neither|both|between|"
    r"among|amongst|comparing|out of|alternatively|options|choices|letters|answers|except|if|than|versus|vs|because|since|then|also|only|with|unlike|instead of|of|maybe|perhaps|else|say|says|said|probably|possibly|surely|definitely|clearly|obviously|just|"
    r"simply|rather|against|sondern|nicht|und|oder)\s)[\s\"'(\[*]{0,3}\Z)"
)
"""What may stand before a letter that is an option. In "vitamin B" it is a part of a name."""


class _Said(NamedTuple):
    """One mention of an option."""

    start: int
    end: int
    option: str


def find_option(answer: str, options: Sequence[str]) -> tuple[str | None, str]:
    """Return the option that an answer commits to, or None and the reason."""
    folded = fold_signs(answer)
    if offers_several(folded):
        return None, "It offers several answers."
    if gives_up(folded):
        return None, "It says that it cannot tell."
    if (false := false_comparison(folded)) is not None:
        return None, f"It says {false}, which is false."
    numeric = {option: parse_number(fold_signs(option)) for option in options}
    if all(numeric.values()):
        told = _Options(options).of_leading(folded.replace(BOX, " ").replace(BOX_END, " "))
        if told is not None:
            return told, ""
        number, reason = find_number(answer)
        if number is None:
            return None, reason
        for option, one in numeric.items():
            if one is not None and one.value == number.value and one.percent == number.percent:
                return option, ""
        return None, "It settles on none of the options."
    return _Options(options).choose(flatten_raised(folded))


class _Options:
    """The options, and where a text mentions them."""

    def __init__(self, options: Sequence[str]) -> None:
        self._by_name = {plain(option): option for option in options if plain(option)}
        names = sorted(self._by_name, key=len, reverse=True)
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        words = [re.escape(name) for name in names if name in _NEGATIONS]
        self._negations = re.compile(rf"(?i)\b(?:{'|'.join(words)})\b") if words else None

    def choose(self, text: str) -> tuple[str | None, str]:
        """Return the option that the folded text commits to, or None and the reason."""
        marks = final_parts(text)
        for mark in reversed(marks):
            found, reason = self._of_part(mark.text, marked=True)
            if found is None and reason:
                return None, reason
            if found is not None:
                if self._contradicts(found, text, marks, mark):
                    return None, "It names more than one final answer."
                rest = text[mark.begin :]
                return self._unless_left_open(*self._unless_corrected(found, rest), rest)
        prose = text.replace(BOX, " ").replace(BOX_END, " ")
        found, reason = self._of_part(prose, marked=False)
        if found is None:
            return None, reason or "It settles on none of the options."
        return self._unless_left_open(*self._unless_corrected(found, prose), prose)

    def _unless_left_open(self, found: str | None, reason: str, text: str) -> tuple[str | None, str]:
        if found is not None and any(
            one.option == found and _LEFT_OPEN.match(text[one.end : one.end + 60])
            for one in self._said(text, loose=True)
        ):
            return None, "It leaves its choice open."
        return found, reason

    def _contradicts(self, found: str, text: str, marks: Sequence[Mark], last: Mark) -> bool:
        for mark in marks:
            if mark.start >= last.start:
                break
            other, _ = self._of_part(text[mark.begin : min(last.start, mark.begin + len(mark.text))], marked=True)
            if other not in {None, found} and last_correction(text[mark.begin : last.start]) is None:
                return True
        leading = self.of_leading(text) if last.start > 0 else None
        return leading not in {None, found} and last_correction(text[: last.start]) is None

    def _unless_corrected(self, found: str, rest: str) -> tuple[str | None, str]:
        first = next((one for one in self._said(rest) if one.option == found), None)
        correction = last_correction(rest, first.end) if first else None
        if correction is not None and any(
            one.option != found and not self._is_denied(rest, one)
            for one in self._said(rest)
            if one.start >= correction
        ):
            return None, "It takes its choice back and names another one."
        return found, ""

    def of_leading(self, text: str) -> str | None:
        """Return the option that the text begins with, if the text then ends or gives a reason.

        "Yes, because …" and "B) …" count; "B, C" does not.
        """
        begin = len(text) - len(text.lstrip(" \t\n*_\"'`([{$#>"))
        said = next((one for one in self._said(text[:400], loose=True) if one.start == begin), None)
        if said is None:
            return None
        rest = text[said.end :]
        if not re.match(r"[*_\"'`)\]}$]*\s*(?:\Z|[.,;:!)\n–]|- |because\b|since\b|as\b(?! well)|\()", rest):
            return None
        if self._is_denied(text, said):
            return None
        first = _SENTENCE.split(rest.lstrip(".):*_\"'`\n ]}$"), maxsplit=1)[0]
        others = [
            one
            for one in self._said(rest[: len(rest) - len(rest.lstrip(".):*_\"'`\n ]}$")) + len(first)], loose=True)
            if one.option != said.option and not self._is_denied(rest, one)
        ]
        if _BECAUSE.match(rest) or _EXPLAINS.match(rest):
            return said.option
        if others:
            near = rest[: others[0].start]
            joins = re.fullmatch(r"(?i)[\W]*(?:and|or|und|oder|/|&|maybe|perhaps|possibly|\s|even)*[\W]*", near)
            if joins or len(said.option) == 1:
                return None
        following = [one.strip(" \t*_\"'`().,!?") for one in _SENTENCE.split(rest)[:4]]
        if any(plain(one) in self._by_name and self._by_name[plain(one)] != said.option for one in following if one):
            return None
        return said.option

    def _of_part(self, part: str, *, marked: bool) -> tuple[str | None, str]:
        if (leading := self.of_leading(part)) is not None:
            return leading, ""
        said = self._affirmed(part, self._chosen_from(part, self._said(part, loose=marked)))
        strong = {
            one.option
            for one in said
            if _STRONG_BEFORE.search(part[max(0, one.start - 60) : one.start])
            or _STRONG_AFTER.match(part[one.end : one.end + 60])
            or (len(one.option) == 1 and _VERDICT_YES.match(part[one.end : one.end + 12]))
        }
        if len(strong) == 1 and not self._is_hedged(part, said, next(iter(strong))):
            return next(iter(strong)), ""
        named = {one.option for one in said}
        if len(named) > 1 and (last := self._concluded(part, said)) is not None:
            return last, ""
        if len(named) > 1:
            return None, f"It names several of the options: {', '.join(sorted(named))}."
        return next(iter(named), None), ""

    @staticmethod
    def _chosen_from(part: str, said: Sequence[_Said]) -> list[_Said]:
        """Return the mentions without those of a choice that is only introduced: between A and B, I take B."""
        kept: list[_Said] = []
        group: list[_Said] = []
        for one in said:
            before = part[max(0, one.start - 60) : one.start]
            if group and _AMONG_REST.fullmatch(part, group[-1].end, one.start):
                group.append(one)
                # "And" or "or" stands before the last one.
                ends = re.search(r"(?i)\b(?:and|or|with|to)\b", part[group[-2].end : one.start]) is not None
            elif _FROM_AMONG.search(before):
                group, ends = [one], re.search(r"(?i)compar\w+ (?:with|to)\s\S{0,3}\Z", before) is not None
            else:
                group, ends = [], False
                kept.append(one)
            if ends:
                group = []
            elif group and not _AMONG_REST.match(part, one.end):  # only one: the city of Paris
                kept += group
                group = []
        return kept + group

    def _concluded(self, part: str, said: Sequence[_Said]) -> str | None:
        """Return the option of a conclusion that ends the answer, if no other option is said there."""
        last = said[-1]
        begun = _CONCLUDES.search(part[max(0, last.start - 100) : last.start])
        if begun is None or self._is_hedged(part, said, last.option):
            return None
        begin = max(0, last.start - 100) + begun.start()
        inside = {one.option for one in said if one.start >= begin}
        return last.option if len(inside) == 1 else None

    def _affirmed(self, part: str, said: Sequence[_Said]) -> list[_Said]:
        """Return the mentions that are not denied. A denial before a list, as in "not A, B or C", holds for all of it."""
        kept: list[_Said] = []
        denied_to = -1  # where the last mention of a denied list ends
        for one in said:
            over = _OVER_ANOTHER.fullmatch(part, kept[-1].end, one.start) if kept else None
            is_listed = over is not None or (
                denied_to >= 0 and _LISTED.fullmatch(part, denied_to, one.start) is not None
            )
            if is_listed or is_denied(part, one.start, self._negations):
                denied_to = one.end
            else:
                denied_to = -1
                if not self._is_denied(part, one):
                    kept.append(one)
        return kept

    def _is_hedged(self, part: str, said: Sequence[_Said], option: str) -> bool:
        """Return whether the option stands side by side with another one: A or B, A and B."""
        for one, other in pairwise(said):
            if option in {one.option, other.option} and one.option != other.option:
                between = part[one.end : other.start]
                if (
                    len(between) < 40
                    and re.fullmatch(
                        r"(?i)[\W]*(?:and|or|und|oder|maybe|perhaps|possibly|even|also|both|option|choice|\s|,|/|&)*[\W]*",
                        between,
                    )
                    and "." not in between
                ):
                    return True
        return False

    def _is_denied(self, text: str, one: _Said) -> bool:
        if is_denied(text, one.start, self._negations) or is_denied_after(text, one.end):
            return True
        behind = text[one.end : one.end + 80]
        if (
            _ONLY_AN_OPTION.match(behind)
            or _OWNED.match(behind)
            or _BESIDE.search(text[max(0, one.start - 60) : one.start])
        ):
            return True
        if _FAILS.match(behind):
            return True
        if len(one.option) == 1 and (_PERSON.match(behind) or _VERDICT_NO.match(behind)):
            return True
        end = _SENTENCE.search(text, one.end, one.end + 200)
        if end is not None and end[0] == "?":
            return True
        # "A, C and D are wrong": the denial behind a list holds for all of it.
        at = one.end
        for _ in range(len(self._by_name)):
            step = _REST_OF_LIST.match(text, at)
            following = self._names.match(text.casefold(), step.end()) if step else None
            if following is None:
                return False
            at = following.end()
            if is_denied_after(text, at):
                return True
        return False

    def _said(self, text: str, *, loose: bool = False) -> list[_Said]:
        """Return where the text mentions options as words of their own.

        Args:
            text: folded text.
            loose: whether small letters and a letter that is also a word count wherever they stand.
        """
        low = text.casefold()
        if len(low) != len(text):  # casefolding made it longer: the places of the two texts must agree
            text = low
        found: list[_Said] = []
        idle = [match.span() for match in NO_DENIAL.finditer(low)][-100:] if self._negations else []
        for match in deque(self._names.finditer(low), maxlen=MAX_MENTIONS):
            option = self._by_name[match[0]]
            if match[0] == "no" and not _AFTER_NO.match(low, match.end()):
                continue
            if idle and any(begin <= match.start() < end for begin, end in idle):
                continue
            if self._stands_alone(low, match.start(), match.end()) and (
                len(match[0]) > 1 or not match[0].isalpha() or self._is_letter(text, match.start(), loose)
            ):
                found.append(_Said(match.start(), match.end(), option))
        return found

    @staticmethod
    def _stands_alone(text: str, start: int, end: int) -> bool:
        before, after = text[start - 1 : start], text[end : end + 1]
        first, last = text[start], text[end - 1]
        if (before and _joins(before, first)) or (after and _joins(last, after)):
            return False
        if (after in {"+", "#"} and last.isalnum()) or (
            last.isdigit() and re.match(r"[.,]\d|/\d|%", text[end : end + 2])
        ):
            return False
        return not (first.isdigit() and re.search(r"(?:\d[.,/]|(?<![^\W_])-)\Z", text[max(0, start - 2) : start]))

    def _is_letter(self, text: str, start: int, loose: bool) -> bool:
        """Return whether a letter is meant as an option, and not as a word or a part of a name."""
        letter, before, after = text[start], text[max(0, start - 40) : start], text[start + 1 : start + 40]
        if (before[-1:] in {"'", "-", "&", "/", "."} and before[-2:-1].isalnum()) or re.match(r"['&./-]\w", after):
            return False
        enclosed = before[-1:] in {"(", "[", "*", '"', "$"} or before.endswith(BOX)
        if enclosed and after[:1] and (_CLOSED.match(after) or after[0] == before[-1]):
            return True
        at_start = not before.strip(" \t*_\"'`([{$#>\n") or before.rstrip(" \t*_\"'`([{$#>").endswith("\n")
        if at_start and re.match(r"[)\].:,*]|\s*\Z|\s*\n", after):
            return True
        if after.startswith(")") and not before[-1:].isalnum() and "(" not in before[-20:]:
            return True
        if not _WORDS_A.match(after) and not _NAMED.search(before):
            return False
        if _TITLE.search(before):
            return False
        if after[:1] in {"-", "+"} and not after[1:2].strip():
            return False
        if letter.isupper() and not (
            _BEFORE_LETTER.search(before) or _CHOOSES.search(before) or _STRONG_AFTER.match(after)
        ):
            return False
        if letter.isupper():
            return letter != "I" or (
                bool(_CHOOSES.search(before)) and bool(re.match(r"\s*(?:\Z|[.,;:!)\n]|because\b)", after))
            )
        chosen = re.search(
            r"(?i)\b(?:option|choice|letter|answer(?: is)?|choose|pick|select|chose)\s*:?\s*[\"'(\[*]*\Z", before
        )
        if letter not in "ai" and _STRONG_AFTER.match(after):
            return True
        return bool(chosen) or (
            loose and not before.strip(" \t*_\"'`([{$#>).,") and bool(re.match(r"\W|\Z", after)) and letter not in "ai"
        )


def _joins(one: str, other: str) -> bool:
    """Return whether two neighbouring characters belong to one word."""
    if not (one.isalnum() or one == "_") or not (other.isalnum() or other == "_"):
        return False
    return not (is_unspaced(one) or is_unspaced(other)) or (one.isdigit() and other.isdigit())
