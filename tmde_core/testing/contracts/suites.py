"""Define the rules for every benchmark suite. Subclass the contract in a test module and say how the suite is described.

class TestMySuite(SuiteContract):
    def suite(self):
        return tmde_benchmark_suites()[0]
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import pytest

from tmde_core.benchmark.questions.custom import decode_question
from tmde_core.errors import InvalidInputError
from tmde_core.plugins import Plugins
from tmde_core.records.base import to_json
from tmde_core.records.judging import JudgeItem
from tmde_core.records.questions import JudgeAnchor, Question
from tmde_core.sdk.judges import CheckingJudge, Judge
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.testing.contexts import make_context
from tmde_core.testing.contracts.judges import ask
from tmde_core.testing.contracts.rules import calling, not_run, provide, require

__all__ = ["SuiteContract"]

LONGEST_SECONDS = 10.0
"""The time limit for one call of `questions`. Hundreds of questions are read from a file in milliseconds."""
SHOWN = 5
"""The number of questions that a sentence names. Further questions are counted."""
FULL_MARKS = 9.999


class SuiteContract:
    """The rules for suites. pytest runs them in subclasses called `Test…`."""

    def suite(self) -> SuiteDescriptor:
        """Return the descriptor of the suite under test."""
        raise NotImplementedError

    def checking_judge(self) -> Judge | None:
        """Return the judge that decides checks. By default, this is the installed judge."""
        offered = next((one for one in Plugins.load().judges if one.checks), None)
        return None if offered is None else offered.create(make_context(offered.settings))

    def test_the_questions_are_there_and_come_quickly(self, request: pytest.FixtureRequest) -> None:
        """Require that the questions can be read quickly, because every run reads them."""
        suite = provide(request, self.suite)
        began = time.monotonic()
        found = asked(suite)
        seconds = time.monotonic() - began
        require(found, "questions() returns nothing. A run of this suite could measure nothing. Return the questions.")
        require(
            seconds < LONGEST_SECONDS,
            f"questions() took {seconds:.0f} seconds. Every run, and every page that shows the suite, waits for it. Read the "
            "questions from a file of the package.",
        )

    def test_they_are_the_same_every_time(self, request: pytest.FixtureRequest) -> None:
        """Require the same questions in every call, because only runs of the same questions are compared."""
        suite = provide(request, self.suite)
        require(
            _content(asked(suite)) == _content(asked(suite)),
            "questions() returned other questions, or another order, when it was called again. TMDE compares runs whose questions "
            "have the same content hash. Return the same list every time; shuffle nothing.",
        )

    def test_ids_are_unique(self, request: pytest.FixtureRequest) -> None:
        """Require unique ids, because results are stored by id."""
        twice = _repeated(question.id for question in asked(provide(request, self.suite)))
        require(
            not twice,
            f"Several questions have the id {_named(twice)}. Answers are filed under the id. Give each question its own.",
        )

    def test_every_question_is_valid(self, request: pytest.FixtureRequest) -> None:
        """Require that every question passes the rules of TMDE's own import."""
        wrong = []
        for question in asked(provide(request, self.suite)):
            try:
                decode_question(msgspec.to_builtins(question))
            except InvalidInputError as error:
                wrong.append(f"{question.id}: {error.detail}")
        require(
            not wrong,
            f"{_counted(wrong)} that `tmde bench questions import` would refuse. {' '.join(wrong[:SHOWN])} A run would stop at them "
            "or score them wrongly.",
        )

    def test_the_quick_questions_exist(self, request: pytest.FixtureRequest) -> None:
        """Require that `quick` names questions of the suite, each once."""
        suite = provide(request, self.suite)
        known = {question.id for question in asked(suite)}
        missing = [name for name in suite.quick if name not in known]
        require(
            not missing,
            f"quick names {_named(missing)}, and the suite has no such question. A quick run would ask fewer than it says. Correct "
            "the ids.",
        )
        twice = _repeated(suite.quick)
        require(
            not twice, f"quick names {_named(twice)} more than once. A quick run asks each question once. Remove one."
        )

    def test_every_check_can_work(self, request: pytest.FixtureRequest) -> None:
        """Require that the checking judge finds no problem with any check."""
        questions = asked(provide(request, self.suite))
        judge = self._checking_judge()
        if not isinstance(judge, CheckingJudge):
            not_run("the judge that checks does not tell problems.")
        wrong = [
            f"{question.id}, {criterion.name}: {' '.join(judge.problems(criterion))}"
            for question in questions
            for criterion in question.criteria
            if criterion.check is not None and judge.problems(criterion)
        ]
        require(
            not wrong,
            f"{_counted(wrong, 'check')} that cannot work. {' '.join(wrong[:SHOWN])} No answer could ever pass. Correct the check.",
        )

    def test_reference_answers_pass_their_own_check(self, request: pytest.FixtureRequest) -> None:
        """Require that every reference answer passes its own check."""
        questions = asked(provide(request, self.suite))
        judge = self._checking_judge()
        wrong = [f"{question.id} ({why})" for question in questions if (why := _refused(judge, question))]
        require(
            not wrong,
            f"{_counted(wrong, 'reference answer')} that its own check does not pass: {'; '.join(wrong[:SHOWN])}. Every right answer would "
            "count as wrong. Correct the check or the reference.",
        )

    def test_anchors_are_graded_answers(self, request: pytest.FixtureRequest) -> None:
        """Require that every anchor has a grade from 0 to 10."""
        suite = provide(request, self.suite)
        if suite.anchors is None:
            return
        with calling("anchors()", "TMDE scores them in each run. Return a sequence of JudgeAnchor."):
            anchors = list(suite.anchors())
        odd = _odd(anchors, JudgeAnchor)
        require(
            not odd, f"anchors() returns a {odd and odd[0]}. TMDE scores JudgeAnchors in each run. Return nothing else."
        )
        wrong = [f"{one.grade!r}" for one in anchors if not (math.isfinite(one.grade) and 0 <= one.grade <= 10)]
        require(
            not wrong,
            f"An anchor is graded {', '.join(wrong[:SHOWN])}. The grade is what a careful person gives the answer, from 0 to 10. "
            "A judge that is right would seem to have moved.",
        )
        blank = [one.item.question[:40] for one in anchors if not one.item.question.strip()]
        require(not blank, "An anchor has no question. A judge cannot grade an answer alone. Fill item.question.")

    def _checking_judge(self) -> Judge:
        judge = self.checking_judge()
        if judge is None:
            not_run("no judge that checks is installed. Install tmde-bench-default.")
        return judge


