"""Draw one question of one or two runs: the question, the answers and the reasons for their scores.

People and models wrote the questions and answers, so only `render` turns them into HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tmde_core.errors import NotFoundError, TmdeError
from tmde_core.records.benchmark import BenchmarkResult, BenchmarkRun
from tmde_core.services import Services
from tmde_ui.benchmark.words import day
from tmde_ui.kit.elements import Tag, chip
from tmde_ui.kit.names import name_of
from tmde_ui.kit.render import prose, render
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, score, sentence

SHOWN_REASONS = 20


class Drill:
    """Fetches and draws the answers of a question when a person opens it."""

    def __init__(self, services: Services, a: UUID | None, b: UUID) -> None:
        self._benchmark = services.benchmark
        self._runs = [run for run in (a, b) if run is not None]

    async def fill(self, box: Tag, question_id: str) -> None:
        """Draw the question and its answers into the box."""
        try:
            question = next(
                (one for one in await self._benchmark.list_asked_questions(self._runs[-1]) if one.id == question_id),
                None,
            )
            runs = [(await self._benchmark.get(run), await self._answers(run, question_id)) for run in self._runs]
        except TmdeError as error:
            with box:
                Tag("p", sentence(error), "notice bad")
            return
        asked = question.query if question is not None else runs[-1][1][0].query if runs[-1][1] else ""
        content = await render(asked)
        reference = await render(question.reference) if question is not None and question.reference else ""
        told = [[await render(one.final_answer) for one in answers] for _, answers in runs]
        with box:
            with Tag("div", classes="stack tight"):
                Tag("p", f"Question {question_id}", "eyebrow")
                prose(content)
            if reference:
                with Tag("details"):
                    Tag("summary", "The reference answer")
                    prose(reference)
            with Tag("div", classes="answers" if len(runs) > 1 else "answers single", data_testid="answers"):
                for (run, answers), contents in zip(runs, told, strict=True):
                    _column(run, answers, contents)

    async def _answers(self, run_id: UUID, question_id: str) -> Sequence[BenchmarkResult]:
        try:
            return await self._benchmark.result(run_id, question_id)
        except NotFoundError:
            await self._benchmark.get(run_id)  # raises if the run itself does not exist
            return ()


def _column(run: BenchmarkRun, answers: Sequence[BenchmarkResult], contents: Sequence[str]) -> None:
    with Tag("div", classes="stack tight"):
        Tag("p", f"{name_of(run.adapter_id)}, {day(run.started_at)}", "muted small")
        if not answers:
            Tag("p", "This run did not ask this question.", "said muted")
        for answer, content in zip(answers, contents, strict=True):
            _answer(answer, content, several=len(answers) > 1)


def _answer(answer: BenchmarkResult, content: str, *, several: bool) -> None:
    with Tag("article", classes="said stack tight", data_testid="answer"):
        with Tag("div", classes="line spread"):
            if answer.status == "failed":
                chip("failed", "critical")
            elif answer.quality_score is None:
                chip("no verdict")
            else:
                Tag("span", f"{score(answer.quality_score)} of 10", "score")
            Tag("span", _how(answer, several), "muted small tabular")
        if answer.status == "failed":
            Tag("p", answer.error or "No reason was given.", "reason")
        else:
            prose(content)
        _verdict(answer)


def _how(answer: BenchmarkResult, several: bool) -> str:
    parts = (
        f"answer {answer.repeat + 1}" if several else "",
        format_milliseconds(answer.response_time_ms),
        count(answer.tokens, "token") if answer.tokens else "",
        count(answer.debate_rounds, "round") if answer.debate_rounds > 1 else "",
        count(answer.tries, "try", "tries") if answer.tries > 1 else "",
    )
    return " · ".join(part for part in parts if part)


def _verdict(answer: BenchmarkResult) -> None:
    """Draw the score of each criterion and the reasons as text."""
    if answer.criteria:
        with Tag("ul", classes="criteria"):
            for name, value in answer.criteria.items():
                with Tag("li"):
                    Tag("span", name, "muted")
                    Tag("span", score(value) if value is not None else "open", "tabular")
    if answer.reasons:
        with Tag("details"):
            Tag("summary", "Why")
            with Tag("ul", classes="skipped"):
                for reason in answer.reasons[:SHOWN_REASONS]:
                    Tag("li", reason)
