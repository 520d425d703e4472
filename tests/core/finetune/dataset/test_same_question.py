"""Questions whose texts differ in form only are one question everywhere; questions that ask something else are not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tmde_core.errors import ConflictError
from tmde_core.finetune.dataset.leaks import LeakCheck, Protected
from tmde_core.finetune.dataset.same_question import fold_characters, normalise_question
from tmde_core.finetune.dataset.selection import assign_split, query_hash
from tmde_core.records.questions import Question

SAME = [
    ("What is the capital of France?", "What is the cap\u200bital of Fr\u00adance?"),
    ("What is the capital of France?", "\ufeffWhat is the capital of France\u200e?\u2060"),
    ("What is the capital of France?", "What\u00a0is\u202fthe\u2009capital\u3000of France ?"),
    ("What is the capital of France?", "What is the capital of France？"),
    ("What is the capital of France?", "what is the capital of france\u203d"),
    ("What is the capital of France?", "What is the capital of Fra\u034fnce\ufe0f?"),
    ("What is the capital of France?", "What is the cap\U000e0041ital of France?"),
    ("What is the capital of France?", "Ｗｈａｔ is the 𝐜apital of France?"),
    ('What\'s "it"?', "What’s “it”?"),
    ('What\'s "it"?', "What´s «\u00a0it\u00a0»?"),
    ('What is "it"?', "What is »it«?"),
    ("What is 'it'?", "What is ‹ it › ?"),
    ('What is "it"?', "What is „it“?"),
    ("What is 5-3?", "What is 5−3?"),
    ("What is 5-3?", "What is 5–3\u2049"),
    ("Who wrote Café?", "Who wrote Cafe\u0301?"),
    ("What is the office?", "What is the oﬃce…?"),
    ("ما هي عاصمة فرنسا؟", "ما هي عاصمة فرنسا?"),
    ("ما هي عاصمة فرنسا؟", "\u200fما هي عاصمة فرنسا\u200f؟"),
    ("中国的首都是哪里？", "中国的首都是哪里?"),
    ("中国的首都是哪里。", "中国的首都是哪里"),
    ("Ποια είναι η πρωτεύουσα;", "Ποια είναι η πρωτεύουσα\u037e"),
    ("Ποια είναι η πρωτεύουσα;", "Ποια είναι η πρωτεύουσα?"),
    ("Ի՞նչ է սա", "Ինչ է սա։"),
    ("¿Cuál es la capital?", "Cuál es la capital?"),
    ("भारत की राजधानी क्या है?", "भारत की राजधानी क्या है।"),
    ("What is ٣ + ٤?", "What is 3 + 4?"),
    ("２＋２は？", "2+2は?"),
    ("می‌خواهم چه؟", "میخواهم چه؟"),
]
OTHER = [
    ("What is x²?", "What is x2?"),
    ("What is 2²?", "What is 22?"),
    ("What is H₂O?", "What is H2O?"),
    ("What is 2½?", "What is 21/2?"),
    ("What is C?", "What is C++?"),
    ("What is C?", "What is C#?"),
    ("What is 5 - 3?", "What is 5 + 3?"),
    ("What is -3 squared?", "What is 3 squared?"),
    ("What is 5! roughly?", "What is 5 roughly?"),
    ("What is 5!", "What is 5?"),
    ("Is 5' long?", 'Is 5" long?'),
    ("Is it 3.5?", "Is it 35?"),
    ("What is 2\u20623?", "What is 23?"),
    ("Cote?", "Côté?"),
    ("Whose flag is 🏴󠁧󠁢󠁥󠁮󠁧󠁿?", "Whose flag is 🏴󠁧󠁢󠁳󠁣󠁴󠁿?"),
    ("What does ① mean?", "What does 1 mean?"),
    ("Is a b?", "Is ab?"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_a_difference_of_form_makes_no_other_question(left, right):
    assert normalise_question(left) == normalise_question(right)
    assert query_hash(left) == query_hash(right)
    assert assign_split(left) == assign_split(right)
    assert LeakCheck([Protected("q", left)]).of(right) == "It equals the benchmark question q."
    assert LeakCheck([Protected("q", right)]).of(left) == "It equals the benchmark question q."


@pytest.mark.parametrize(("left", "right"), OTHER)
def test_a_difference_of_meaning_makes_another_question(left, right):
    assert query_hash(left) != query_hash(right)


@pytest.mark.parametrize(("left", "right"), [("What is C#?", "What is C?"), ("What is x²?", "What is x2?")])
def test_the_leak_check_keeps_apart_what_asks_something_else(left, right):
    assert LeakCheck([Protected("q", left)]).of(right) is None


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
HIDDEN = st.sampled_from("\u200b\u200c\u200d\u200e\u200f\u00ad\u2060\ufeff\ufe0f\u061c\u180e\u202a\u2069\u034f")


@given(ANY)
def test_the_normal_form_is_its_own_normal_form(text):
    assert normalise_question(normalise_question(text)) == normalise_question(text)


@given(ANY, st.sampled_from(["NFC", "NFD"]))
@example(text="À« 0", form="NFD")
def test_composed_and_decomposed_letters_are_one(text, form):
    assert normalise_question(unicodedata.normalize(form, text)) == normalise_question(text)


@given(st.text(st.sampled_from("abcß é中?.'\"«» 12²½-+")), st.integers(0, 40), st.lists(HIDDEN, max_size=4))
def test_invisible_characters_change_nothing_wherever_they_stand(text, place, hidden):
    place = min(place, len(text))
    assert normalise_question(text[:place] + "".join(hidden) + text[place:]) == normalise_question(text)


@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_plain_text_keeps_the_form_that_split_earlier_datasets(text):
    assert normalise_question(text) == " ".join(text.casefold().split()).rstrip(" ?.")


@given(ANY)
def test_folding_characters_keeps_case_and_lines(text):
    folded = fold_characters(text)
    assert fold_characters(folded) == folded
    assert folded.count("\n") == text.count("\n")


async def test_a_persons_own_question_is_refused_if_it_differs_in_form_only(services):
    await services.benchmark.add_question(Question(id="a", query="What's “it”？", domain="reasoning", reference="x"))
    twin = Question(id="b", query='what\u200b\'s "it" ?', domain="reasoning", reference="x")
    with pytest.raises(ConflictError, match="asks the same"):
        await services.benchmark.add_question(twin)
    await services.benchmark.add_question(Question(id="c", query="What's 'it'?", domain="reasoning", reference="x"))
