"""Benchmark questions must not be trained on, neither as they are nor with a few words changed.

A trace's question is compared with each benchmark question by its sequences of three words (w-shingling, Broder 1997): it
nearly equals the benchmark question when most of that question's sequences are in it. So a question with a word exchanged, or
one that has been wrapped in other words, is found.

Two questions that ask about different things in the same words are different questions: "What is 12 times 7?" is fair practice
for "What is 13 times 8?", and the capital of France for that of Spain. So what a question is about (its numbers, and words
with a capital letter in the middle of a sentence) must all occur in the other for the two to be near.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WORDS = 3
"""In a row. Of two, common phrases ("what is") would weigh too much; of five, one exchanged word breaks a short question."""
NEAR = 0.6
"""Share of the benchmark question's sequences. An exchanged word spoils three of them: a question of ten words keeps 0.62."""

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+", re.UNICODE)
_SENTENCE_END = re.compile(r"[.!?:\n][\s\"'“”„(\[]*$")


@dataclass(frozen=True)
class Protected:
    """A question that must not be trained on."""

    name: str
    """How a person finds it: suite and id."""
    query: str


@dataclass(frozen=True)
class _Known:
    name: str
    words: tuple[str, ...]
    sequences: int
    about: frozenset[str]


class LeakCheck:
    """Looks up questions among the protected ones. Building and asking take time in proportion to the text."""

    def __init__(self, protected: Iterable[Protected]) -> None:
        self._exact: dict[tuple[str, ...], str] = {}
        self._known: list[_Known] = []
        self._where: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for one in sorted(protected, key=lambda question: (question.name, question.query)):
            words = _words(one.query)
            self._exact.setdefault(words, one.name)
            sequences = _sequences(words)
            for sequence in sequences:
                self._where[sequence].append(len(self._known))
            self._known.append(_Known(one.name, words, len(sequences), about(one.query)))

    def of(self, query: str) -> str | None:
        """Which protected question the query leaks, in a sentence; None when it leaks none."""
        words = _words(query)
        if words and words in self._exact:
            return f"It equals the benchmark question {self._exact[words]}."
        shared = Counter(number for sequence in _sequences(words) for number in self._where.get(sequence, ()))
        there = set(words)
        nearest = max(
            (
                (count / self._known[number].sequences, self._known[number].name)
                for number, count in shared.items()
                if count >= NEAR * self._known[number].sequences and self._known[number].about <= there
            ),
            default=None,
        )
        if nearest is None:
            return None
        return f"It nearly equals the benchmark question {nearest[1]}: {nearest[0]:.0%} of its sequences of words are in it."


def about(query: str) -> frozenset[str]:
    """What makes a question another one although its words are the same: its numbers and names, case folded."""
    found = set()
    text = unicodedata.normalize("NFC", query)
    for match in _TOKEN.finditer(text):
        word = match[0]
        begins = match.start() == 0 or _SENTENCE_END.search(text[: match.start()]) is not None
        if word[0].isdigit() or (word[0].isupper() and not begins and word != "I"):
            found.add(word.casefold())
    return frozenset(found)


def _words(query: str) -> tuple[str, ...]:
    return tuple(match[0].casefold() for match in _TOKEN.finditer(unicodedata.normalize("NFC", query)))


def _sequences(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[place : place + WORDS]) for place in range(len(words) - WORDS + 1)}
