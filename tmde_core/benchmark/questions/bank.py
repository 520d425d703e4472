"""Provides all benchmark questions: those in the suites of plugins and the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NoReturn

import msgspec
import structlog

from tmde_core.benchmark.questions.rubric import as_asked, list_question
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.finetune.dataset.leaks import Protected
from tmde_core.finetune.dataset.same_question import normalise_question
from tmde_core.plugins import Plugins
from tmde_core.records.base import to_json, utc_now
from tmde_core.records.benchmark import DOMAINS, BenchmarkPlan, BenchmarkQuestion
from tmde_core.records.questions import Question
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time

log = structlog.get_logger(__name__)

CUSTOM = "custom"
"""The name of the suite that holds the user's own questions."""

QUICK = 10
DIFFICULTIES = ("easy", "medium", "hard")

Listed = list[BenchmarkQuestion]
Anchors = list[tuple[str, Question, str]]
Clashes = list[ConflictError | None]
"""Aliases of `list` types, because the class below has a method called `list` that would hide the type."""


class QuestionBank:
    """Provides and stores the questions of one data directory."""

    def __init__(self, database: Database, plugins: Plugins) -> None:
        self._db = database
        self._plugins = plugins

    async def list(self, domain: str | None = None, difficulty: str | None = None, suite: str | None = None) -> Listed:
        """Return the built-in questions and the user's own questions.

        Raises:
            InvalidInputError: The domain or the difficulty is unknown.
            NotFoundError: The suite does not exist.
        """
        if difficulty is not None and difficulty not in DIFFICULTIES:
            raise InvalidInputError(
                f"difficulty: {difficulty[:40]!r} is not one of {', '.join(DIFFICULTIES)}.", field="difficulty"
            )
        everything = await self._all(suite)
        known = sorted({*DOMAINS, *(question.domain for question in everything)})
        if domain is not None and domain not in known:
            raise InvalidInputError(f"domain: {domain[:40]!r} is not one of {', '.join(known)}.", field="domain")
        return [
            question
            for question in everything
            if (domain is None or question.domain == domain)
            and (difficulty is None or question.difficulty == difficulty)
        ]

    async def choose(self, plan: BenchmarkPlan) -> tuple[str, Sequence[Question]]:
        """Return the suite's name and the questions that a plan asks.

        Raises:
            InvalidInputError: A custom run names no questions, or a run of another type names questions.
            NotFoundError: The suite or a question does not exist.
        """
        if plan.type == "custom":
            return await self._picked(plan)
        if plan.question_ids:
            raise InvalidInputError(
                "questionIds: only a run of type `custom` chooses its questions.", field="questionIds"
            )
        suite = self._suite(plan.suite)
        questions = self._questions(suite)
        if plan.type == "quick":
            quick = self._quick(suite, questions)
            questions = [question for question in questions if question.id in quick]
        return suite.name, questions

    async def _picked(self, plan: BenchmarkPlan) -> tuple[str, Sequence[Question]]:
        everything = await self._all(plan.suite or None)
        if not plan.question_ids:
            if plan.suite and everything:
                return plan.suite, [as_asked(one) for one in everything]
            raise InvalidInputError("questionIds: a custom run needs at least one question.", field="questionIds")
        known = {one.id: as_asked(one) for one in everything}
        missing = [name for name in plan.question_ids if name not in known]
        if missing:
            raise InvalidInputError(
                f"questionIds: there is no question called {', '.join(repr(name[:60]) for name in missing[:5])}.",
                field="questionIds",
            )
        return plan.suite or CUSTOM, [known[name] for name in dict.fromkeys(plan.question_ids)]

    async def list_own(self) -> Sequence[Question]:
        """Return the user's own questions, oldest first."""
        return [question for question, _ in await self._own()]

    async def _own(self) -> Sequence[tuple[Question, datetime]]:
        """Return the user's own questions with the times when they were created, oldest first."""
        rows = await self._db.rows("SELECT question, created_at FROM benchmark_questions ORDER BY created_at, id")
        return [(msgspec.json.decode(row[0], type=Question), datetime.fromisoformat(row[1])) for row in rows]

    async def add(self, question: Question) -> BenchmarkQuestion:
        """Store one of the user's own questions; the caller has validated the question.

        Raises:
            ConflictError: The id is already used, or another question asks the same.
        """
        (clash,) = await self.find_clashes([question])
        if clash is not None:
            raise clash
        await self.add_all([question])
        return await self._stored(question.id)

    async def find_clashes(self, questions: Sequence[Question], instead_of: str = "") -> Clashes:
        """Return for each question the reason why the question cannot be added, or None if it can be added.

        Each question is compared with the stored questions and with the questions before it in the sequence.

        Args:
            instead_of: The id of a stored question that the new questions replace.
        """
        everything = [one for one in await self._all(None) if one.id != instead_of]
        ids = {one.id for one in everything}
        asked = {normalise_question(one.question): one for one in everything}
        found: Clashes = []
        for question in questions:
            same = asked.get(normalise_question(question.query))
            if question.id in ids:
                words = f"There is a question with the id {question.id!r} already. Choose another id."
                found.append(ConflictError(words, questionId=question.id))
            elif same is not None:
                kind = "built-in question" if same.is_built_in else "question"
                found.append(ConflictError(f"The {kind} {same.id!r} asks the same.", questionId=same.id))
            else:
                found.append(None)
                ids.add(question.id)
                asked[normalise_question(question.query)] = list_question(question, CUSTOM, utc_now())
        return found

    async def add_all(self, questions: Iterable[Question]) -> None:
        """Store questions that clash with no other question, either all of them or none."""
        rows = [(one.id, encode_time(utc_now()), to_json(one).decode()) for one in questions]
        async with self._db.transaction() as connection:
            await connection.executemany(
                "INSERT INTO benchmark_questions (id, created_at, question) VALUES (?, ?, ?)", rows
            )

    async def replace(self, question: Question) -> BenchmarkQuestion:
        """Replace the user's own question that has the same id, in one step; the caller has validated the question.

        Runs that asked the earlier question keep the earlier question.

        Raises:
            NotFoundError: The question does not exist.
            ConflictError: The stored question is built in, or another question asks the same.
        """
        (clash,) = await self.find_clashes([question], instead_of=question.id)
        if clash is not None:
            raise clash
        values = (to_json(question).decode(), question.id)
        if not await self._db.write("UPDATE benchmark_questions SET question = ? WHERE id = ?", values):
            await self._not_own(question.id, "changed")
        return await self._stored(question.id)

    async def _stored(self, question_id: str) -> BenchmarkQuestion:
        return next(list_question(one, CUSTOM, created) for one, created in await self._own() if one.id == question_id)

    async def remove(self, question_id: str) -> None:
        """Remove one of the user's own questions; runs that asked the question keep it.

        Raises:
            NotFoundError: The question does not exist.
            ConflictError: The question is built in.
        """
        if not await self._db.write("DELETE FROM benchmark_questions WHERE id = ?", (question_id,)):
            await self._not_own(question_id, "removed")

    async def _not_own(self, question_id: str, done: str) -> NoReturn:
        if any(question.id == question_id for question in await self._all(None)):
            raise ConflictError(f"The question {question_id!r} is built in and cannot be {done}.", builtin=True)
        raise NotFoundError(f"There is no question called {question_id[:60]!r}.")

    async def list_protected(self) -> Sequence[Protected]:
        """Return every question that must not be trained on: all questions except those made for practice."""
        found = [Protected(f"{CUSTOM}/{one.id}", one.query) for one in await self.list_own()]
        for suite in self.suites():
            try:
                asked = self._questions(suite)
            except Exception as error:  # a plugin's own defect must not stop training; its suite cannot run either
                log.warning("questions.suite_unreadable", suite=suite.name, error=f"{type(error).__name__}: {error}")
                continue
            found += [Protected(f"{suite.name}/{one.id}", one.query) for one in asked if one.split != "practice"]
        return found

    def suites(self) -> Sequence[SuiteDescriptor]:
        """Return the suites of the plugins, the default suite first."""
        return sorted(self._plugins.suites, key=lambda suite: (not suite.default, suite.name))

    def anchors(self) -> Anchors:
        """Return the frozen answers that show whether a judge scores consistently, as (id, question, answer)."""
        found = []
        for suite in self.suites():
            for number, anchor in enumerate(suite.anchors() if suite.anchors else ()):
                item = anchor.item
                question = Question(
                    id=f"{suite.name}/{number}",
                    query=item.question,
                    reference=item.reference,
                    check=item.check,
                    rubric=item.rubric,
                    criteria=item.criteria,
                )
                found.append((question.id, question, item.answer))
        return found

    async def _all(self, suite: str | None) -> Listed:
        found: Listed = []
        if suite != CUSTOM:
            for one in [self._suite(suite)] if suite else self.suites():
                questions = self._questions(one)
                quick = self._quick(one, questions)
                found += [
                    list_question(question, one.name, one.created_at, built_in=True, quick=question.id in quick)
                    for question in questions
                ]
        if suite in (None, CUSTOM):
            found += [list_question(question, CUSTOM, created) for question, created in await self._own()]
        return found

    def _suite(self, name: str) -> SuiteDescriptor:
        suites = self.suites()
        if not name and suites:
            return suites[0]
        if name not in self._plugins.suites:
            known = ", ".join(suite.name for suite in suites) or "none"
            raise NotFoundError(f"There is no suite called {name[:60]!r}; there are: {known}.")
        return self._plugins.suites.get(name)

    @staticmethod
    def _questions(suite: SuiteDescriptor) -> Sequence[Question]:
        return tuple(suite.questions())

    @staticmethod
    def _quick(suite: SuiteDescriptor, questions: Iterable[Question]) -> frozenset[str]:
        return frozenset(suite.quick or [question.id for question in questions][:QUICK])
