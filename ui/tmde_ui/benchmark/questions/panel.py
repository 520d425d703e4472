"""The list of a person's own questions: write, change and remove them."""

from __future__ import annotations

from tmde_core.benchmark.questions.rubric import as_asked
from tmde_core.records.benchmark import BenchmarkQuestion
from tmde_core.services import Services
from tmde_ui.benchmark.questions.checks import is_checked
from tmde_ui.benchmark.questions.editor import QuestionEditor
from tmde_ui.benchmark.questions.imports import import_dialog
from tmde_ui.benchmark.words import domain_name
from tmde_ui.kit.asking import ask_once
from tmde_ui.kit.elements import Tag, button, open_on_press
from tmde_ui.kit.words import count, snippet


class OwnQuestions:
    """Shows the list of questions and opens the editor."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._shown: list[BenchmarkQuestion] | None = None
        with Tag(
            "section", classes="stack tight", aria_label="Your own questions", data_testid="own-questions"
        ) as self._section:
            with Tag("div", classes="line spread"):
                Tag("h2", "Your own questions")
                with Tag("div", classes="line"):
                    bring = button("Import", test="import-questions", aria_haspopup="dialog")
                    fresh = button("New question", test="new-question", aria_haspopup="dialog")
            self._box = Tag("div")
        self._editor = QuestionEditor(services, self.show)
        fresh.on("click", self._editor.open, args=[])
        dialog = import_dialog(self.show)
        open_on_press(bring, dialog)

    async def show(self) -> None:
        """Redraw the questions if they have changed."""
        questions = [one for one in await self._services.benchmark.questions(suite="custom") if not one.is_built_in]
        if questions == self._shown:
            return
        self._shown = questions
        self._box.clear()
        with self._box:
            if not questions:
                Tag(
                    "p",
                    "No questions yet. Write your own: custom runs can ask them, and they are never used for training.",
                    "muted",
                    data_testid="no-questions",
                )
                return
            with Tag("ul", classes="rows"):
                for one in questions:
                    with Tag("li", classes="own-question", data_testid="own-question"):
                        self._row(one)

    def _row(self, one: BenchmarkQuestion) -> None:
        with Tag("div", classes="lead"):
            Tag("p", snippet(one.question))
            told = "checked automatically" if is_checked(as_asked(one)) else "scored by a judge"
            criteria = f", {count(len(one.criteria), 'criterion', 'criteria')}" if one.criteria else ""
            Tag("p", f"{one.id} · {domain_name(one.domain)}, {one.difficulty}{criteria}: {told}", "muted small")
        with Tag("div", classes="line"):
            change = button("Change", test="change-question", aria_label=f"Change the question {one.id}")
            gone = button("Remove", "danger", test="remove-question", aria_label=f"Remove the question {one.id}")
        change.on("click", lambda: self._editor.open(as_asked(one)), args=[])
        gone.on("click", lambda: self._ask(one), args=[])

    def _ask(self, one: BenchmarkQuestion) -> None:
        ask_once(
            self._section,
            "Remove this question?",
            "Earlier runs keep the question and its answers. Later runs cannot ask it.",
            yes="Remove it",
            no="Keep it",
            deed=lambda: self._services.benchmark.remove_question(one.id),
            then=self.show,
            test="remove",
        )
