"""Draw a round and its two sides, while they are being written and when they are done."""

from __future__ import annotations

from tmde_core.debate.critique import summarise
from tmde_core.records.debate import Critique
from tmde_ui.debate.transcript import DebatePhase, Exchange
from tmde_ui.kit.elements import Tag, chip
from tmde_ui.kit.render import prose, render
from tmde_ui.kit.stream import Stream
from tmde_ui.kit.thought import Thought
from tmde_ui.kit.times import format_milliseconds


class Turn:
    """The card of one side: role, duration and text."""

    def __init__(self, role: str, who: str) -> None:
        self.role = role
        self._begun = False
        with Tag("article", classes=f"turn {role}", aria_label=who, data_testid=role) as self.card:
            with Tag("header"):
                Tag("span", who, "who")
                self._note = Tag("span", classes="note")
            self._thought = Thought()
            self.body = Tag("div", classes="stack")
            self._cut = Tag("p", classes="small muted", data_testid="cut").show(visible=False)
        self.done = False

    def think(self, thought: str, *, live: bool) -> None:
        """Show the thought so far."""
        self._thought.put(thought, live=live)

    def say_cut(self, sentence: str | None) -> None:
        """Show how the text was cut off, if it was."""
        self._cut.say(sentence or "").show(bool(sentence))

    def stop(self) -> None:
        """Show that nothing more comes, because the debate has ended. Nothing changes if the side is done."""
        if not self.done:
            self.note("stopped" if self._begun else "")
            self._thought.end()

    def note(self, text: str, *, live: bool = False) -> None:
        """Set the text at the right of the heading."""
        self._begun |= live
        self._note.say(text)
        self.card.classes(replace=f"turn {self.role}{' live' if live else ''}")


class ProposerTurn(Turn):
    """The proposal: plain text while it grows, Markdown when it is done."""

    def __init__(self) -> None:
        super().__init__("proposer", "Proposer")
        with self.body:
            self._stream = Stream()

    def grow(self, text: str, thought: str = "") -> None:
        """Show the text so far."""
        thinking = bool(thought) and not text.strip()
        self.note("thinking" if thinking else "writing", live=True)
        self.think(thought, live=thinking)
        self._stream.put(text)

    async def finish(self, text: str, ms: float | None) -> None:
        """Show the whole proposal."""
        if self.done:
            self.note(format_milliseconds(ms))
            return
        self.done = True
        content = await render(text) if text.strip() else ""
        self.note(format_milliseconds(ms))
        self.body.clear()
        with self.body:
            if content:
                prose(content)
            else:
                Tag("p", "The Proposer wrote nothing.", "muted")


class SkepticTurn(Turn):
    """The critique: issues with their severity appear one by one, then the score and the Skeptic's decision."""

    def __init__(self) -> None:
        super().__init__("skeptic", "Skeptic")
        with self.body:
            self._stream = Stream()
            self._issues = Tag("ul", classes="issues").show(visible=False)
        self._rows: list[Stream] = []

    def wait(self) -> None:
        """Show that the Skeptic waits for the Proposer."""
        self.note("waiting for the proposal")

    def grow(self, critique: Critique | None, text: str, thought: str = "") -> None:
        """Show the readable part of the critique so far."""
        thinking = bool(thought) and not text.strip()
        self.note("thinking" if thinking else "checking", live=True)
        self.think(thought, live=thinking)
        if critique is None:
            self._stream.put(text)
        elif not critique.malformed or critique.issues:
            self._show_issues(critique)

    def finish(self, critique: Critique | None, text: str, ms: float | None) -> None:
        """Show the whole critique."""
        if self.done:
            return
        self.done = True
        self.note(format_milliseconds(ms))
        self._stream.put("")
        if critique is None:
            self._stream.put(text or "The Skeptic wrote nothing.")
            return
        self._show_issues(critique)
        said = summarise(critique)
        with self.body:
            if said.nothing_named:
                Tag("p", said.nothing_named, "muted")
            if critique.malformed:
                self._malformed(critique, text, said.note)
            with Tag("div", classes="verdict"):
                if said.score:
                    chip(said.score, data_testid="skeptic-score")
                if said.decision:
                    chip(said.decision, _CHIPS[said.kind], data_testid="verdict")
            if said.kind == "contradicts":
                Tag("p", said.note, "muted small", data_testid="contradiction")

    def _malformed(self, critique: Critique, text: str, note: str) -> None:
        Tag("p", note, "muted small")
        if text.strip() and text.strip() != " ".join(issue.text for issue in critique.issues):
            with Tag("details"):
                Tag("summary", "Original text")
                Tag("p", text, "plain small muted")

    def _show_issues(self, critique: Critique) -> None:
        self._issues.show(bool(critique.issues))
        if critique.issues:
            self._stream.put("")
        for index, issue in enumerate(critique.issues):
            if index == len(self._rows):
                with self._issues, Tag("li", data_testid="issue"):
                    chip(issue.severity, issue.severity)
                    self._rows.append(Stream())
            self._rows[index].put(issue.text)


class RoundView:
    """A round: its heading and both sides."""

    def __init__(self, number: int) -> None:
        with Tag("section", aria_label=f"Round {number}", data_testid="round"):
            with Tag("div", classes="round-head"):
                Tag("h2", f"Round {number}", "eyebrow")
            with Tag("div", classes="sides"):
                self.proposer = ProposerTurn()
                self.skeptic = SkepticTurn()

    def grow(self, exchange: Exchange, phase: DebatePhase) -> None:
        """Show the text so far."""
        if not self.proposer.done:
            self.proposer.grow(exchange.proposal, exchange.proposer_thought)
        if (exchange.critique_text or exchange.skeptic_thought) and not self.skeptic.done:
            self.skeptic.grow(exchange.critique_so_far, exchange.critique_text, exchange.skeptic_thought)
        elif phase == "proposing":
            self.skeptic.wait()

    def stop(self, exchange: Exchange) -> None:
        """Show what there is of a round, and that nothing more comes."""
        if not exchange.done:
            self.grow(exchange, "checking")
        self.proposer.stop()
        self.skeptic.stop()

    async def settle(self, exchange: Exchange) -> None:
        """Finish the completed sides: the proposal once the Skeptic writes, both at the end of the round."""
        if exchange.done or exchange.critique_text or exchange.skeptic_thought:
            self.proposer.think(exchange.proposer_thought, live=False)
            self.proposer.say_cut(exchange.proposer_cut)
            await self.proposer.finish(exchange.proposal, exchange.proposer_ms)
        if exchange.done:
            self.skeptic.think(exchange.skeptic_thought, live=False)
            self.skeptic.say_cut(exchange.skeptic_cut)
            self.skeptic.finish(exchange.critique, exchange.critique_text, exchange.skeptic_ms)


_CHIPS = {"accepts": "good", "revises": "major", "contradicts": "major", "none": ""}
