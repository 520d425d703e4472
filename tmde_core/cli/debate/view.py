"""Show a debate on the terminal: roles in colour, the Skeptic's verdicts in panels, the answer at the end."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.status import Status
from rich.text import Text

from tmde_core.cli.kit.output import format_duration, plain
from tmde_core.debate.critique import summarise
from tmde_core.records.chat import FinishReason, describe_cut
from tmde_core.records.debate import Critique, Round
from tmde_core.storage.events import Event

COLOURS = {"proposer": "cyan", "skeptic": "yellow", "synthesizer": "green", "judge": "magenta"}
SEVERITIES = {"critical": "bold red", "major": "red", "minor": "dim"}


class DebatePrinter:
    """Prints the events of one debate."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._speaking = ""
        self._thinking = ""
        self._synthesis = ""
        self._status: Status | None = None
        self.failure: str | None = None
        """The sentence of the `error` event; None if there was none."""

    def close(self) -> None:
        """Restore the terminal."""
        self._quiet()

    def show(self, event: Event) -> None:
        """Print one event."""
        show = getattr(self, f"_on_{event.type}", None)
        if show is not None:
            show(event.data)

    def _on_start(self, data: dict[str, Any]) -> None:
        who = sorted({f"{model['runtime']} {model['model']}".strip() for model in data.get("models", {}).values()})
        adapter = f", adapter {data['adapterId']}" if data.get("adapterId") else ""
        self._out.print(Text(plain(f"Asking {', '.join(who)}{adapter}"), style="dim"))

    def _on_retrieval(self, data: dict[str, Any]) -> None:
        names = ", ".join(str(template["name"]) for template in data.get("templates", ()))
        if names:
            self._out.print(Text(plain(f"Template: {names}"), style="dim"))

    def _on_round_start(self, data: dict[str, Any]) -> None:
        self._end_line()
        self._rule(f"Round {data['round']}")

    def _on_thought(self, data: dict[str, Any]) -> None:
        role = str(data["role"])
        if role in ("skeptic", "judge"):
            self._wait("The Skeptic thinks …" if role == "skeptic" else "The Judge thinks …")
            return
        if role != self._thinking:
            self._end_line()
            self._thinking = role
            self._out.print(Text(f"{role.capitalize()}'s thought", style="dim bold"))
        self._out.print(Text(plain(str(data["text"])), style="dim"), end="", soft_wrap=True)

    def _on_revised(self, data: dict[str, Any]) -> None:
        role = str(data["role"])
        if role in ("skeptic", "judge"):
            return
        # What is printed cannot be taken back, so say what it was.
        if self._speaking or self._thinking:
            self._end_line()
            what = "That was a thought." if data["thought"] else "There was no answer; the model is asked again."
            self._out.print(Text(what, style="dim italic"))
        self._synthesis = "" if role == "synthesizer" else self._synthesis
        if data["text"]:
            self._on_token(data)

    def _on_token(self, data: dict[str, Any]) -> None:
        role, text = str(data["role"]), plain(str(data["text"]))
        if role in ("skeptic", "judge"):
            # The text of these roles is JSON. The result is shown when the text is complete.
            self._wait("The Skeptic reads …" if role == "skeptic" else "The Judge reads …")
            return
        self._quiet()
        if role != self._speaking or self._thinking:
            self._end_line()
            self._speaking = role
            if role == "proposer":
                self._out.print(Text("Proposer", style=f"bold {COLOURS[role]}"))
        if role == "synthesizer":
            self._synthesis += text
        self._out.print(Text(text, style=COLOURS.get(role, "")), end="", soft_wrap=True)

    def _on_round_end(self, data: dict[str, Any]) -> None:
        self._end_line()
        self._say_cut(data.get("proposerFinishReason"), "The proposal: ")
        print_critique(self._out, data.get("critique") or {}, str(data.get("critiqueText") or ""))

    def _say_cut(self, reason: FinishReason | None, what: str) -> None:
        if sentence := describe_cut(reason):
            self._out.print(Text(f"{what}{sentence[0].lower()}{sentence[1:]}", style="yellow"))

    def _on_early_stop(self, data: dict[str, Any]) -> None:
        self._out.print(Text(plain(f"Stopped early: {data['reason']}"), style="dim"))

    def _on_synthesis_start(self, _data: dict[str, Any]) -> None:
        self._end_line()
        self._rule("Answer")

    def _on_synthesis(self, _data: dict[str, Any]) -> None:
        self._end_line()

    def _on_warning(self, data: dict[str, Any]) -> None:
        self._end_line()
        self._out.print(Text(plain(f"Note: {data.get('detail', '')}"), style="yellow"))

    def _on_complete(self, data: dict[str, Any]) -> None:
        self._end_line()
        answer = plain(str(data["finalAnswer"]))
        if answer.strip() != self._synthesis.strip():
            print_text(self._out, "Answer", answer, style="bold green")
        self._say_cut(data.get("finishReason"), "The answer: ")
        tokens, timings = data.get("tokens") or {}, data.get("timings") or {}
        score = data.get("score")
        scored = "no verdict" if score is None else f"score {score:g} of 10"
        judge = f" ({data['judge']})" if data.get("judge") else ""
        read = tokens.get("prompt", 0)
        cached = f" ({100 * tokens.get('cached', 0) / read:.0f} % cached)" if read else ""
        rounds = data.get("rounds", 0)
        self._out.print()
        self._out.print(
            Text.assemble(
                (f"{scored}{judge}", "bold"),
                f" · {rounds} round{'' if rounds == 1 else 's'} · {format_duration(timings.get('totalMs', 0) / 1000)}"
                f" · {read} tokens read{cached}, {tokens.get('completion', 0)} written",
            )
        )
        for reason in data.get("reasons") or ():
            self._out.print(Text(plain(f"  {reason}"), style="dim"))
        self._out.print(Text(f"trace {data['traceId']}", style="dim"))

    def _on_error(self, data: dict[str, Any]) -> None:
        self._end_line()
        self.failure = str(data.get("detail", "The debate failed."))

    def _on_cancelled(self, _data: dict[str, Any]) -> None:
        self._end_line()
        self.failure = "The debate was cancelled."

    def _rule(self, title: str) -> None:
        _print_rule(self._out, title)

    def _wait(self, what: str) -> None:
        if self._status is None:
            self._end_line()
            self._status = Status(what, console=self._out)
            if self._out.is_terminal:
                self._status.start()
        else:
            self._status.update(what)

    def _quiet(self) -> None:
        if self._status is not None:
            with contextlib.suppress(RuntimeError):
                self._status.stop()
            self._status = None

    def _end_line(self) -> None:
        self._quiet()
        if self._speaking or self._thinking:
            self._out.print()
            self._speaking = self._thinking = ""


