"""The fifty questions are balanced, and every check tells right from wrong."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tmde_bench_default.checks.deciding import problems, run_check
from tmde_bench_default.judges.verifier import VerifierJudge, check_criteria
from tmde_bench_default.suite import QUICK, anchors, questions, suites
from tmde_core.benchmark.questions.files import content_hash, read_questions
from tmde_core.finetune.dataset.same_question import normalise_question
from tmde_core.plugins import Plugins
from tmde_core.records.benchmark import DOMAINS
from tmde_core.sdk.judges import CheckingJudge
from tmde_core.testing import make_context

QUESTIONS = {question.id: question for question in questions()}

PRACTICE = Path(__file__).parents[2] / "data" / "questions" / "numbers.jsonl"

HASH = "17170447b7149901db490855453c25f43810b548ce9bec82d83c6bea7723a2e5"
"""Whoever changes a question changes this line too, and with it which runs can be compared."""


class Samples(msgspec.Struct):
    question: str
    criterion: str
    right: list[str]
    wrong: list[str]


SAMPLES = [
    msgspec.json.decode(line, type=Samples)
    for line in Path(__file__).with_name("answers.jsonl").read_bytes().splitlines()
]


def check_of(samples):
    return next(one for one in QUESTIONS[samples.question].criteria if one.name == samples.criterion).check


def test_there_are_ten_of_each_domain_easy_medium_and_hard():
    assert len(QUESTIONS) == len(questions()) == 50
    assert Counter(question.domain for question in questions()) == dict.fromkeys(DOMAINS, 10)
    for domain in DOMAINS:
        spread = Counter(question.difficulty for question in questions() if question.domain == domain)
        assert spread["easy"] in {3, 4}
        assert spread["medium"] == 4
        assert spread["hard"] in {2, 3}


def test_the_quick_ten_are_two_of_each_domain_of_every_difficulty():
    quick = [QUESTIONS[name] for name in QUICK]
    assert Counter(question.domain for question in quick) == dict.fromkeys(DOMAINS, 2)
    assert Counter(question.difficulty for question in quick) == {"easy": 5, "medium": 3, "hard": 2}


@pytest.mark.parametrize("question", questions(), ids=list(QUESTIONS))
def test_a_question_has_a_reference_and_criteria_that_a_machine_mostly_decides(question):
    names = [one.name for one in question.criteria]
    checked = sum(one.weight for one in question.criteria if one.check)
    assert question.reference
    assert 1 <= len(names) == len(set(names)) <= 4
    assert checked >= sum(one.weight for one in question.criteria) / 2
    assert all(one.check or one.description for one in question.criteria)
    assert [problem for one in question.criteria for problem in problems(one)] == []


@pytest.mark.parametrize("question", questions(), ids=list(QUESTIONS))
async def test_the_reference_scores_full_marks_and_the_question_itself_does_not(question):
    verdict = await check_criteria(question.reference, question.criteria)
    assert verdict.score == 10, verdict.reasons
    assert (await check_criteria(question.query, question.criteria)).score <= 5
    assert (await check_criteria("I do not know.", question.criteria)).score <= 5


@pytest.mark.parametrize("samples", SAMPLES, ids=lambda one: f"{one.question}-{one.criterion}")
async def test_a_check_tells_right_answers_from_plausible_wrong_ones(samples):
    assert samples.right
    assert len(samples.wrong) >= 2
    check = check_of(samples)
    for answer in samples.right:
        outcome = await run_check(check, answer)
        assert outcome.score == 1, (answer, outcome.reason)
    for answer in [*samples.wrong, "", " \n"]:
        outcome = await run_check(check, answer)
        assert outcome.score is not None
        assert outcome.score <= 0.5, (answer, outcome.reason)


def test_every_check_has_samples():
    checked = {(question.id, one.name) for question in questions() for one in question.criteria if one.check}
    assert {(samples.question, samples.criterion) for samples in SAMPLES} == checked


def test_the_content_is_what_its_hash_says():
    assert content_hash(questions()) == HASH


def test_no_question_is_a_practice_question():
    practice = {normalise_question(question.query) for question in read_questions(PRACTICE)}
    assert not practice & {normalise_question(question.query) for question in questions()}


def test_the_graded_answers_are_ten_from_useless_to_excellent():
    assert len(anchors()) == 10
    assert {anchor.grade for anchor in anchors()} >= {0, 10}
    assert all(anchor.item.reference and anchor.item.rubric for anchor in anchors())


def test_the_plugin_offers_the_suite_and_a_judge_that_knows_bad_checks():
    plugins = Plugins.load()
    assert plugins.suites.get("tmde-50") == suites()[0]
    assert plugins.suites.get("tmde-50").default
    assert isinstance(plugins.judges.get("verifier").create(make_context()), CheckingJudge)
    assert not isinstance(plugins.judges.get("rubric").create(make_context()), CheckingJudge)
    assert VerifierJudge().problems(questions()[0].criteria[0]) == []
