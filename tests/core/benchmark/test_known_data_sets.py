"""Lines of public data sets, in the forms in which people have them: each is read right, or refused with what to do."""

from __future__ import annotations

import json

import pytest

from tmde_bench_default.checks.deciding import run_check
from tmde_core.benchmark.questions.imports import read_entries
from tmde_core.records.judging import ChoiceCheck, NumberCheck
from tmde_core.records.questions import Question


def read(*entries, **options):
    return [found for _, found in read_entries("\n".join(map(json.dumps, entries)), **options)]


def right_texts(*entries):
    """The right option of each entry, as the question lists it; the reason of an entry that is refused."""
    found = []
    for question in read(*entries):
        if isinstance(question, str):
            found.append(question)
            continue
        answer = question.criteria[0].check.answer
        lines = [line for line in question.query.splitlines() if line.startswith(f"{answer}) ")]
        found.append(lines[0].removeprefix(f"{answer}) "))
    return found


async def accepts(question, answer):
    assert isinstance(question, Question), question
    return (await run_check(question.criteria[0].check, answer)).score == 1


COPA = {"premise": "The man fell.", "choice1": "He cried.", "choice2": "He flew.", "question": "effect", "idx": 1}
SIQA = {"context": "Tracy woke up late.", "question": "How did she feel?", "answerA": "rested", "answerB": "rushed",
        "answerC": "rich"}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "right", "asked"),
    [
        ({"qID": "3D5", "sentence": "Ann paid Eve because _ was owed money.", "option1": "Ann", "option2": "Eve",
          "answer": "2"}, "Eve", "Ann paid Eve because _ was owed money."),
        ({"goal": "Open a jar", "sol1": "hit it with a pillow", "sol2": "twist the lid", "label": 1}, "twist the lid",
         "Open a jar"),
        ({"id": "p", "goal": "Open a jar", "sol1": "twist the lid", "sol2": "throw it", "label": "0"}, "twist the lid",
         "Open a jar"),
        ({**COPA, "label": 1}, "He flew.", "The man fell.\n\nWhat happened as a result of this?"),
        ({**COPA, "label": 0, "question": "cause"}, "He cried.", "What was the cause of this?"),
        ({**SIQA, "label": "2"}, "rushed", "Tracy woke up late."),
        ({**SIQA, "label": "B"}, "rushed", "How did she feel?"),
        ({"context": "It rains.", "question": "What follows?", "answers": ["It is dry.", "It is wet."], "label": 1},
         "It is wet.", "It rains."),
        ({"question": "Pick the fruit", "answers": ["nail", "pear"], "correct_index": 1}, "pear", "Pick the fruit"),
        ({"context": "Ann ran home.", "question": "Where did she run?", "answers": ["home", "out"],
          "correct_answer_id": 0}, "home", "Ann ran home."),
        ({"id": "1", "question": {"stem": "Which is acid?", "choices": {"text": ["vinegar", "soap"], "label": ["A", "B"],
          "para": ["", ""]}}, "answerKey": "A", "info": {"grade": 12, "subject": "Chemistry"}}, "vinegar", "acid"),
        ({"id": "c", "context": "Ann ate.", "question": "Why?", "answer0": "bored", "answer1": "hungry", "label": 1},
         "hungry", "Ann ate."),
        ({"flores_passage": "The tower has 3 bells.", "question": "How many bells?", "question_number": 1,
          "mc_answer1": "1", "mc_answer2": "2", "mc_answer3": "3", "mc_answer4": "4", "correct_answer_num": "3",
          "dialect": "eng_Latn"}, "3", "The tower has 3 bells."),
        ({"input": "Is 7 prime or even?", "target_scores": {"prime": 1, "even": 0}}, "prime", "Is 7 prime"),
        ({"passage": None, "question": "x+1=3, x=?", "options": ["(A)1", "(B)2"], "label": "B", "answer": None,
          "other": {"solution": "x=2"}}, "2", "x+1=3"),
        ({"uuid": "u", "question": "Which is liquid?", "options": ["iron", "mercury"], "answer": "mercury",
          "answer_letter": "B", "discipline": "Science"}, "mercury", "Which is liquid?"),
        ({"": 0, "Question": "日本的首都是____。", "A": "东京", "B": "大阪", "Answer": "A"}, "东京", "日本的首都"),
    ],
)  # fmt: skip
def test_a_choice_is_read_with_its_passage_and_its_right_option(entry, right, asked):
    (question,) = read(entry)
    assert asked in question.query
    assert right_texts(entry) == [right]


