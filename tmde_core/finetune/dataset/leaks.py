"""Benchmark questions must not be trained on, neither as they are nor with a few words changed.

A trace's question nearly equals a benchmark question when three things hold:

- Most pairs of neighbouring words of the benchmark question are in it (w-shingling, Broder 1997). So a question is found whose
  words were exchanged here and there, or that has been wrapped in others.
- What the benchmark question is about is all there: its numbers, operators and names. "What is 12 times 7?" is fair practice for
  "What is 13 times 8?", and the capital of Spain for that of France.
- Hardly any other word that carries meaning is missing. The boiling point of iron is not that of water, although six words of
  seven are the same. In a long question one word may be another: there it rarely makes it a different one.

Nor may a benchmark question be trained on without its instructions ("What is 3 + 4?" of "What is 3 + 4? Write the whole sum."): each of
its sentences that end in a question mark is compared too, and a trace's question that is a part of it is found. Where it is not
clear, a trace is left out: one example less costs little, a leak makes the benchmark lie.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

NEAR = 0.6
"""Share of the benchmark question's pairs. A word exchanged spoils two of them at the most, so a question of eleven words
keeps 0.6 when two are exchanged, one of six when one is. Questions of one kind that share less are told apart by their words anyway."""
PART = 0.9
"""Share of the trace's own pairs that are in a benchmark question it is a part of. More room would let in questions that only
begin alike: they share all pairs but the last."""
PART_WORDS = 4
"""Shorter ones ("Why is that?") are parts of anything."""
MEANINGFUL_TO_A_MISSING_ONE = 6
"""Of so many words that carry meaning, one may be missing."""

_TOKEN = re.compile(
    r"""
    \d+(?:[.,:]\d+)*                                             # 12 or 3.5 or 9:15
    | [\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]     # written without blanks between words: each sign counts
    | [^\W\d_]+
    | [+=<>×÷·^√≤≥≠±%]+
    | (?<=\d)!
    | (?<![^\W\d_])(?:[-−–*/])(?=\s?[\d(])                       # 12 - 7 and -3, but neither COVID-19 nor either/or
    """,
    re.VERBOSE,
)
_QUESTION = re.compile(r"[^.!?\n]*(?:[.!](?!\s)[^.!?\n]*)*[?？؟]")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SAME_OPERATORS = str.maketrans("−–×·÷", "--**/")
_OPENING = " \t\r\"'“”„‘’«»([*_#>"
_FUNCTION_WORDS = """
    a an the this that these those it its there here i me my you your we us our he she they them his her their
    is are was were be been being am do does did doing have has had will would can could shall should may might must
    of in on at to for from by with about into between as and or but if then than so s t re ll
    what which who whom whose when where why how please tell give say just only also
"""
"""English words that carry little meaning; in other languages every word counts, and so a paraphrase must keep more of them."""
_LITTLE = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Protected:
    """A question that must not be trained on."""

    name: str
    """How a person finds it: suite and id."""
    query: str


@dataclass(frozen=True)
class _Known:
    """A protected question, or a sentence of it that asks."""

    name: str
    pairs: int
    about: Counter[str]
    meaning: frozenset[str]


class LeakCheck:
    """Looks up questions among the protected ones. Building and asking take time in proportion to the text."""

    def __init__(self, protected: Iterable[Protected]) -> None:
        self._exact: dict[Sequence[str], str] = {}
        self._known: list[_Known] = []
        self._where: dict[tuple[str, str], list[int]] = defaultdict(list)
        for one in sorted(protected, key=lambda question: (question.name, question.query)):
            words, told = _words(one.query), about(one.query)
            self._exact.setdefault(_form(one.query, words), one.name)
            self._learn(one.name, words, told)
            for sentence in _QUESTION.findall(one.query):
                asked = _words(sentence)
                if PART_WORDS <= len(asked) < len(words):
                    self._learn(one.name, asked, told)

    def _learn(self, name: str, words: tuple[str, ...], told: Counter[str]) -> None:
        pairs = set(pairwise(words))
        for pair in pairs:
            self._where[pair].append(len(self._known))
        self._known.append(_Known(name, len(pairs), told, frozenset(words) - told.keys() - _LITTLE))

    def of(self, query: str) -> str | None:
        """Which protected question the query leaks, in a sentence; None when it leaks none."""
        words = _words(query)
        if (name := self._exact.get(_form(query, words))) is not None:
            return f"It equals the benchmark question {name}."
        pairs = set(pairwise(words))
        shared = Counter(number for pair in pairs for number in self._where.get(pair, ()))
        there = Counter(words)
        nearest = max(
            (
                (max(count / known.pairs, count / len(pairs)), known.name, count / known.pairs, count == len(pairs))
                for number, count in shared.items()
                if _near(known := self._known[number], count, there)
                or (count >= PART * len(pairs) and len(words) >= PART_WORDS and known.about <= there)
            ),
            default=None,
        )
        if nearest is None:
            return None
        _, name, share, inside = nearest
        if share < NEAR or inside:
            return f"It is a part of the benchmark question {name}."
        return f"It nearly equals the benchmark question {name}: {share:.0%} of what that asks, word by word, is in it."


def _near(known: _Known, shared: int, there: Counter[str]) -> bool:
    if shared < NEAR * known.pairs or not known.about <= there:
        return False
    missing = sum(word not in there for word in known.meaning)
    return missing * MEANINGFUL_TO_A_MISSING_ONE <= len(known.meaning)


def about(query: str) -> Counter[str]:
    """What makes a question another one although its words are the same: how often which numbers, operators and names occur.

    A name is a word with a capital letter that does not begin a sentence. Case is folded.
    """
    found: Counter[str] = Counter()
    text = unicodedata.normalize("NFC", query)
    for match in _TOKEN.finditer(text):
        word = match[0]
        named = word[0].isupper() and word != "I" and not _begins_sentence(text, match.start())
        if named or not word[0].isalpha():
            found[_folded(word)] += 1
    return found


def _begins_sentence(text: str, place: int) -> bool:
    while place and text[place - 1] in _OPENING:
        place -= 1
    return not place or text[place - 1] in ".!?:;…\n"


def _words(query: str) -> tuple[str, ...]:
    return tuple(_folded(match[0]) for match in _TOKEN.finditer(unicodedata.normalize("NFC", query)))


def _folded(word: str) -> str:
    return word.replace(",", "") if _THOUSANDS.fullmatch(word) else word.casefold().translate(_SAME_OPERATORS)


def _form(query: str, words: tuple[str, ...]) -> Sequence[str]:
    """That in which equal questions are equal: their words, or, where there are none, what there is."""
    return words or unicodedata.normalize("NFC", query).strip()
