"""Finds traces whose questions equal or nearly equal benchmark questions. Such traces must not be trained on.

A trace's question nearly equals a benchmark question if three conditions hold:

- It contains most pairs of neighbouring words of the benchmark question (w-shingling, Broder 1997). This finds
  questions in which some words were exchanged, and questions that were embedded in other text.
- It contains everything that the benchmark question is about: the numbers, operators and names. "What is 12 times 7?"
  is allowed for "What is 13 times 8?", and the capital of Spain for that of France.
- Hardly any other meaningful word is missing. The boiling point of iron is not that of water, although six of seven
  words are the same. In a long question one word may differ, because it rarely changes the question.

A benchmark question without its instructions must not be trained on either, such as "What is 3 + 4?" from "What is 3 +
4? Write the whole sum.". Therefore each sentence of a benchmark question that ends with a question mark is compared as
well, and a trace's question that is part of a benchmark question is found too. In unclear cases a trace is left out:
one example less costs little, but a leak makes the benchmark's result wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tmde_core.finetune.dataset.same_question import fold_characters, normalise_question

NEAR = 0.6
"""The required share of the benchmark question's word pairs. Exchanging one word changes at most two pairs. A
question of eleven words keeps 0.6 if two words are exchanged, and a question of six words if one is. Questions of
the same kind that share fewer pairs are distinguished by their words anyway."""
PART = 0.9
"""The required share of the trace's own word pairs that occur in the benchmark question, if the trace's question is
a part of it. A lower value would also match questions that only begin alike: they share all pairs except the
last."""
PART_WORDS = 4
"""The fewest words of a part. Shorter questions ("Why is that?") are parts of many questions."""
MEANINGFUL_TO_A_MISSING_ONE = 6
"""For each group of this many meaningful words, one word may be missing."""

_TOKEN = re.compile(
    r"""
    \d+(?:[.,:]\d+)*                                             # 12 or 3.5 or 9:15
    | [\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]     # written without blanks between words: each sign counts
    | [^\W\d_]+
    | [+=<>×÷·^√≤≥≠±%]+
    | (?<=\d)!
    | (?<=[^\W\d_])\#                                            # C# is not C
    | (?<![^\W\d_])(?:[-−–*/])(?=\s?[\d(])                       # 12 - 7 and -3, but neither COVID-19 nor either/or
    """,
    re.VERBOSE,
)
_QUESTION = re.compile(r"[^.!?\n]*(?:[.!](?!\s)[^.!?\n]*)*[?]")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SAME_OPERATORS = str.maketrans("−–×·÷", "--**/")
_LONG_DASHES = str.maketrans("—―", ",,")
"""Long dashes part sentences. The folded form, a hyphen, would read as a minus before a number."""
_OPENING = " \t\r\"'([*_#>"
_FUNCTION_WORDS = """
    a an the this that these those it its there here i me my you your we us our he she they them his her their
    is are was were be been being am do does did doing have has had will would can could shall should may might must
    of in on at to for from by with about into between as and or but if then than so s t re ll
    what which who whom whose when where why how please tell give say just only also
"""
"""English words with little meaning. In other languages every word counts, so a paraphrase must keep more words."""
_LITTLE = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Protected:
    """A question that must not be trained on."""

    name: str
    """The suite and id, for people to find the question."""
    query: str


@dataclass(frozen=True)
class _Known:
    """A protected question, or one of its sentences that ends with a question mark."""

    name: str
    pairs: int
    about: Counter[str]
    meaning: frozenset[str]


class LeakCheck:
    """Compares questions with the protected questions. Building and querying take time proportional to the text."""

    def __init__(self, protected: Iterable[Protected]) -> None:
        self._same: dict[str, str] = {}
        self._exact: dict[Sequence[str], str] = {}
        self._known: list[_Known] = []
        self._where: dict[tuple[str, str], list[int]] = defaultdict(list)
        for one in sorted(protected, key=lambda question: (question.name, question.query)):
            words, told = _words(one.query), extract_subject(one.query)
            self._same.setdefault(normalise_question(one.query), one.name)
            self._exact.setdefault(_form(one.query, words), one.name)
            self._learn(one.name, words, told)
            for sentence in _QUESTION.findall(_shown(one.query)):
                asked = _words(sentence)
                if PART_WORDS <= len(asked) < len(words):
                    self._learn(one.name, asked, told)

    def _learn(self, name: str, words: tuple[str, ...], told: Counter[str]) -> None:
        pairs = set(pairwise(words))
        for pair in pairs:
            self._where[pair].append(len(self._known))
        self._known.append(_Known(name, len(pairs), told, frozenset(words) - told.keys() - _LITTLE))

    def of(self, query: str) -> str | None:
        """Return which protected question the query leaks, in a sentence; None if it leaks none."""
        words = _words(query)
        name = self._same.get(normalise_question(query), self._exact.get(_form(query, words)))
        if name is not None:
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


def extract_subject(query: str) -> Counter[str]:
    """Return how often each number, operator and name occurs in a question.

    These distinguish questions whose words are otherwise the same. A name is a word that starts with a capital letter
    and does not begin a sentence. Upper and lower case are treated as equal.
    """
    found: Counter[str] = Counter()
    text = _shown(query)
    for match in _TOKEN.finditer(text):
        word = match[0]
        named = word[0].isupper() and word != "I" and not _begins_sentence(text, match.start())
        if named or not word[0].isalpha():
            found[_folded(word)] += 1
    return found


def _shown(query: str) -> str:
    return fold_characters(query.translate(_LONG_DASHES))


def _begins_sentence(text: str, place: int) -> bool:
    while place and text[place - 1] in _OPENING:
        place -= 1
    return not place or text[place - 1] in ".!?:;…\n"


def _words(query: str) -> tuple[str, ...]:
    return tuple(_folded(match[0]) for match in _TOKEN.finditer(_shown(query)))


def _folded(word: str) -> str:
    return word.replace(",", "") if _THOUSANDS.fullmatch(word) else word.casefold().translate(_SAME_OPERATORS)


def _form(query: str, words: tuple[str, ...]) -> Sequence[str]:
    """Return the value that is equal for equal questions: the words, or the text if there are no words."""
    return words or normalise_question(query)