@pytest.mark.parametrize(
    ("entry", "right", "wrong"),
    [
        ({"passage": "The Bears scored 3.", "question": "How many?", "section_id": "n", "query_id": "q",
          "answers_spans": {"spans": ["3", "3"], "types": ["number", "number"]}}, "3", "13"),
        ({"passage": "It had 7 towers.", "question": "How many towers?", "query_id": "q",
          "answer": {"number": "7", "date": {"day": "", "month": "", "year": ""}, "spans": []}}, "7", "6"),
        ({"passage": "Signed on 4 May 1814.", "question": "When?", "query_id": "q",
          "answer": {"number": "", "date": {"day": "4", "month": "May", "year": "1814"}, "spans": []}},
         "4 May 1814", "5 May 1814"),
        ({"question": "is ice cold", "passage": "Ice is frozen water.", "idx": 3, "label": 1}, "yes", "no"),
        ({"question": "6+9?", "answer": "Schritt: 6+9=15. Die Antwort ist 15.", "answer_number": 15,
          "equation_solution": "6+9=15."}, "15", "6"),
        ({"id": "1", "problem": "Find y.", "solution": "...", "answer": "025"}, "25", "250"),
        ({"problem": "What is 6*7?", "level": "Level 5", "solution": "It is $\\boxed{42}$."}, "42", "6"),
        ({"input": "Pick one.\nOptions:\n(A) red\n(B) blue", "target": "(B)"}, "The answer is B.", "(A)"),
        ({"problem": "Angle?", "answer": "90^\\circ"}, "90 degrees", "9"),
        ({"problem": "Big?", "answer": "11,\\! 111,\\! 100"}, "11111100", "11"),
        ({"problem": "x?", "answer": "x=5"}, "5", "x=6"),
        ({"question": "Capital?", "answer": "Paris."}, "Paris", "Rome"),
        ({"body": "There are seven apples and two pears.", "question": "How many?", "answer": "9 (pieces)",
          "formula": "7+2=9"}, "9", "7"),
        ({"input": "Cap of Italy?", "target": "Rome", "epoch": 1, "messages": [], "scores": {},
          "output": {"completion": "Oslo"}}, "Rome", "Oslo"),
        ({"row_idx": 0, "row": {"question": "Cap of Norway?", "answer": "Oslo"}, "truncated_cells": []}, "Oslo", "Rome"),
        ({"input": "Cap of Japan?", "expected_output": "Tokyo", "actual_output": "Kyoto"}, "Tokyo", "Kyoto"),
    ],
)  # fmt: skip
async def test_an_answer_is_read_so_that_the_right_one_passes_and_a_wrong_one_fails(entry, right, wrong):
    (question,) = read(entry)
    assert await accepts(question, right)
    assert not await accepts(question, wrong)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"sentence": "Tim was tall.", "option1": "Tim", "option2": "Jim", "answer": "1"}, "one blank, written as `_`"),
        ({"sentence": "_ was tall.", "option1": "Tim", "option2": "Jim", "answer": ""}, "there is none"),
        ({"goal": "Boil an egg", "sol1": "in water", "sol2": "in sand", "label": -1}, "'-1' is none of the 2"),
        ({"passage": "Both wore blue.", "question": "Who?", "query_id": "q",
          "answers_spans": {"spans": ["Bears", "Lions"], "types": ["span", "span"]}}, "one or all of them are right"),
        ({"story": "Once a cat.", "questions": ["Who?"], "answers": {"input_text": ["a cat"]}}, "one line for each"),
        ({"article": "He went.", "questions": ["When?"], "options": [["May"]], "answers": ["A"]}, "one line for each"),
        ({"vars": {"question": "Cap?"}, "assert": [{"type": "equals", "value": "Rome"}]}, "a test of promptfoo"),
        ({"paragraph": "Ann ran.", "question": "Who?", "answer": "Bob", "label": 0}, "say that the answer is wrong"),
        ({"question": "Cap of Fiji?", "answer": "Lima", "is_correct": False}, "say that the answer is wrong"),
        ({"question": "How many are left?", "start": 10, "taken": 3, "answer": 7}, "start: TMDE does not know"),
        ({"sentence": "Bob hit Jim so _ wept.", "option1": "Bob", "option2": "Jim", "label": 1}, "counts its options from 1"),
        ({"question": "Which is red?", "options": {"A": "blood", "B": "grass", "C": "sky"}, "answer": 1}, "from 0 or from 1"),
        ({"question": "Solve the equation", "equation": "2x=4", "answer": 2}, "equation: TMDE does not know"),
        ({"question": "Name the compound", "formula": "NaCl", "answer": "salt"}, "formula: TMDE does not know"),
        ({"question": "Who?", "answer": "Ann", "best_option_idx": 2}, "may be the number of an option"),
        ({"question": "Total for 3?", "price": 5, "answer": 15}, "price: TMDE does not know"),
        ({"row": {"question": "A long ques", "answer": "x"}, "truncated_cells": ["question"]}, "the server cut"),
        ({"input": "Is it?", "target_scores": {"a": 1, "b": 1}}, "one option with 1"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "Its fields are: conversations. Call the question"),
    ],
)  # fmt: skip
def test_a_line_that_could_be_read_wrong_is_refused_with_what_to_do(entry, words):
    (reason,) = read(entry)
    assert isinstance(reason, str), reason
    assert words in reason


