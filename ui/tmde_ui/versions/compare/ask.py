"""Ask the base model and adapters one question and show their answers side by side as they are written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import UUID

from tmde_core.errors import TmdeError
from tmde_core.services import Services
from tmde_core.storage.events import EventLog
from tmde_ui.kit.elements import Tag, button
from tmde_ui.kit.forms import on_submit, submit_on_ctrl_enter
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.render import prose, render
from tmde_ui.kit.stream import Stream
from tmde_ui.kit.tending import Soon, start_task
from tmde_ui.kit.thought import Thought
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, sentence
from tmde_ui.versions.compare.answers import VersionAnswer, VersionAnswers

PAINT_SECONDS = 0.05
"""Tokens are painted at most this often. A fast model writes several in this time."""

COLOURS = ("base", "proposer", "skeptic", "synthesizer")
"""Column → the colour of its upper edge."""


class AskPanel:
    """The form and the columns of answers. A running or recent question can be reopened by its id.

    Args:
        versions: returns the versions to ask; None is the base model.
        asked: called with the id of a new question, or with None if a question no longer exists.
    """

    def __init__(
        self, services: Services, versions: Callable[[], Sequence[UUID | None]], asked: Callable[[UUID | None], None]
    ) -> None:
        self._services = services
        self._versions = versions
        self._asked = asked
        self._columns: dict[str | None, _Column] = {}
        self._task: asyncio.Task[None] | None = None
        self._soon = Soon(self._paint, PAINT_SECONDS)
        self._state = VersionAnswers()
        with Tag("form", classes="stack tight", novalidate=True, data_testid="ask-form") as form:
            with Tag("div", classes="field"):
                self._label = Tag("label", "A question for all chosen versions", for_="side-by-side")
                field = Tag(
                    "textarea", classes="input", id="side-by-side", name="question", rows="2", maxlength="8000",
                    placeholder="Which is larger: 623 or 175?", data_testid="ask-question",
                )  # fmt: skip
                submit_on_ctrl_enter(field)
            with Tag("div", classes="line"):
                self._go = button("Ask", type_="submit", test="ask")
                self._whom = Tag("span", classes="small muted", data_testid="whom")
        self._problem = Tag("p", classes="notice bad", role="alert", data_testid="ask-problem").show(visible=False)
        self._question = Tag("p", classes="plain maybe", data_testid="asked")
        self._box = Tag("div", classes="side-answers maybe", data_testid="answers")
        self._spoken = Tag("p", classes="visually-hidden", role="status")
        on_submit(form, self._ask)

    def update_chosen(self) -> None:
        """Update the names of the chosen versions."""
        names = [name_of(version) for version in self._versions()]
        self._whom.say(f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "Only the base model so far.")

    async def resume(self, ask_id: UUID) -> None:
        """Show an earlier question: its answers so far, and the rest as it arrives."""
        try:
            log = self._services.ask.events(ask_id)
        except TmdeError:
            self._asked(None)  # the server was restarted, or newer questions have replaced this one
            return
        self._follow(log)

    async def _ask(self, fields: dict[str, str]) -> None:
        self._problem.show(visible=False)
        self._go.say("Asking …").put(disabled=True)
        try:
            ask_id = await self._services.ask.ask(fields.get("question", ""), self._versions())
        except TmdeError as error:
            self._problem.say(sentence(error)).show()
            self._free()
            return
        self._asked(ask_id)
        self._follow(self._services.ask.events(ask_id))

    def _free(self) -> None:
        self._go.say("Ask").put(disabled=False)

    def _follow(self, log: EventLog) -> None:
        if self._task is not None:
            self._task.cancel()
        self._state = VersionAnswers()
        self._columns.clear()
        self._box.clear()
        self._spoken.say("")  # an equal sentence is announced only if it is set again
        self._go.say("Asking …").put(disabled=True)
        self._task = start_task(lambda: self._read(log), "follow a question")

    async def _read(self, log: EventLog) -> None:
        async for event in log.follow():
            self._state.apply(event)
            if event.type == "start":
                self._draw()
            elif event.type in ("token", "thought", "revised"):
                self._soon.ask()
            else:
                await self._settle()
        self._free()
        if self._state.problem:
            self._problem.say(self._state.problem).show()
        self._spoken.say(_end_words(self._state))

    def _draw(self) -> None:
        self._question.say(self._state.question)
        with self._box:
            for place, version in enumerate(self._state.of):
                self._columns[version] = _Column(version, COLOURS[min(place, len(COLOURS) - 1)])

    def _paint(self) -> None:
        for version, column in self._columns.items():
            column.grow(self._state.of[version])

    async def _settle(self) -> None:
        self._soon.stop()
        self._paint()
        for version, column in self._columns.items():
            await column.settle(self._state.of[version])


def _end_words(state: VersionAnswers) -> str:
    """Return what is announced at the end; empty if the error is announced."""
    if state.problem:
        return ""
    done = sum(answer.phase == "done" for answer in state.of.values())
    return "All have answered." if done == len(state.of) else f"{done} of {len(state.of)} have answered."


class _Column:
    """The answer of one version."""

    def __init__(self, version: str | None, colour: str) -> None:
        self._settled = False
        name = capital(name_of(version)) if version else "Base model"
        with Tag("article", classes=f"turn {colour} live", aria_label=name, data_testid="answer-of") as self._card:
            with Tag("header"):
                Tag("span", name, "who", title=version)
                self._note = Tag("span", "waits", "note")
            self._thought = Thought()
            self._body = Tag("div", classes="stack tight")
            with self._body:
                self._stream = Stream()

    def grow(self, answer: VersionAnswer) -> None:
        """Show the text so far."""
        if not self._settled and answer.phase == "writing":
            thinks = bool(answer.thought) and not answer.text.strip()
            self._note.say("thinks" if thinks else "writes")
            self._thought.put(answer.thought, live=thinks)
            self._stream.put(answer.text)

    async def settle(self, answer: VersionAnswer) -> None:
        """Show the finished answer as rendered Markdown, with its figures."""
        if self._settled or answer.phase not in ("done", "failed"):
            return
        self._settled = True
        self._card.classes(remove="live")
        content = await render(answer.text) if answer.text else ""
        self._thought.put(answer.thought)
        self._body.clear()
        with self._body:
            if content:
                prose(content)
            if answer.phase == "failed":
                Tag("p", answer.problem or "No answer.", "notice bad")
            elif not answer.text.strip():
                Tag("p", "The answer is empty.", "muted")
            if answer.cut:
                Tag("p", answer.cut, "small muted", data_testid="cut")
        figures = (format_milliseconds(answer.ms), count(answer.tokens, "token") if answer.tokens is not None else "")
        self._note.say(" · ".join(part for part in figures if part))