def print_critique(out: Console, critique: dict[str, Any], text: str) -> None:
    """Print the Skeptic's verdict: the score, and the issues by severity; the raw text if it has the wrong format.

    A terminal shows a panel. A pipe receives plain lines, which `grep` can search.
    """
    said = msgspec.convert(critique, Critique) if critique else Critique(malformed=True)
    summary = summarise(said)
    parts = (
        "Skeptic",
        summary.score,
        summary.decision.lower(),
        "not in the form asked for" if said.malformed else None,
    )
    title = " · ".join(part for part in parts if part)
    lines = [
        Text.assemble((f"{issue.severity:<9}", SEVERITIES.get(issue.severity, "")), plain(issue.text))
        for issue in said.issues
    ] or [Text(plain(text).strip() if said.malformed else summary.nothing_named, style="dim")]
    if summary.kind == "contradicts":
        lines.append(Text(summary.note, style="yellow"))
    if out.is_terminal:
        out.print(
            Panel(Group(*lines), title=title, title_align="left", border_style=COLOURS["skeptic"], box=box.ROUNDED)
        )
        return
    out.print(Text(title))
    for line in lines:
        out.print(Text.assemble("  ", line))


def _print_rule(out: Console, title: str) -> None:
    out.print(Rule(title, style="dim", align="left") if out.is_terminal else Text(f"--- {title}"))


def print_round(out: Console, round_: Round) -> None:
    """Print a round that has ended."""
    _print_rule(out, f"Round {round_.number}")
    out.print(Text("Proposer", style=f"bold {COLOURS['proposer']}"))
    print_thought(out, round_.proposer_thought)
    out.print(Text(plain(round_.proposal).strip(), style=COLOURS["proposer"]))
    if cut := describe_cut(round_.proposer_finish_reason):
        out.print(Text(cut, style="yellow"))
    print_thought(out, round_.skeptic_thought)
    if round_.critique is not None or round_.critique_text:
        critique: Critique = round_.critique or Critique(malformed=True)
        print_critique(out, msgspec.to_builtins(critique), round_.critique_text)


def print_thought(out: Console, thought: str) -> None:
    """Print a model's thought, dim; print nothing if there is none."""
    if thought.strip():
        out.print(Text("Thought: ", style="dim bold"), Text(plain(thought).strip(), style="dim"), sep="")


def print_text(out: Console, title: str, text: str, style: str = "") -> None:
    """Print a heading and the text below it."""
    out.print()
    out.print(Text(title, style="bold"))
    out.print(Text(plain(text).strip(), style=style))
