"""Draw a round and its two sides, while they are being written and when they are done."""

from __future__ import annotations

from tmde_core.debate.critique import RATHER_RIGHT, explain_rejection
from tmde_core.records.debate import Critique
from tmde_ui.debate.transcript import DebatePhase, Exchange
from tmde_ui.kit.elements import Tag, chip
from tmde_ui.kit.render import prose, render
from tmde_ui.kit.stream import Stream
from tmde_ui.kit.times import format_milliseconds
from tmde_ui.kit.words import score


class Turn:
    """The card of one side: role, duration and text."""

    def __init__(self, role: str, who: str) -> None:
        self.role = role
        with Tag("article", classes=f"turn {role}", aria_label=who, data_testid=role) as self.card:
            with Tag("header"):
                Tag("span", who, "who")
                self._note = Tag("span", classes="note")
            self.body = Tag("div", classes="stack")
        self.done = False

    def note(self, text: str, *, live: bool = False) -> None:
        """Set the text at the right of the heading."""
        self._note.say(text)
        self.card.classes(replace=f"turn {self.role}{' live' if live else ''}")


class ProposerTurn(Turn):
    """The proposal: plain text while it grows, Markdown when it is done."""

    def __init__(self) -> None:
        super().__init__("proposer", "Proposer")
        with self.body:
            self._stream = Stream()

    def grow(self, text: str) -> None:
        """Show the text so far."""
        self.note("writing", live=True)
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

    def grow(self, critique: Critique | None, text: str) -> None:
        """Show the readable part of the critique so far."""
        self.note("checking", live=True)
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
        with self.body:
            if not critique.issues:
                Tag("p", _nothing_named(critique), "muted")
            if critique.malformed:
                self._malformed(critique, text)
            with Tag("div", classes="verdict"):
                if critique.score is not None:
                    chip(f"{score(critique.score)} of 10", data_testid="skeptic-score")
                if critique.verdict is not None:
                    chip(
                        "Accepts" if critique.verdict == "accept" else "Wants a revision",
                        "good" if critique.verdict == "accept" else "major",
                        data_testid="verdict",
                    )
            if reason := explain_rejection(critique):
                Tag("p", reason, "muted small", data_testid="contradiction")

    def _malformed(self, critique: Critique, text: str) -> None:
        Tag("p", "The critique did not have the required format, so it could not end the debate early.", "muted small")
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
            self.proposer.grow(exchange.proposal)
        if exchange.critique_text and not self.skeptic.done:
            self.skeptic.grow(exchange.critique_so_far, exchange.critique_text)
        elif phase == "proposing":
            self.skeptic.wait()

    async def settle(self, exchange: Exchange) -> None:
        """Finish the completed sides: the proposal once the Skeptic writes, both at the end of the round."""
        if exchange.done or exchange.critique_text:
            await self.proposer.finish(exchange.proposal, exchange.proposer_ms)
        if exchange.done:
            self.skeptic.finish(exchange.critique, exchange.critique_text, exchange.skeptic_ms)


def _nothing_named(critique: Critique) -> str:
    """Return the sentence for a critique without issues. It must not contradict the score or the decision."""
    if critique.malformed:
        return "The critique could not be read."
    content = critique.verdict != "revise" and (critique.score is None or critique.score >= RATHER_RIGHT)
    return "No errors found." if content else "No specific issue named."
