"""Makes readable names for training runs: the date, and a word or two of what the run learns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from tmde_core.lora.naming import date_words
from tmde_core.records.benchmark import DOMAINS

MAX_TOPIC = 32
"""Characters. A longer topic would be cut off in lists."""
COMMON = 0.3
"""The share of the questions in which a word must occur to describe all of them."""
MAIN = 0.5
"""The share of the traces that must have a domain for the domain to describe all of them."""
MIXED = "mixed questions"

_WORD = re.compile(r"[^\W\d_]{2,}")
_STOP = frozenset(
    [
        "a",
        "about",
        "all",
        "am",
        "an",
        "and",
        "answer",
        "any",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "each",
        "else",
        "explain",
        "find",
        "for",
        "from",
        "get",
        "give",
        "had",
        "has",
        "have",
        "he",
        "her",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "let",
        "like",
        "make",
        "many",
        "may",
        "me",
        "more",
        "most",
        "much",
        "my",
        "name",
        "no",
        "not",
        "of",
        "on",
        "one",
        "only",
        "or",
        "our",
        "out",
        "please",
        "question",
        "said",
        "say",
        "she",
        "should",
        "so",
        "some",
        "tell",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "to",
        "us",
        "use",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "word",
        "words",
        "would",
        "write",
        "you",
        "your",
    ]
)

Asked = tuple[str, str | None]
"""A question and its domain."""


def suggest_name(moment: datetime, asked: Iterable[Asked], taken: Collection[str] = ()) -> str:
    """Return a name such as `30 Nov · times tables`; the same arguments always give the same name.

    Args:
        moment: when the run started.
        asked: the questions that the run learns from.
        taken: names of other runs. If the name is taken, a number is put behind it.
    """
    first = f"{date_words(moment)} · {find_topic(list(asked))}"
    name, number = first, 2
    while name in taken:
        name, number = f"{first} {number}", number + 1
    return name


def find_topic(asked: Sequence[Asked]) -> str:
    """Return a word or two that most of the questions share.

    The first of these that exists: a domain that most traces have and that is not one of the five broad domains, two
    neighbouring words, one word, a broad domain.
    """
    if not asked:
        return MIXED
    domain = _main_domain(asked)
    if domain and domain not in DOMAINS:
        return _short(domain.replace("-", " ").replace("_", " "))
    pairs: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for question, _ in asked:
        found = _WORD.findall(question.casefold())
        told = [None if word in _STOP else word for word in found]
        words.update({word for word in told if word})
        pairs.update({f"{a} {b}" for a, b in pairwise(told) if a and b})
    for counted in (pairs, words):
        best = min(counted, key=lambda one: (-counted[one], one), default=None)
        if best is not None and counted[best] >= max(2, COMMON * len(asked)) and len(best) <= MAX_TOPIC:
            return best
    return domain or MIXED


def _main_domain(asked: Sequence[Asked]) -> str | None:
    domains = Counter(domain.strip() for _, domain in asked if domain and domain.strip())
    best = min(domains, key=lambda one: (-domains[one], one), default=None)
    if best is None or best == "general" or domains[best] < MAIN * len(asked):
        return None
    return best


def _short(text: str) -> str:
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split()) or MIXED
    return plain if len(plain) <= MAX_TOPIC else plain[: MAX_TOPIC - 1].rstrip() + "…"
