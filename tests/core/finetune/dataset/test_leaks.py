"""Benchmark questions and what nearly equals them are never trained on; questions about something else are."""

from __future__ import annotations

import random
import string
from collections import Counter
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.finetune.dataset.leaks import LeakCheck, Protected, extract_subject

QUESTIONS = (
    "A train leaves at 9:15 and arrives at 11:40. How long does the journey take?",
    "What is the capital of France?",
    "What is 12 times 7?",
    "Explain why ice floats on water and what would happen to lakes if it did not.",
    "Write a Python function that returns the second largest number of a list.",
    "Why?",
    "What is 3 + 4? Write the whole sum as an equation.",
    "What is the boiling point of water?",
    "水はなぜ凍ると浮くのですか。",
    "What is 7 times 7?",
    "🙂 ?!",
    "What is 5 - 3 * 2?",
    "Why do stars twinkle at night? Answer in one or two sentences, in words that a child of school age understands.",
    "Read the note: the pump was bought in 1985 for $3.50 only. Who bought it? Answer with the name.",
)
CHECK = LeakCheck(Protected(f"suite/{number}", query) for number, query in enumerate(QUESTIONS))
LETTERS = st.text(string.ascii_lowercase, min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ("what is  the capital of france", 1),
        ("A train leaves at 9:15, and arrives at 11:40! How long does the journey take", 0),
        ("A train leaves at 9:15 and gets there at 11:40. How long does the journey take?", 0),
        ("Please answer in one word: What is the capital of France?", 1),
        ("What is the capital city of France?", 1),
        ("Tell me what the capital of France is.", 1),
        ("Quick question. What is 12 times 7? Give only the number.", 2),
        ("Explain why ice floats on water, and what would happen to ponds if it did not.", 3),
        ("Write me a Python function that returns the second largest number of a given list.", 4),
        ("WHY", 5),
        ("What is 3+4?", 6),
        ("Now for sums. What is 3 + 4? I forgot.", 6),
        ("Quick: why do stars twinkle at night?", 12),
        ("What is 5\u22123 \u00d7 2?", 11),
        ("Could you tell me: what is the boiling point of water?", 7),
        ("水はなぜ凍ると浮くの?", 8),
        (" 🙂 ?!", 10),
    ],
)
def test_the_question_and_what_nearly_equals_it_are_found_by_name(query, number):
    assert f"suite/{number}" in (CHECK.of(query) or "nothing").removesuffix(".").replace(":", " ").split()


@pytest.mark.parametrize(
    "query",
    [
        "What is the capital of Spain?",
        "What is 13 times 7?",
        "What is 12 times 70?",
        "What is 7 times 13?",
        "What is 3 - 4? Write the whole sum as an equation.",
        "What is 4 + 4? Write the whole sum as an equation.",
        "What is the boiling point of iron?",
        "A train leaves at 8:15 and arrives at 11:40. How long does the journey take?",
        "Explain why the sky is blue and what would happen if there were no air.",
        "Write a Python function that reverses a string.",
        "Why is that so?",
        "氷はなぜ冷たいのですか。",
        "Answer in one or two sentences, in words that a child of school age understands: why is the sea salt?",
        "My aunt has a bicycle. Who bought it? Answer with the name.",
        "Why do dogs bark at night?",
        "",
        "?",
        "🙃 ?!",
    ],
)
def test_questions_about_something_else_are_fair_practice(query):
    assert CHECK.of(query) is None


def test_the_sentence_says_how_near_the_question_is():
    assert CHECK.of("why") == "It equals the benchmark question suite/5."
    assert CHECK.of("What is 3 + 4?") == "It is a part of the benchmark question suite/6."
    assert CHECK.of("What is the capital city of France?") == (
        "It nearly equals the benchmark question suite/1: 80% of what that asks, word by word, is in it."
    )


def test_what_a_question_is_about_are_its_numbers_operators_and_names():
    told = extract_subject('Is Paris in France? "Yes." I think 3,5 km from Ivry: 1,000 - 3,5 = -3 COVID-19.')
    assert told == Counter(["paris", "france", "3,5", "ivry", "1000", "-", "3,5", "=", "-", "3", "covid", "19"])


def test_no_built_in_question_is_taken_for_another():
    suite = import_module("tmde_bench_default.suite")
    questions = suite.questions()
    assert len(questions) == 50
    for one in questions:
        others = LeakCheck(Protected(other.id, other.query) for other in questions if other.id != one.id)
        assert others.of(one.query) is None


def test_built_in_questions_are_found_in_other_words_around_them_and_not_with_other_numbers():
    questions = import_module("tmde_bench_default.suite").questions()
    check = LeakCheck(Protected(one.id, one.query) for one in questions)
    draws = random.Random(5)
    for one in questions:
        words = one.query.split()
        words.insert(draws.randrange(1, len(words)), "really")
        assert check.of(f"Here is something for you. {' '.join(words)} Be brief.") is not None, words
        numbers = [place for place, word in enumerate(words) if word.isdecimal()]
        for place in numbers:
            assert check.of(" ".join([*words[:place], str(int(words[place]) + 4321), *words[place + 1 :]])) is None


@given(st.lists(st.text(min_size=1, max_size=80), max_size=20), st.randoms(use_true_random=False))
def test_an_equal_question_is_always_found_whatever_the_order_of_the_questions(queries, draws):
    named = [Protected(f"q{number}", query) for number, query in enumerate(queries)]
    check, other = LeakCheck(named), LeakCheck(draws.sample(named, len(named)))
    for query in queries:
        assert check.of(query) is not None
        assert check.of(query) == other.of(query) == check.of(f" {query}\n")


@given(st.text(max_size=60), st.text(max_size=60), st.lists(LETTERS, max_size=6), st.lists(LETTERS, max_size=6))
def test_a_question_of_several_words_is_found_whatever_is_said_around_it(start, end, before, after):
    query = f"{start} alpha beta {end}"
    assert LeakCheck([Protected("q", query)]).of(" ".join([*before, query, *after])) is not None


@given(st.lists(LETTERS, min_size=5, max_size=14, unique=True), st.data())
def test_one_word_put_into_a_question_of_five_or_more_leaves_it_near(words, data):
    place = data.draw(st.integers(0, len(words)))
    longer = [*words[:place], "zz", *words[place:]]
    assert LeakCheck([Protected("q", " ".join(words))]).of(" ".join(longer)) is not None


@pytest.mark.parametrize(
    "kind", ["What is {} times {}?", "Which is larger, {} or {}?", "{}+{}=?", "Round {} to {} digits, please."]
)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_of_arithmetic_only_the_very_same_numbers_are_found(kind, a, b, c, d):
    found = LeakCheck([Protected("q", kind.format(a, b))]).of(kind.format(c, d))
    assert (found is not None) == ((a, b) == (c, d))


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=5), min_size=1, max_size=12),
    st.lists(st.text("nopqrstu", min_size=1, max_size=5), min_size=1, max_size=60),
)
def test_a_question_without_a_common_word_is_never_found(protected, asked):
    assert LeakCheck([Protected("q", " ".join(protected))]).of(" ".join(asked)) is None
