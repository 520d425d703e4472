"""Draw a debate, live or ended: the question, the answer with its score and rating, and the rounds."""

from __future__ import annotations

from uuid import UUID

from nicegui import ui

from tmde_core.errors import TmdeError
from tmde_core.records.debate import DebateConfig
from tmde_core.records.templates import Template
from tmde_core.records.traces import Trace
from tmde_core.services import Services
from tmde_core.storage.events import Event, EventLog
from tmde_ui.debate.transcript import TemplateUse, Transcript
from tmde_ui.debate.turns import RoundView
from tmde_ui.debate.verdict import Rating, corrected_answer, score_line
from tmde_ui.kit.elements import Modal, Tag, button, link
from tmde_ui.kit.names import capital, name_of
from tmde_ui.kit.render import prose, render
from tmde_ui.kit.shell.live import ServerStatus
from tmde_ui.kit.stream import Stream
from tmde_ui.kit.tending import Soon, start_task
from tmde_ui.kit.thought import Thought
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import count, score, sentence

PAINT_SECONDS = 0.05
"""Tokens are painted at most this often. A fast model writes several in this time."""

LONG_QUESTION = 240
"""In characters. A longer question is shown as text instead of a headline."""


class DebateView:
    """Builds the view from a transcript, then follows the debate's events."""

    def __init__(self, services: Services, live: ServerStatus, state: Transcript, trace: Trace | None = None) -> None:
        self._services = services
        self._live = live
        self._state = state
        self._trace = trace
        self._rounds: dict[int, RoundView] = {}
        self._soon = Soon(self._paint, PAINT_SECONDS)

    async def build(self) -> None:
        """Draw the current state of the debate."""
        state = self._state
        with Tag("div", classes="stack wide"):
            with Tag("section", classes="question", aria_label="Question"):
                Tag("h1", state.query, "long" if len(state.query) > LONG_QUESTION else "", data_testid="question")
                self._about = Tag("div", classes="line small muted")
            self._warnings = Tag("div", classes="stack tight").show(visible=False)
            with Tag("section", classes="card answer", aria_label="Answer", data_testid="answer"):
                with Tag("div", classes="top"):
                    self._heading = Tag("h2", "Answer").show(visible=False)
                    self._steps = Tag("ol", classes="steps", aria_label="Progress", data_testid="steps")
                    self._actions = Tag("div", classes="line")
                self._body = Tag("div", classes="body stack", aria_live="off")
                self._spoken = Tag("p", classes="visually-hidden", role="status", data_testid="spoken")
                self._foot = Tag("div", classes="answer-foot").show(visible=False)
            self._round_list = Tag("div", classes="rounds")
        with self._steps:
            self._step_tags = [Tag("li") for _ in range(4)]
        with self._body:
            self._waiting = Tag("p", classes="waiting", role="status", data_testid="phase")
            self._answer_thought = Thought()
            self._answer_stream = Stream()
        self._draw_about()
        self._draw_steps()
        self._draw_actions()
        self._draw_warnings()
        for exchange in state.exchanges:
            await self._settle(exchange.number)
        self._paint()
        if state.answer is not None:
            await self._show_answer()
        if state.phase == "ended":
            await self._finish()

    def follow(self, log: EventLog) -> None:
        """Show new events while the page is open."""
        start_task(lambda: self._follow(log), "follow a debate")

    async def _follow(self, log: EventLog) -> None:
        async for event in log.follow(self._state.seen):
            self._state.apply(event)
            if event.type in ("token", "thought", "revised"):
                self._soon.ask()
            else:
                await self._on(event)

    async def _on(self, event: Event) -> None:
        self._paint()
        self._draw_steps()
        if event.type in ("retrieval", "round_start"):
            self._draw_about()
        elif event.type == "round_end":
            await self._settle(event.data["round"])
        elif event.type == "start":
            self._draw_about()
        elif event.type == "warning":
            self._draw_about()
            self._draw_warnings()
        elif event.type == "synthesis":
            await self._show_answer()
        elif self._state.phase == "ended":
            self._live.nudge()
            if self._state.outcome == "completed":
                await self._show_answer()
            await self._finish()
            if self._state.outcome == "completed":
                # The words of the answer are not spoken while they arrive, so its end must be.
                self._spoken.say(self._end_words())

    # ------------------------------------------------------------------------------ while it runs

    def _paint(self) -> None:
        """Show the text that has arrived since the last paint."""
        self._soon.stop()
        state = self._state
        if state.outcome != "running":
            return
        if state.exchanges and state.phase in {"proposing", "checking"}:
            exchange = state.exchanges[-1]
            self._round(exchange.number).grow(exchange, state.phase)
            if state.phase == "checking" and not self._round(exchange.number).proposer.done:
                start_task(lambda: self._settle(exchange.number), "finish a proposal")
                self._draw_steps()
        if state.phase == "synthesis" and (state.synthesis or state.synthesizer_thought):
            self._waiting.show(not state.synthesis)
            self._answer_thought.put(state.synthesizer_thought, live=not state.synthesis)
            self._answer_stream.put(state.synthesis)

    def _round(self, number: int) -> RoundView:
        if number not in self._rounds:
            with self._round_list:
                self._rounds[number] = RoundView(number)
        return self._rounds[number]

    async def _settle(self, number: int) -> None:
        await self._round(number).settle(self._state.exchange(number))

    def _draw_about(self) -> None:
        state = self._state
        self._about.clear()
        with self._about:
            # Before the first round, it is not decided whether the active adapter takes part.
            is_decided = bool(state.exchanges) or state.phase == "ended"
            if is_decided and state.adapter_id:
                Tag("span", capital(name_of(state.adapter_id)), "chip accent", title=state.adapter_id)
            elif is_decided:
                Tag("span", "Base model", "chip")
            if state.templates:
                Tag("span", "Method:" if len(state.templates) == 1 else "Methods:")
                for use in state.templates:
                    Tag("button", use.name, "chip", type="button", data_testid="template").on(
                        "click", lambda use=use: self._show_template(use), args=[]
                    )
            elif state.retrieved:
                Tag("span", "No template fits this question.")
            else:
                Tag("span", " ", "chip", style="visibility:hidden", aria_hidden="true")

    def _draw_warnings(self) -> None:
        self._warnings.show(bool(self._state.warnings))
        self._warnings.clear()
        with self._warnings:
            for warning in self._state.warnings:
                Tag("p", warning, "notice warm", data_testid="warning")

    def _draw_steps(self) -> None:
        state = self._state
        order = {"starting": 0, "proposing": 1, "checking": 1, "synthesis": 2, "scoring": 3, "ended": 4}
        reached = order[state.phase]
        if state.phase == "starting" and state.retrieved:
            reached = 1
        turn = len(state.exchanges)
        if state.phase == "ended" or reached > 1:
            rounds = count(turn, "round")
        else:
            rounds = f"Round {max(turn, 1)} of {state.max_rounds}" if state.max_rounds else "Rounds"
        for index, (tag, text) in enumerate(zip(self._step_tags, ("Method", rounds, "Answer", "Score"), strict=True)):
            tag.say(text)
            done = index < reached
            tag.classes(replace="done" if done else "now" if index == reached else "")
            tag.put(aria_current="step" if index == reached else None)
        self._waiting.say(self._words())
        self._steps.show(state.phase != "ended")
        self._heading.say("Answer" if state.outcome == "completed" else "No answer").show(state.phase == "ended")

    def _words(self) -> str:
        state = self._state
        turn = len(state.exchanges)
        return {
            "starting": "Getting the model ready." if state.retrieved else "Looking for a method template.",
            "proposing": f"Round {turn}: the Proposer is answering." if turn else "The Proposer is answering.",
            "checking": f"Round {turn}: the Skeptic is checking the answer.",
            "synthesis": "The Synthesizer is writing the final answer.",
            "scoring": "The judge is scoring the answer.",
            "ended": "",
        }[state.phase]

    def _end_words(self) -> str:
        judged = self._state.score
        return "The answer is complete." + ("" if judged is None else f" The judge gave it {score(judged)} of 10.")

    def _draw_actions(self) -> None:
        self._actions.clear()
        with self._actions:
            if self._state.outcome == "running":
                cancel = button("Cancel", "danger", test="cancel")
                cancel.on("click", lambda: self._cancel(cancel), args=[])
            else:
                again = button("Ask again", test="ask-again", title="The same question, debated once more.")
                again.on("click", lambda: self._ask_again(again), args=[])
                whose = self._trace.id if self._trace is not None else self._state.debate_id
                link("Edit and ask", f"/?again={whose}", "button", data_testid="edit-question")
                if self._trace is not None or self._state.trace_id is not None:
                    followed = self._trace.id if self._trace is not None else self._state.trace_id
                    link("Follow up", f"/?follows={followed}", "button", data_testid="follow-up")
                link("New question", "/", "button", data_testid="ask-another")

    async def _ask_again(self, control: Tag) -> None:
        control.put(disabled=True)
        try:
            trace = self._trace
            if trace is None and self._state.trace_id is not None:
                trace = await self._services.traces.get(UUID(self._state.trace_id))
            config = DebateConfig(follows=trace.follows if trace is not None else None)
            debate = await self._services.debates.start(self._state.query, config, source="ui")
        except TmdeError as error:
            control.put(disabled=False)
            with self._body:
                Tag("p", sentence(error), "notice bad", role="alert")
            return
        self._live.nudge()
        ui.navigate.to(f"/debates/{debate.id}")

    async def _cancel(self, control: Tag) -> None:
        control.put(disabled=True)
        try:
            await self._services.debates.cancel(UUID(self._state.debate_id))
        except TmdeError as error:
            with self._body:
                Tag("p", sentence(error), "notice")

    # ---------------------------------------------------------------------------------- at the end

    async def _show_answer(self) -> None:
        content = await render(self._state.answer or "")
        self._waiting.show(visible=False)
        self._body.clear()
        with self._body:
            if self._trace is not None:
                await corrected_answer(self._trace)
            Thought().put(self._state.synthesizer_thought)
            prose(content).props('data-testid="final-answer"')
            if self._state.cut:
                Tag("p", _cut(self._state.cut, self._trace), "notice warm", data_testid="answer-cut")
            self._waiting = Tag("p", classes="waiting small", role="status", data_testid="phase")
        self._draw_steps()

    async def _finish(self) -> None:
        state = self._state
        self._draw_steps()
        self._draw_actions()
        if state.outcome != "completed":
            for exchange in state.exchanges:
                self._round(exchange.number).stop(exchange)
            self._body.clear()
            with self._body:
                Tag(
                    "p",
                    _ENDINGS[state.outcome].format(error=state.error or "The debate failed."),
                    _NOTICES[state.outcome],
                    role="alert",
                    data_testid="ending",
                )
            return
        trace = self._trace
        if trace is None and state.trace_id:
            trace = await self._services.traces.get(UUID(state.trace_id))
        self._foot.show()
        self._foot.clear()
        with self._foot:
            with Tag("div", classes="stack"):
                score_line(state.score, state.judge, state.reasons)
                if state.early_stop:
                    with Tag("p", classes="small", data_testid="early-stop"):
                        Tag("strong", "Ended early. ")
                        Tag("span", state.early_stop, "muted")
                with Tag("div", classes="line small muted"):
                    if state.total_ms:
                        Tag(
                            "span",
                            f"{count(len(state.exchanges), 'round')} in {format_milliseconds(state.total_ms)}",
                            "tabular",
                        )
                    if state.debate_id is not None and state.trace_id:
                        link("All details", f"/traces/{state.trace_id}", data_testid="open-trace")
            if trace is not None:
                Rating(self._services, trace, self._rated)

    async def _rated(self, trace: Trace) -> None:
        """Redraw the answer with the correction above it."""
        before, self._trace = self._trace, trace
        shown = before.corrected_answer if before else None
        was_rated = before is not None and before.user_rating is not None
        if trace.corrected_answer != shown or (self._state.cut and not was_rated):
            await self._show_answer()

    async def _show_template(self, use: TemplateUse) -> None:
        dialog = Modal(use.name, test="template-text")
        dialog.on("close", dialog.delete, args=[])
        found = await self._template(use)
        with dialog.body:
            if found is None:
                Tag("p", "This template no longer exists.", "muted")
            else:
                Tag("p", found.description, "muted")
                prose(await render(found.body))
        dialog.open()

    async def _template(self, use: TemplateUse) -> Template | None:
        everything = await self._services.templates.list()
        return next((one for one in everything if use.id == str(one.id) or use.name in {one.name, str(one.id)}), None)


def _cut(sentence: str, trace: Trace | None) -> str:
    """Return how the answer was cut off, and what follows for training."""
    if trace is not None and (trace.user_rating is not None or trace.corrected_answer):
        return sentence
    return f"{sentence} It is not trained on unless you rate or correct it."


_ENDINGS = {
    "cancelled": "Cancelled. This debate was not saved.",
    "interrupted": "The server stopped during this debate, so there is no answer. Ask again.",
    "failed": "{error}",
}
_NOTICES = {"cancelled": "notice", "interrupted": "notice warm", "failed": "notice bad"}