def columns(*answers):
    """Lines with a field for each option and the number of the right one."""
    return [
        {"question": f"Which, {n}?", "opa": "x", "opb": "y", "opc": "z", "cop": answer, "choice_type": "single"}
        for n, answer in enumerate(answers)
    ]


def lists(*answers):
    return [
        {"question": f"Which, {n}?", "choices": ["x", "y", "z"], "answer": answer} for n, answer in enumerate(answers)
    ]


def test_options_in_fields_are_counted_as_the_whole_file_counts_them():
    assert right_texts(*columns(0, 1, 2)) == ["x", "y", "z"]
    assert right_texts(*columns(1, 2, 3, 1, 2)) == ["x", "y", "z", "x", "y"]


@pytest.mark.parametrize("answers", [(1,), (1, 2), (2, 2, 2, 2, 2, 2), (0, 3, 1)])
def test_a_number_is_refused_where_the_file_does_not_show_from_where_it_counts(answers):
    found = right_texts(*columns(*answers))
    for answer, text in zip(answers, found, strict=True):
        if answer in (1, 2):
            assert "is the number of an option" in text


def test_a_list_of_options_is_counted_from_0_unless_the_file_shows_otherwise():
    assert right_texts(*lists(1, 2)) == ["y", "z"]
    assert right_texts(*lists(1, 2, 3, 1, 2)) == ["x", "y", "z", "x", "y"]
    first, second = right_texts(*lists(3, 1))
    assert "'3' is none of the 3" in first
    assert "may count from 1" in second


def test_data_sets_in_one_file_are_counted_each_by_itself():
    assert right_texts(*columns(1, 2, 3, 1, 2), *lists(0, 1)) == ["x", "y", "z", "x", "y", "x", "y"]


MANY = [{"question": "Capital of Fiji?", "answer": "Suva"}, {"question": "Capital of Oman?", "answer": "Muscat"}]


@pytest.mark.parametrize(
    "whole",
    [
        {"question": ["Capital of Fiji?", "Capital of Oman?"], "answer": ["Suva", "Muscat"]},
        {"question": {"0": "Capital of Fiji?", "1": "Capital of Oman?"}, "answer": {"0": "Suva", "1": "Muscat"}},
        {"features": [{"name": "q"}], "rows": [{"row_idx": 0, "row": row, "truncated_cells": []} for row in MANY]},
        {"data": MANY},
        {"questions": MANY},
        {"version": 2, "eval": {"task": "x"}, "samples": [{**row, "epoch": 1} for row in MANY]},
    ],
)
def test_files_that_hold_all_questions_in_one_object_are_read(whole):
    assert [(question.query, question.reference) for question in read(whole)] == [
        ("Capital of Fiji?", "Suva"),
        ("Capital of Oman?", "Muscat"),
    ]


def test_a_cut_row_does_not_keep_the_others_from_being_read():
    rows = [
        {"row": MANY[0], "truncated_cells": []},
        {"row": {"question": "Lo", "answer": "x"}, "truncated_cells": ["q"]},
    ]
    first, second = read({"rows": rows})
    assert first.reference == "Suva"
    assert "the server cut" in second


def test_columns_of_different_lengths_are_refused():
    (reason,) = read({"question": ["One?", "Two?"], "answer": ["a"]})
    assert isinstance(reason, str)


def test_examples_in_system_messages_tell_who_speaks():
    turns = [("system", "Be brief.", None), ("system", "Sky?", "example_user"), ("system", "Blue", "example_assistant")]
    messages = [{"role": role, "content": text, **({"name": name} if name else {})} for role, text, name in turns]
    (question,) = read({"input": [*messages, {"role": "user", "content": "Grass?"}], "ideal": "Green"})
    assert question.query == "Be brief.\n\nUser: Sky?\n\nAssistant: Blue\n\nGrass?"


def test_null_in_yaml_is_no_passage():
    ((_, question),) = read_entries("- question: Capital?\n  context: null\n  answer: Rome", as_yaml=True)
    assert question.query == "Capital?"


def test_a_letter_without_listed_options_is_one_of_all_letters():
    (question,) = read({"problem": "Which? A: x B: y", "answer": "\\text{(B)}"})
    assert isinstance(question.criteria[0].check, ChoiceCheck)
    assert question.criteria[0].check.answer == "B"


def test_a_code_with_zeros_is_a_number_only_in_a_mathematical_problem():
    code, number = read({"question": "Which agent?", "answer": "007"}, {"problem": "Find y.", "answer": "007"})
    assert not isinstance(code.criteria[0].check, NumberCheck)
    assert number.criteria[0].check == NumberCheck(value=7)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("question,answer", "Write one JSON object a line, or a YAML file."),
        ('{"question": "Huge?", "answer": ' + "9" * 5_000 + "}", "a number of 5,000 digits is too long"),
    ],
)
def test_what_is_no_json_is_refused_in_words_of_a_person(line, words):
    ((_, reason),) = read_entries(line)
    assert words in reason
