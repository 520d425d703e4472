"""Question files: the shipped one, and broken ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tmde_core.benchmark.questions.files import content_hash, parse_questions, read_questions
from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.plugins import Plugins
from tmde_core.records.judging import JudgeItem
from tmde_core.testing import make_context

SHIPPED = Path(__file__).parents[3] / "data" / "questions" / "numbers.jsonl"


def test_the_shipped_questions_are_checkable_and_split_without_overlap():
    questions = read_questions(SHIPPED)
    assert Counter(question.split for question in questions) == {"practice": 180, "held-out": 120}
    assert all(question.reference and question.check for question in questions)
    assert len({question.query for question in questions}) == len(questions)


def test_no_held_out_product_is_practised_in_the_other_order():
    pairs = {"practice": set(), "held-out": set()}
    for question in read_questions(SHIPPED):
        if question.id.startswith("times"):
            pairs[question.split].add(frozenset(question.id.split("-")[1:]))
    assert not pairs["practice"] & pairs["held-out"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"line 2: This is not valid JSON"),
        ('{"id": "b"}', r"line 2: .*query"),
        ('{"id": "b", "query": "  "}', r"line 2: the question is empty"),
        ('{"id": "a", "query": "again"}', r"line 2: the id 'a' stands there twice"),
        ('{"id": "b", "query": "x", "answr": "y"}', r"line 2: .*answr"),
    ],
)
def test_a_bad_line_is_named(line: str, complaint: str):
    with pytest.raises(InvalidInputError, match=complaint):
        parse_questions('{"id": "a", "query": "x"}\n' + line, "file")


def test_a_missing_and_an_empty_file_are_told_apart(tmp_path: Path):
    with pytest.raises(NotFoundError):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InvalidInputError, match="holds no questions"):
        read_questions(tmp_path / "empty.jsonl")


def test_the_content_hash_does_not_depend_on_the_order():
    questions = read_questions(SHIPPED)
    assert content_hash(questions) == content_hash(list(reversed(questions))) != content_hash(questions[1:])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("836", True),
        ("**836**", True),
        ("836 is the larger number.", True),
        ("The larger number is 836.", True),
        ("The number 836 is larger than the number 490.", True),
        ("490", False),
        ("The number 490 is larger than the number 836.", False),
        ("836 is smaller than 490.", False),
        ("The smaller number is 836", False),
        ("836 - 490 = 346", False),
        ("8360", False),
        ("836.5", False),
        ("490 or 836", False),
    ],
)
async def test_the_check_of_a_comparison_cannot_be_passed_by_naming_the_number_in_a_false_sentence(
    answer: str, right: bool
):
    question = next(one for one in read_questions(SHIPPED) if one.id == "larger-490-836")
    judge = Plugins.load().judges.get("verifier").create(make_context())
    item = JudgeItem(question=question.query, answer=answer, reference=question.reference, check=question.check)
    verdict = await judge.score(item, None)
    assert verdict.score == (10 if right else 0)
