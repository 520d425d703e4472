"""Benchmark questions and what nearly equals them are never trained on; questions about something else are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.finetune.leaks import LeakCheck, Protected, about

QUESTIONS = (
    "A train leaves at 9:15 and arrives at 11:40. How long does the journey take?",
    "What is the capital of France?",
    "What is 12 times 7?",
    "Explain why ice floats on water and what would happen to lakes if it did not.",
    "Write a Python function that returns the second largest number of a list.",
    "Why?",
)
CHECK = LeakCheck(Protected(f"suite/{number}", query) for number, query in enumerate(QUESTIONS))


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("what is  the capital of france", 1),
        ("A train leaves at 9:15, and arrives at 11:40! How long does the journey take", 0),
        ("A train leaves at 9:15 and gets there at 11:40. How long does the journey take?", 0),
        ("Please answer in one word: What is the capital of France?", 1),
        ("Quick question. What is 12 times 7? Give only the number.", 2),
        ("Explain why ice floats on water, and what would happen to ponds if it did not.", 3),
        ("Write me a Python function that returns the second largest number of a given list.", 4),
        ("WHY", 5),
    ],
)
def test_the_question_and_what_nearly_equals_it_are_found_by_name(query, number):
    assert f"suite/{number}" in (CHECK.of(query) or "nothing")


@pytest.mark.parametrize(
    "query",
    [
        "What is the capital of Spain?",
        "What is 13 times 7?",
        "What is 12 times 70?",
        "A train leaves at 8:15 and arrives at 11:40. How long does the journey take?",
        "Explain why the sky is blue and what would happen if there were no air.",
        "Write a Python function that reverses a string.",
        "Why is that so?",
        "",
        "?",
    ],
)
def test_questions_about_something_else_are_fair_practice(query):
    assert CHECK.of(query) is None


def test_what_a_question_is_about_are_its_numbers_and_names():
    assert about("Is Paris in France? Yes. I think 3,5 km from Ivry.") == {"paris", "france", "3,5", "ivry"}


@given(st.lists(st.text(min_size=1, max_size=80), max_size=20), st.randoms())
def test_an_equal_question_is_always_found_whatever_the_order_of_the_questions(queries, draws):
    named = [Protected(f"q{number}", query) for number, query in enumerate(queries)]
    shuffled = list(named)
    draws.shuffle(shuffled)
    check, other = LeakCheck(named), LeakCheck(shuffled)
    for query in queries:
        assert check.of(query) == other.of(query)
        if any(letter.isalnum() for letter in query) and about(query) is not None and check.of(query) is None:
            assert not any(letter.isalpha() or letter.isdecimal() for letter in query)


@given(
    st.lists(st.sampled_from(["ab", "bc", "cd", "de", "ef", "fg", "gh"]), min_size=6, max_size=12), st.integers(0, 11)
)
def test_one_word_put_into_a_question_of_six_or_more_leaves_it_near(words, place):
    check = LeakCheck([Protected("q", " ".join(words))])
    longer = [*words[:place], "zz", *words[place:]]
    sequences = {tuple(words[at : at + 3]) for at in range(len(words) - 2)}
    kept = sequences & {tuple(longer[at : at + 3]) for at in range(len(longer) - 2)}
    assert (check.of(" ".join(longer)) is not None) == (len(kept) >= 0.6 * len(sequences))