def asked(suite: SuiteDescriptor) -> Sequence[Question]:
    """Return the questions of a suite."""
    with calling("questions()", "The suite cannot be asked. Return a sequence of Question."):
        found = list(suite.questions())
    odd = _odd(found, Question)
    require(
        not odd,
        f"questions() returns a {odd and odd[0]}. TMDE asks Questions of tmde_core.sdk.suites. Return nothing else.",
    )
    return found


def _odd(found: Sequence[object], wanted: type) -> list[str]:
    """Return the type names of the items that do not have the wanted type."""
    return [type(one).__name__ for one in found if not isinstance(one, wanted)]


def _refused(judge: Judge, question: Question) -> str:
    """Describe how a reference answer fails its own check. Return an empty string if it passes or has no check."""
    checked = [criterion.name for criterion in question.criteria if criterion.check is not None]
    if not question.reference or not (checked or question.check):
        return ""
    item = JudgeItem(
        question=question.query,
        answer=question.reference,
        reference=question.reference,
        check=question.check,
        criteria=question.criteria,
    )
    verdict = ask(judge, item, None)
    if question.criteria:
        failed = [name for name in checked if verdict.criteria.get(name, 0.0) < FULL_MARKS]
        return f"the criterion {failed[0]!r}" if failed else ""
    if verdict.score is not None and verdict.score >= FULL_MARKS:
        return ""
    return "no verdict" if verdict.score is None else f"it scores {verdict.score:g}"


def _content(questions: Sequence[Question]) -> str:
    return hashlib.sha256(to_json(list(questions))).hexdigest()


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


def _counted(wrong: Sequence[str], noun: str = "question") -> str:
    return f"There {'is one' if len(wrong) == 1 else f'are {len(wrong)}'} {noun}{'' if len(wrong) == 1 else 's'}"
