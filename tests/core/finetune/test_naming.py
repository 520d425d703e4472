"""Names of training runs that a person can tell apart."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.finetune.naming import MAX_TOPIC, find_topic, suggest_name

WHEN = datetime(2026, 11, 30, 23, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "topic"),
    [
        ([(f"Recite the times table of {n}.", None) for n in range(20)], "times table"),
        ([(f"Recite the times table of {n}.", "mathematics") for n in range(20)], "times table"),
        ([(f"What is {n} plus 3?", "times-tables") for n in range(20)], "times tables"),
        ([(f"What is {n} plus 3?", "general") for n in range(20)], "plus"),
        ([(f"What is {n} + 3?", "mathematics") for n in range(20)], "mathematics"),
        ([("Why?", None), ("How?", None)], "mixed questions"),
        ([("Explain tides.", None), ("Who was Ada Lovelace?", None), ("Bake bread.", None)], "mixed questions"),
        ([], "mixed questions"),
    ],
)
def test_the_topic_is_what_most_questions_share(asked, topic):
    assert find_topic(asked) == topic


def test_a_name_has_the_date_and_the_topic_and_a_number_where_it_is_taken():
    asked = [(f"Translate {word} into French.", None) for word in ("dog", "cat", "sun", "moon")]
    first = suggest_name(WHEN, asked)
    assert first == "30 Nov · french"
    assert suggest_name(WHEN, asked, {first}) == f"{first} 2"
    assert suggest_name(WHEN, asked, {first, f"{first} 2"}) == f"{first} 3"


@given(st.lists(st.tuples(st.text(), st.none() | st.text())))
def test_any_questions_give_a_short_name_on_one_line_and_always_the_same(asked):
    name = suggest_name(WHEN, asked)
    assert name == suggest_name(WHEN, list(reversed(asked)))
    assert len(name) <= len("30 Nov · ") + MAX_TOPIC
    assert name.isprintable()


def test_a_correction_is_the_example_even_if_another_answer_to_the_question_is_rated_higher():
    from uuid import uuid4

    from tmde_core.finetune.dataset.selection import select
    from tmde_core.records.traces import Trace

    rated = Trace(id=uuid4(), created_at=WHEN, query="Why?", final_answer="Because.", user_rating=10)
    corrected = Trace(
        id=uuid4(), created_at=WHEN, query="Why?", final_answer="No idea.", user_rating=1, corrected_answer="So."
    )
    found = select([corrected, rated], lambda names: "")
    assert [one.output for one in (*found.train, *found.val)] == ["So."]
