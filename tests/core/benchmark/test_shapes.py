"""Questions in the shapes of data sets: each line is read right, or refused by its number with the reason."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.benchmark.questions.files import read_questions
from tmde_core.benchmark.questions.imports import read_entries
from tmde_core.benchmark.questions.options import Option, find_right
from tmde_core.benchmark.questions.rubric import SAME_AS_REFERENCE
from tmde_core.benchmark.questions.targets import read_number
from tmde_core.errors import InvalidInputError
from tmde_core.records.judging import ChoiceCheck, CodeCheck, FactsCheck, NumberCheck
from tmde_core.records.questions import Question

FILES = Path(__file__).parent / "question_files"


def read(*entries, **options):
    content = "\n".join(json.dumps(entry) for entry in entries)
    return [entry for _, entry in read_entries(content, **options)]


def one(entry):
    (question,) = read(entry)
    assert isinstance(question, Question), question
    return question


def check_of(question):
    assert isinstance(question, Question), question
    return question.criteria[0].check


def right_text(question):
    """The text of the right option, as the question lists it."""
    answer = check_of(question).answer
    return next(
        line.removeprefix(f"{answer}) ") for line in question.query.splitlines() if line.startswith(f"{answer}) ")
    )


# ------------------------------------------------------------------------------------------------------ whole files

EXPECTED = {
    1: "6", 2: "2", 3: "Neon", 4: "May", 8: "Neon", 12: "4", 13: "5", 14: "house", 29: "y1", 33: "B",
}  # fmt: skip
NUMBERS = {10: 4, 11: 6, 15: -3, 16: 10_000, 17: -3, 18: 0.75, 19: 0.25, 20: 50, 21: 3e8, 22: 1200.5, 23: 42}
REFUSED = {9: "none of the 2", 25: "2 options are right", 30: "'true' is none", 31: "'-1' is none", 32: "empty"}


def test_every_line_of_the_collected_shapes_is_read_right_or_refused():
    found = dict(read_entries((FILES / "bench-import.jsonl").read_bytes()))
    assert len(found) == 33
    for line, text in EXPECTED.items():
        assert right_text(found[line]) == text, line
    for line, value in NUMBERS.items():
        assert check_of(found[line]) == NumberCheck(value=value), line
    for line, words in REFUSED.items():
        assert isinstance(found[line], str), line
        assert words in found[line], line
    assert found[4].query.startswith("Tom went to Rome in May.\n\nWhen did")
    assert check_of(found[5]) == FactsCheck(facts=(("William Shakespeare", "Shakespeare", "W. Shakespeare"),))
    assert found[6].query == "The sky is blue.\n\nis the sky blue\n\nAnswer yes or no."
    assert check_of(found[6]) == ChoiceCheck(answer="yes", options=("yes", "no"))
    assert found[7].query == "Tom went to Rome in May.\n\nIn which month did Tom go?"
    assert found[11].query == "3+3?"
    assert (found[27].id, found[28].id) == ("dup-1", "dup-1")


def test_gsm8ks_final_answer_need_not_be_a_plain_number():
    share, time = (entry for _, entry in read_entries((FILES / "gsm-nonnumber.jsonl").read_bytes()))
    assert (share.reference, check_of(share)) == ("3/4", NumberCheck(value=0.75))
    assert (time.reference, check_of(time)) == ("10:30", FactsCheck(facts=(("10:30",),)))


def test_yaml_keeps_what_was_written():
    found = [entry for _, entry in read_entries((FILES / "bench-dates.yaml").read_bytes(), as_yaml=True)]
    assert [question.reference for question in found] == ["1945-09-02", "NO", "12:30", "010", "1e3", "yes"]
    assert check_of(found[0]) == FactsCheck(facts=(("1945-09-02",),))
    assert check_of(found[1]) == FactsCheck(facts=(("NO",),))
    assert check_of(found[3]) == FactsCheck(facts=(("010",),))


def test_a_question_file_with_a_byte_order_mark_is_read():
    assert [question.id for question in read_questions(FILES / "q-bom.jsonl")] == ["a1", "a2"]


# ------------------------------------------------------------------------------------------------- questions with options


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ({"question": {"stem": "Which?", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
          "answerKey": "B", "id": "o"}, "y"),
        ({"question_stem": "Which?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, "y"),
        ({"question": "Which?", "choices": {"label": ["1", "2", "3"], "text": ["3", "1", "2"]}, "answerKey": "1"}, "3"),
        ({"question": "Which?", "choices": {"label": ["1", "2", "3"], "text": ["3", "1", "2"]}, "answerKey": 1}, "3"),
        ({"question": "Which?", "choices": {"label": ["A", "B"], "text": ["B", "A"]}, "answerKey": "A"}, "B"),
        ({"question": "Which?", "choices": ["8", "2", "24", "120"], "answer": 2, "subject": "algebra"}, "24"),
        ({"question": "Which?", "choices": ["x", "y"], "answer": "(B)"}, "y"),
        ({"question": "Which?", "choices": ["x", "y"], "answer": "B. y"}, "y"),
        ({"question": "Which?", "choices": ["x", "y"], "answer": "Y"}, "y"),
        ({"question": "Which?", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"}, "y"),
        ({"question": "Which?", "options": ["1", "2", "3"], "answer": "2", "answer_index": 1}, "2"),
        ({"question": "Which?", "options": ["2", "1", "3"], "answer": "1", "answer_index": 2}, None),
        ({"question": "Which?", "options": ["A)21", "B)21.5"], "rationale": "So.", "correct": "B"}, "21.5"),
        ({"question": "Which?", "A": "x", "B": "y", "C": "z", "Answer": "C"}, "z"),
        ({"question": "Which?", "option1": "x", "option2": "y", "answer": "2"}, "y"),
        ({"ind": 1, "activity_label": "Tea", "ctx_a": "He boils", "ctx_b": "he", "ctx": "He boils he",
          "endings": ["sits.", "pours."], "label": "1", "source_id": "s"}, "pours."),
        ({"ctx": "He boils", "endings": ["sits.", "pours."], "label": 0}, "sits."),
        ({"question": "Which?", "mc1_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 0]}}, "x"),
        ({"question": "Which?", "correct_answer": "x", "distractor1": "a", "distractor2": "b", "distractor3": "c",
          "support": "Because."}, "x"),
        ({"Question": "Which?", "Correct Answer": "x", "Incorrect Answer 1": "a", "Incorrect Answer 2": "b",
          "Incorrect Answer 3": "c", "Explanation": "So.", "Writer's Difficulty Estimate": "hard",
          "Pre-Revision Question": "What?", "Subdomain": "Physics", "Record ID": "rec1",
          "Feedback_EV_1": "fine work"}, "x"),
        ({"question": "Is it?", "choices": ["no", "yes"], "answer": True}, "yes"),
        ({"input": "Which?", "choices": ["x", "y"], "target": ["B"], "metadata": {"note": "a long text"}}, "y"),
        ({"query": "Which?", "choices": ["x", "y"], "gold": 1}, "y"),
        ({"question": "Which?", "choices": ["1", "2.5"], "answer": 1}, "2.5"),
        ({"question": "Which?", "choices": [3, 2.5], "answer": 1}, "2.5"),
    ],
)  # fmt: skip
def test_the_right_option_is_found(entry, right):
    if right is None:
        assert "none of" in read(entry)[0] or "different options" in read(entry)[0]
    else:
        assert right_text(one(entry)) == right


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"question": "?", "choices": ["1", "2", "3", "4"], "answer": "2"}, "can be the option '2' or the option C"),
        ({"question": "?", "choices": [1, 2, 3, 4], "answer": 3}, "can be the option '3' or the option D"),
        ({"question": "?", "choices": ["x", "y"], "answer": True}, "'true' is none"),
        ({"question": "?", "choices": ["x", "y"], "answer": 1.5}, "'1.5' is none"),
        ({"question": "?", "choices": ["x", "y"], "answer": 2}, "'2' is none"),
        ({"question": "?", "choices": ["x", "y"], "answer": None}, "target: there is none"),
        ({"question": "?", "choices": ["x", "y"], "answer": {"value": "x"}}, "none of"),
        ({"question": "?", "choices": ["x"], "answer": "A"}, "1 options"),
        ({"question": "?", "choices": ["x", None], "answer": "A"}, "an option is empty"),
        ({"question": "?", "choices": ["x", "x", "y"], "answer": "A"}, "stands there twice"),
        ({"question": "?", "choices": {"text": ["x", "y"], "label": ["A", "A"]}, "answerKey": "A"}, "the same label"),
        ({"question": "?", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"}, "texts with labels"),
        ({"question": "?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "3"}, "'3' is none"),
        ({"question": "?", "choices": "x or y", "answer": "x"}, "texts with labels"),
        ({"question": "?", "choices": ["x", "y"], "answer": "A", "answer_index": 1}, "different options"),
        ({"question": "?", "choices": [{"text": "x", "image": "a.png"}, {"text": "y"}], "answer": "A"}, "labels"),
        ({"question": "?", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 1]}}, "one option must"),
        ({"question": "?", "label": 1}, "there are no options"),
        ({"ctx": "He", "endings": ["x", "y"], "label": ""}, "target: there is none"),
    ],
)
def test_a_choice_that_is_unclear_is_refused(entry, words):
    (reason,) = read(entry)
    assert isinstance(reason, str)
    assert words in reason


def test_the_right_option_does_not_always_come_first_where_the_file_has_it_first():
    entries = [
        {"question": f"Which of {n}?", "mc1_targets": {"choices": ["x", "y", "z"], "labels": [1, 0, 0]}}
        for n in range(40)
    ]
    letters = {check_of(question).answer for question in read(*entries)}
    assert letters == {"A", "B", "C"}
    assert read(*entries) == read(*entries)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool),
        min_size=2,
        max_size=8,
        unique=True,
    ),
    st.data(),
)
def test_a_label_names_its_option_whatever_the_texts_say(texts, data):
    labels = data.draw(st.sampled_from(["ABCDEFGH", "12345678"]))
    place = data.draw(st.integers(0, len(texts) - 1))
    options = [Option(text, label) for text, label in zip(texts, labels, strict=False)]
    assert find_right(labels[place], options) == place


# ------------------------------------------------------------------------------------------- questions without options


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        ("3+4=7\n#### 1,234", NumberCheck(value=1234)),
        ("#### $5.50", NumberCheck(value=5.5)),
        ("So.\n#### -3/4", NumberCheck(value=-0.75)),
        ("So.\n#### 1/3", NumberCheck(value=1 / 3, tolerance=1e-6)),
        ("So.\n#### Monday", FactsCheck(facts=(("Monday",),))),
        ("So.\n#### 1,23", FactsCheck(facts=(("1,23",),))),
        ("So.\n#### 007", FactsCheck(facts=(("007",),))),
        ("So.\n#### 3 hours", FactsCheck(facts=(("3 hours",),))),
        ("So.\n#### 12345678901234567", FactsCheck(facts=(("12345678901234567",),))),
        ("So.\n#### 1/0", FactsCheck(facts=(("1/0",),))),
        ("Thus $x = \\boxed{\\frac{1}{2}}$.", NumberCheck(value=0.5)),
        ("Thus \\boxed{x^{2}}.", FactsCheck(facts=(("x^{2}",),))),
        (7, NumberCheck(value=7)),
        (7.0, NumberCheck(value=7)),
        (["7", "7.0", " 7 "], NumberCheck(value=7)),
        (["7", "seven"], FactsCheck(facts=(("7", "seven"),))),
        ("No", ChoiceCheck(answer="no", options=("yes", "no"))),
        (False, ChoiceCheck(answer="no", options=("yes", "no"))),
        ("True", ChoiceCheck(answer="true", options=("true", "false"))),
        ({"text": ["Rome", "rome", "in Rome"], "answer_start": [1, 1, 2]}, FactsCheck(facts=(("Rome", "in Rome"),))),
        ({"value": "A B", "aliases": [], "normalized_value": "a b", "type": "X"}, FactsCheck(facts=(("A B",),))),
        ([{"text": "Rome", "answer_start": 3}], FactsCheck(facts=(("Rome",),))),
        ("１２", NumberCheck(value=12)),
        ("Yes.", ChoiceCheck(answer="yes", options=("yes", "no"))),
        ("C", ChoiceCheck(answer="C", options=tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))),
        ("Thus \\boxed{\\text{blue}}.", FactsCheck(facts=(("blue",),))),
        ("1945-09-02", FactsCheck(facts=(("1945-09-02",),))),
    ],
)
def test_an_answer_is_checked_as_what_it_is(answer, check):
    assert check_of(one({"question": "What?", "answer": answer})) == check


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"question": "?", "answer": ""}, "target: there is none"),
        ({"question": "?", "answer": "so\n####  "}, "nothing follows the `####`"),
        ({"question": "?", "answers": {"text": [], "answer_start": []}, "context": "c"}, "target: there is none"),
        ({"question": "?", "answer": "x", "is_impossible": True}, "does not answer"),
        ({"question": "?", "answer": "x", "image": "data:image/png;base64,AAAA"}, "picture"),
        ({"question": "?", "answer": "x", "image_path": "a.png"}, "picture"),
        ({"question": "?", "answer": "x", "decoded_image": {"bytes": "AA"}}, "picture"),
        ({"question": "?", "answer": "x", "audio": {"array": [1.0]}}, "picture or another file"),
        ({"input": "?", "target": "x", "files": {"a.txt": "b"}}, "picture or another file"),
        ({"question": "?", "answer": "x", "context": {"title": ["a"], "sentences": [["b"]]}}, "context: the question comes"),
        ({"question": "?", "answer": "x", "hint": "Use the rule."}, "hint: TMDE does not know"),
        ({"question": "?", "answer": "x", "search_results": {"description": ["a long page"]}}, "search_results: TMDE"),
        ({"question": "?", "answer": "x", "target": "y"}, "different answers"),
        ({"question": "?", "Question": "!", "answer": "x"}, "has the same name"),
        ({"data": [{"paragraphs": []}]}, "holds no question"),
        ({"question": "?", "answer": {"foo": 1}}, "a text, a number"),
        ({"question": "?", "answer": ["a", ["b"]]}, "a text, a number"),
        ({"question": 5, "answer": "x"}, "question: text"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                    {"role": "user", "content": "c"}], "ideal": "x"}, "3 turns"),
        ({"input": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "ideal": "x"}, "else than text"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_and_never_dropped(entry, words):
    (reason,) = read(entry)
    assert isinstance(reason, str), reason
    assert words in reason


def test_an_evals_sample_keeps_its_system_message():
    turns = [{"role": "system", "content": "Answer with one word."}, {"role": "user", "content": "Capital of France?"}]
    question = one({"input": turns, "ideal": ["Paris", "Paris."]})
    assert question.query == "Answer with one word.\n\nCapital of France?"
    assert question.reference == "Paris"


def test_a_number_beyond_all_floats_is_refused():
    ((_, reason),) = read_entries('{"question": "?", "answer": 1e999}')
    assert reason == "This is not valid JSON: 1e999 is too large a number."


def test_squads_nested_file_has_a_question_for_each_of_its_questions():
    file = {
        "version": "v2.0",
        "data": [
            {
                "title": "Rome",
                "paragraphs": [
                    {
                        "context": "Tom went to Rome in May.",
                        "qas": [
                            {"id": "q1", "question": "When?", "answers": [{"text": "May", "answer_start": 20}], "is_impossible": False},
                            {"id": "q2", "question": "Why?", "answers": [], "plausible_answers": [{"text": "May", "answer_start": 20}], "is_impossible": True},
                        ],
                    }
                ],
            }
        ],
    }  # fmt: skip
    for content in (json.dumps(file), json.dumps(file, indent=2)):
        first, second = (entry for _, entry in read_entries(content))
        assert (first.id, first.query) == ("q1", "Tom went to Rome in May.\n\nWhen?")
        assert second == "Question q2: is_impossible: the passage does not answer the question."


def test_a_long_answer_is_the_judges_to_compare():
    text = "Ice floats because water expands when it freezes, so that ice is lighter than the water around it."
    question = one({"instruction": "Explain.", "input": "Why does ice float?", "output": text})
    assert question.query == "Why does ice float?\n\nExplain."
    assert (question.reference, question.criteria, question.rubric) == (text, (), SAME_AS_REFERENCE)


def test_truthfulqas_sentences_become_a_rubric():
    question = one({"question": "What if?", "best_answer": "Nothing.", "correct_answers": ["Nothing.", "It is fine."],
                    "incorrect_answers": ["You die."], "source": "https://x", "category": "Myths"})  # fmt: skip
    assert question.reference == "Nothing."
    assert "It is fine." in question.rubric
    assert "You die." in question.rubric.splitlines()[1]


# --------------------------------------------------------------------------------------------------------- logged samples


def logged(target, *requests, doc=None):
    return {"doc_id": 0, "doc": doc or {"x": 1}, "target": target, "arguments": [list(one) for one in requests],
            "resps": [[["-1", "False"]]], "filtered_resps": [["-1", "False"]]}  # fmt: skip


def test_the_continuations_of_a_logged_sample_are_its_options():
    question = one(logged(1, ("Q: Which?\nAnswer:", " iron"), ("Q: Which?\nAnswer:", " gold")))
    assert right_text(question) == "gold"
    assert question.query.startswith("Q: Which?\n\nA) iron")
    assert right_text(one(logged("1", ("Q", " iron"), ("Q", " gold")))) == "gold"
    assert right_text(one(logged("gold", ("Q", " iron"), ("Q", " gold")))) == "gold"


def test_continuations_that_are_letters_belong_to_the_options_of_the_prompt():
    prompt = "Which?\nA. iron\nB. gold\nAnswer:"
    question = one(logged(1, (prompt, " A"), (prompt, " B")))
    assert check_of(question) == ChoiceCheck(answer="B", options=("A", "B"))
    assert question.query == "Which?\nA. iron\nB. gold\n\nAnswer with the letter of the right one."
    asked = one(logged("B", (prompt, {"until": ["\n"]})))
    assert check_of(asked) == ChoiceCheck(answer="B", options=("A", "B"))


def test_requests_are_counted_by_their_number():
    arguments = {
        f"gen_args_{n}": {"arg_0": "Which?", "arg_1": f" option {n}"} for n in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    }
    question = one({"doc_id": 0, "doc": {}, "target": 10, "arguments": arguments})
    assert right_text(question) == "option 10"


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (logged(0, ("The cat", " sat")), "how likely a text is"),
        (logged(0, ("Sarah", " won"), ("Maria", " won")), "different prompts"),
        (logged(2, ("Q", " A"), ("Q", " B")), "none of the 2"),
        (logged("2", ("Q", " 1"), ("Q", " 2"), ("Q", " 3")), "can be the option '2' or the option C"),
        (logged("", ("Q", {"until": []})), "target: there is none"),
        (logged("x", ("<|im_start|>user\nQ<|im_end|>", {})), "none of `query`"),
        (logged("x", ("Q", {}, {"visual": ["a"]})), "more than text"),
        (logged("x", (5, {})), "not text"),
    ],
)
def test_a_logged_sample_that_asks_no_question_is_refused(sample, words):
    (reason,) = read(sample)
    assert isinstance(reason, str), reason
    assert words in reason


def test_the_document_is_read_where_the_prompt_is_a_chat_template():
    prompt = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    question = one(logged("4", (prompt, {}), doc={"question": "2+2?", "answer": "So.\n#### 4"}))
    assert (question.query, check_of(question)) == ("2+2?", NumberCheck(value=4))


# --------------------------------------------------------------------------------------------------------------- code


def test_a_humaneval_task_is_checked_by_each_of_its_assertions():
    task = {
        "task_id": "HumanEval/0", "entry_point": "double", "canonical_solution": "    return 2 * x\n",
        "prompt": 'def double(x: int) -> int:\n    """Double x."""\n',
        "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1) == 2\n    y = 3\n    assert candidate(y) == 6, 'no'\n",
    }  # fmt: skip
    question = one(task)
    assert (question.id, question.domain) == ("HumanEval-0", "coding")
    assert question.query.endswith('```python\ndef double(x: int) -> int:\n    """Double x."""\n```')
    assert question.reference.endswith("return 2 * x\n")
    check = check_of(question)
    assert isinstance(check, CodeCheck)
    assert check.tests[1].splitlines() == [
        "METADATA = {}",
        "candidate = double",
        "y = 3",
        "assert candidate(y) == 6, 'no'",
    ]


def test_assertions_inside_a_loop_are_one_test():
    task = {
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "test": "def check(c):\n    for x in range(3):\n        assert c(x) == x\n",
    }
    (test,) = check_of(one(task)).tests
    assert test.endswith("assert _holds()")


def test_an_mbpp_task_shows_the_tests_that_name_its_function():
    task = {"task_id": 2, "text": "Add two numbers.", "code": "def add(a, b): return a + b", "test_setup_code": "",
            "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"], "challenge_test_list": []}  # fmt: skip
    question = one(task)
    assert "assert add(1, 2) == 3" in question.query
    assert check_of(question).tests == ("assert add(1, 2) == 3", "assert add(0, 0) == 0")


# --------------------------------------------------------------------------------------------------- JSON and YAML texts


def test_a_json_list_and_objects_over_several_lines_are_read_with_their_lines():
    entries = [{"question": "one?", "answer": "1"}, {"question": "two?", "answer": "2"}]
    spread = json.dumps(entries, indent=1)
    assert [(line, entry.query) for line, entry in read_entries(spread)] == [(2, "one?"), (6, "two?")]
    assert [line for line, _ in read_entries(json.dumps(entries))] == [1, 1]
    objects = "\n".join(json.dumps(entry, indent=1) for entry in entries)
    assert [(line, entry.query) for line, entry in read_entries(objects)] == [(1, "one?"), (5, "two?")]


def test_a_list_that_breaks_off_keeps_what_came_before():
    found = list(read_entries('[\n{"question": "one?", "answer": "1"},\n{"question": \n'))
    assert isinstance(found[0][1], Question)
    assert found[1][0] == 3
    assert "The rest of the file was not read" in found[1][1]


@pytest.mark.parametrize(
    ("line", "as_yaml"),
    [('{"question": "a", "answer": "b", "answer": "c"}', False), ("- question: a\n  answer: b\n  answer: c", True),
     ('{"question": "a", "choices": {"A": "x", "A": "y"}, "answer": "A"}', False)],
)  # fmt: skip
def test_a_field_that_stands_twice_refuses_its_entry(line, as_yaml):
    ((_, reason),) = read_entries(line, as_yaml=as_yaml)
    assert "stands there twice" in reason


@pytest.mark.parametrize(
    "written",
    ["12:30", "010", "yes", "off", "1_000", "0x10", "~", ".inf", "null", "2001-01-01", "0o7", "1:30:00", "<<", "="],
)
def test_yaml_guesses_nothing(written):
    ((_, question),) = read_entries(f"- question: what?\n  answer: {written}", as_yaml=True)
    assert isinstance(question, Question), question
    assert question.reference == written


def test_the_numbers_of_a_criterion_are_numbers_in_yaml():
    text = """
    - query: What is 2 + 2?
      domain: mathematics
      rubric: null
      criteria:
        - name: sum
          weight: 2.5
          check: {kind: number, value: 4, tolerance: 1e-3}
        - {name: short, check: {kind: count, of: words, maximum: 20}}
        - {name: calm, check: {kind: regex, pattern: "!", absent: true}}
        - {name: three, check: {kind: form, form: list, value: 3}}
    """
    ((_, question),) = read_entries(text, as_yaml=True)
    assert isinstance(question, Question), question
    assert question.criteria[0].weight == 2.5
    assert question.criteria[0].check == NumberCheck(value=4, tolerance=0.001)
    assert question.criteria[2].check.absent is True
    assert question.criteria[3].check.value == "3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- &a {query: x}\n- *a", "Line 1: this is not valid YAML: anchors"),
        ("- query: !!python/object/apply:os.system [ls]", "tag"),
        ("- query: !!int 5", "tag"),
        ("- query: x\n---\n- query: y", "Line 2: this is not valid YAML: a second document begins"),
        ("[" * 50, "nested too deeply"),
        ("- query: x\n  reference: null", "reference: leave the field out"),
        ("- query: x\n  criteria: [{name: a, check: {kind: number, value: 0x10}}]", "value"),
    ],
)
def test_yaml_that_is_more_than_text_is_refused(text, words):
    try:
        ((_, reason),) = read_entries(text, as_yaml=True)
    except InvalidInputError as error:
        reason = error.detail
    assert words in reason


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_question_files_of_windows_programs_are_read(encoding, ends):
    lines = ends.join(
        ['{"question": "Wo liegt Köln?", "answer": "am Rhein"}', "", '{"question": "a\u2028b", "answer": "c"}', ""]
    )
    found = list(read_entries(lines.encode(encoding)))
    assert [(line, entry.query) for line, entry in found] == [(1, "Wo liegt Köln?"), (3, "a\u2028b")]
    text = ends.join(["- question: Wo liegt Köln?", "  answer: am Rhein"])
    ((_, question),) = read_entries(text.encode(encoding), as_yaml=True)
    assert question.query == "Wo liegt Köln?"


def test_another_encoding_is_refused_in_one_sentence():
    with pytest.raises(InvalidInputError, match=r"not UTF-8 text: byte 16 .*line 1"):
        list(read_entries('{"question": "Köln?", "answer": "ja"}'.encode("latin-1")))
    with pytest.raises(InvalidInputError, match="UTF-32"):
        list(read_entries(codecs.BOM_UTF32_LE + b"x"))


# ------------------------------------------------------------------------------------------------------------ properties

NAMES = [
    *(
        "question",
        "query",
        "input",
        "prompt",
        "answer",
        "answers",
        "target",
        "label",
        "choices",
        "options",
        "endings",
        "ctx",
    ),
    *(
        "passage",
        "context",
        "mc1_targets",
        "test_list",
        "test",
        "entry_point",
        "doc",
        "arguments",
        "data",
        "paragraphs",
    ),
    *(
        "qas",
        "A",
        "B",
        "distractor1",
        "correct_answer",
        "is_impossible",
        "metadata",
        "image",
        "best_answer",
        "answer_index",
    ),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["A", "B", "2", "x", "yes", "#### 3", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["text", "label", "labels", "choices", "value", "role", "content", "A", "B"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=6))
def test_whatever_a_line_holds_is_read_or_refused_in_words(entry):
    for found in read(entry):
        assert isinstance(found, str | Question)


@given(st.text(max_size=120), st.booleans())
def test_whatever_a_text_holds_is_read_or_refused_in_words(text, as_yaml):
    try:
        found = list(read_entries(text, as_yaml=as_yaml))
    except InvalidInputError:
        return
    assert all(isinstance(entry, str | Question) for _, entry in found)


@given(st.integers(-(10**12), 10**12))
def test_a_whole_number_is_read_in_all_its_usual_forms(number):
    for text in (str(number), f"{number:,}", f"#### {number}".removeprefix("#### "), str(number).replace("-", "−")):
        assert read_number(text) == (float(number), 0.0)


@given(st.text(st.sampled_from("0123456789,.-/eE% $")))
def test_a_number_is_read_whole_or_not_at_all(text):
    found = read_number(text)
    if found is not None:
        digits = "".join(filter(str.isdigit, text))
        assert digits
        assert not text.strip().endswith((",", ".", "-", "/", "e", "E"))
