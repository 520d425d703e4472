"""Questions from files: ours, inspect_ai's, lm-evaluation-harness's, and broken ones."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.benchmark.questions.custom import decode_question
from tmde_core.benchmark.questions.imports import read_entries
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import from_json, to_json
from tmde_core.records.judging import ChoiceCheck, FactsCheck, NumberCheck
from tmde_core.records.questions import Question


def read(*entries, **options):
    content = b"\n".join(json.dumps(entry).encode() for entry in entries)
    return [entry for _, entry in read_entries(content, **options)]


def check_of(question):
    assert isinstance(question, Question), question
    return question.criteria[0].check


def test_our_own_lines_come_back_as_they_are():
    ours = {"id": "a", "query": "What is 2 + 2?", "domain": "mathematics", "reference": "4", "check": "number"}
    (question,) = read(ours)
    assert (question.id, question.domain, question.reference) == ("a", "mathematics", "4")


def test_an_inspect_sample_with_choices_asks_for_the_letter():
    (question,) = read({"input": "Which is a fruit?", "choices": ["rock", "pear"], "target": "B", "id": "s-1"})
    assert check_of(question) == ChoiceCheck(answer="B", options=("A", "B"))
    assert "A) rock\nB) pear" in question.query
    assert question.id == "s-1"


def test_the_system_messages_of_a_chat_come_before_the_question():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}]
    (question,) = read({"input": turns, "target": ["Paris", "Lutetia"], "metadata": {"domain": "science"}})
    assert question.query == "Be brief.\n\nCapital of France?"
    assert check_of(question) == FactsCheck(facts=(("Paris", "Lutetia"),))
    assert question.domain == "science"


def test_a_logged_sample_of_the_harness_takes_the_prompt_as_it_was_sent():
    sample = {
        "doc_id": 7,
        "doc": {"question": "…"},
        "target": "She has 12. #### 12",
        "arguments": {"gen_args_0": {"arg_0": "How many eggs?"}},
    }
    listed = {**sample, "arguments": [["How many hens?", {"until": ["\n"]}]]}
    first, second = read(sample, listed)
    assert (first.query, check_of(first)) == ("How many eggs?", NumberCheck(value=12))
    assert second.query == "How many hens?"
    assert first.id.startswith("import-")


def test_a_document_with_question_and_answer_index_becomes_a_choice():
    doc = {"question": "Largest?", "choices": {"text": ["ant", "whale"], "label": ["A", "B"]}, "answerKey": "B"}
    plain = {"question": "Smallest?", "choices": ["ant", "whale"], "answer": 0}
    first, second = read(doc, plain)
    assert check_of(first).answer == "B"
    assert check_of(second).answer == "A"


def test_the_same_line_gets_the_same_id_at_every_import():
    line = {"question": "Largest?", "answer": "whale"}
    assert read(line)[0].id == read(line)[0].id


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([1], "object"),
        ({"text": "x"}, "none of"),
        ({"input": "x"}, "target"),
        ({"input": 5, "target": "x"}, "input"),
        ({"input": "x", "choices": ["a", "b"], "target": "Z"}, "none of the 2"),
        ({"doc": {}, "arguments": [], "target": "x"}, "arguments"),
        ({"query": "x", "domain": "cooking"}, "domain"),
    ],
)
def test_an_entry_that_cannot_be_read_is_told_and_the_others_are_kept(entry, words):
    good = {"question": "Largest?", "answer": "whale"}
    found = read(entry, good)
    assert isinstance(found[0], str)
    assert words in found[0]
    assert isinstance(found[1], Question)


def test_yaml_is_a_list_of_questions_and_says_so_when_it_is_not():
    text = b"""
    questions:
      - query: Name a noble gas.
        domain: science
        criteria:
          - name: gas
            check: {kind: facts, facts: [[helium, neon, argon]]}
      - just text
    """
    first, second = [entry for _, entry in read_entries(text, as_yaml=True)]
    assert first.domain == "science"
    assert "mapping" in second
    with pytest.raises(InvalidInputError, match="list of questions"):
        list(read_entries(b"a: 1", as_yaml=True))
    with pytest.raises(InvalidInputError, match="not valid YAML"):
        list(read_entries(b"[", as_yaml=True))


def test_yaml_that_would_grow_without_end_is_refused():
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nquestions: [*b]"
    with pytest.raises(InvalidInputError, match="aliases"):
        list(read_entries(bomb, as_yaml=True))


@given(st.binary(max_size=300), st.booleans())
def test_whatever_a_file_holds_is_read_or_refused_in_words(content, as_yaml):
    with contextlib.suppress(InvalidInputError):
        for _, entry in read_entries(content, as_yaml=as_yaml):
            assert isinstance(entry, str | Question)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["input", "target", "choices", "question", "answer", "doc", "arguments", "id", "metadata", "query"]
        ),
        values,
        min_size=1,
    )
)
def test_whatever_an_entry_holds_is_read_or_refused_in_words(entry):
    (found,) = read(entry)
    assert isinstance(found, str | Question)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6) | st.dates()
"""What YAML can say, lone surrogates among it."""


@given(
    st.dictionaries(
        st.sampled_from(["query", "reference", "rubric", "domain", "difficulty", "id", "check", 1]), scalars
    ),
    st.lists(
        st.dictionaries(st.sampled_from(["name", "weight", "description", "check"]), scalars, max_size=3), max_size=2
    ),
)
def test_whatever_yaml_gives_a_question_is_one_that_can_be_kept_or_refused_in_words(fields, criteria):
    given_ = {"query": "What?", **fields, **({"criteria": criteria} if criteria else {})}
    try:
        question = decode_question(given_)
    except InvalidInputError:
        return
    assert from_json(to_json(question), Question) == question


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'- query: "a \\uD800 b"\n  reference: x', "half a character"),
        (b"- query: x\n  reference: x\n  difficulty: brutal", "difficulty: 'brutal' is not one of easy, medium, hard."),
        (b"- query: x\n  1: 2", "1: there is no such field."),
    ],
)
def test_what_yaml_can_say_and_json_cannot_is_refused_in_words(line, words):
    ((_, found),) = read_entries(line, as_yaml=True)
    assert words in found


def test_a_file_that_an_editor_on_windows_saved_is_read():
    ((_, found),) = read_entries(b'\xef\xbb\xbf{"input": "2 + 2?", "target": "4"}\r\n')
    assert isinstance(found, Question)


async def test_a_question_that_stands_twice_in_a_file_names_the_line_of_the_first(services):
    line = to_json({"question": "What is 1 plus 1?", "referenceAnswer": "2", "check": "number"})
    other = to_json({"id": "own-1", "question": "What is 2 plus 2?", "referenceAnswer": "4", "check": "number"})
    same_id = to_json({"id": "own-1", "question": "What is 3 plus 3?", "referenceAnswer": "6", "check": "number"})
    done = await services.benchmark.import_questions(b"\n".join([line, b"", line, other, same_id]))
    assert len(done.imported) == 2
    assert [(one.line, one.reason) for one in done.skipped] == [
        (3, "The question of line 1 asks the same."),
        (5, "The question of line 4 has the same id."),
    ]
    again = await services.benchmark.import_questions(line)
    assert again.skipped[0].reason == f"The question {done.imported[0]!r} asks the same."


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \n", "\ufeff".encode("utf-16-le")])
async def test_a_file_without_a_question_is_refused(services, content):
    for as_yaml, words in ((False, "holds no questions"), (True, "must be a list of questions")):
        with pytest.raises(InvalidInputError, match=words):
            await services.benchmark.import_questions(content, as_yaml=as_yaml)


async def test_a_file_can_be_taken_in_whole_or_not_at_all(services):
    entries = [{"id": f"own-{n}", "question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(3)]
    broken = [*entries, {"question": "What is 1 plus 1?", "answer": "2"}, {"input": "Why?"}]

    def lines(*given):
        return b"\n".join(to_json(one) for one in given)

    refused = await services.benchmark.import_questions(lines(*broken), whole=True)
    assert refused.imported == ()
    assert [one.line for one in refused.skipped] == [4, 5]
    assert "asks the same" in refused.skipped[0].reason
    assert await services.benchmark.questions(suite="custom") == []
    taken = await services.benchmark.import_questions(lines(*entries), whole=True)
    assert taken.imported == ("own-0", "own-1", "own-2")
    assert len(await services.benchmark.questions(suite="custom")) == 3
