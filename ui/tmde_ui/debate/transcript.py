"""Build the state of a debate from its events or from its trace. Nothing here depends on the browser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from tmde_core.debate.critique import parse_critique
from tmde_core.records.chat import describe_cut
from tmde_core.records.debate import Critique, Debate, Round
from tmde_core.records.traces import Trace
from tmde_core.storage.events import Event

DebatePhase = Literal["starting", "proposing", "checking", "synthesis", "scoring", "ended"]
Outcome = Literal["running", "completed", "failed", "cancelled", "interrupted"]


class Exchange(msgspec.Struct):
    """One round, possibly unfinished."""

    number: int
    proposal: str = ""
    critique_text: str = ""
    critique: Critique | None = None
    proposer_ms: float | None = None
    skeptic_ms: float | None = None
    done: bool = False
    proposer_thought: str = ""
    skeptic_thought: str = ""
    proposer_cut: str | None = None
    """How the proposal was cut off, in a sentence; None: it was not."""
    skeptic_cut: str | None = None

    @property
    def critique_so_far(self) -> Critique | None:
        """The critique. While the critique is being written, its readable part."""
        if self.critique is not None:
            return self.critique
        if not self.critique_text.lstrip().startswith(("{", "```")):
            return None
        return parse_critique(self.critique_text)


class TemplateUse(msgspec.Struct):
    """A retrieved template. `id` is None if only its name is known."""

    name: str
    id: str | None = None


class Transcript(msgspec.Struct):
    """The state of a debate as the pages show it. Times are in milliseconds."""

    query: str
    outcome: Outcome = "running"
    phase: DebatePhase = "starting"
    debate_id: str | None = None
    trace_id: str | None = None
    adapter_id: str | None = None
    models: dict[str, str] = msgspec.field(default_factory=dict)
    max_rounds: int | None = None
    templates: list[TemplateUse] = msgspec.field(default_factory=list)
    retrieved: bool = False
    exchanges: list[Exchange] = msgspec.field(default_factory=list)
    early_stop: str | None = None
    stop_reason: str = ""
    warnings: list[str] = msgspec.field(default_factory=list)
    synthesis: str = ""
    """The Synthesizer's text so far."""
    synthesizer_thought: str = ""
    cut: str | None = None
    """How the answer was cut off, in a sentence; None: it was not."""
    answer: str | None = None
    scored: bool = False
    score: float | None = None
    judge: str | None = None
    reasons: list[str] = msgspec.field(default_factory=list)
    total_ms: float | None = None
    error: str | None = None
    seen: int = 0
    """Id of the last applied event."""

    def exchange(self, number: int) -> Exchange:
        """Return the round with that number and create it if it is new."""
        for exchange in reversed(self.exchanges):
            if exchange.number == number:
                return exchange
        self.exchanges.append(Exchange(number))
        return self.exchanges[-1]

    def apply(self, event: Event) -> None:
        """Apply one event. Ignore events of unknown type."""
        if event.id <= self.seen:
            return
        self.seen = event.id
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event.data)

    def apply_all(self, events: Iterable[Event]) -> None:
        """Apply several events."""
        for event in events:
            self.apply(event)


def from_debate(debate: Debate) -> Transcript:
    """Build the transcript from the debate's row, without any events."""
    return Transcript(
        query=debate.query,
        outcome=debate.status,
        phase="starting" if debate.status == "running" else "ended",
        debate_id=str(debate.id),
        trace_id=str(debate.trace_id) if debate.trace_id else None,
        adapter_id=debate.adapter_id,
        error=debate.error_message,
        answer=debate.final_answer,
        cut=describe_cut(debate.finish_reason),
        exchanges=[_exchange(round_) for round_ in debate.rounds],
    )


def from_log(debate: Debate, events: Sequence[Event]) -> Transcript:
    """Build the transcript from the debate's events.

    Only the last events of an older debate are kept. The transcript then starts from the debate's row.
    """
    whole = any(event.type == "start" for event in events)
    state = Transcript(query=debate.query, debate_id=str(debate.id)) if whole else from_debate(debate)
    state.apply_all(events)
    return state


def from_trace(trace: Trace) -> Transcript:
    """Build the transcript of a finished debate from its trace."""
    return Transcript(
        query=trace.query,
        outcome="completed",
        phase="ended",
        trace_id=str(trace.id),
        adapter_id=trace.adapter_id,
        models={role: model.model for role, model in trace.models.items()},
        templates=[TemplateUse(name) for name in trace.templates_used],
        retrieved=True,
        exchanges=[_exchange(round_) for round_ in trace.rounds],
        early_stop=trace.stop_reason if trace.early_stopped else None,
        stop_reason=trace.stop_reason,
        answer=trace.final_answer,
        cut=describe_cut(trace.finish_reason),
        synthesizer_thought=trace.synthesizer_thought,
        scored=True,
        score=trace.auto_score,
        judge=trace.judge,
        reasons=list(trace.score_reasons),
        total_ms=trace.timings.total_ms or None,
    )


def _exchange(round_: Round) -> Exchange:
    return Exchange(
        number=round_.number,
        proposal=round_.proposal,
        critique_text=round_.critique_text,
        critique=round_.critique,
        proposer_ms=round_.proposer_ms or None,
        skeptic_ms=round_.skeptic_ms or None,
        done=True,
        proposer_thought=round_.proposer_thought,
        skeptic_thought=round_.skeptic_thought,
        proposer_cut=describe_cut(round_.proposer_finish_reason),
        skeptic_cut=describe_cut(round_.skeptic_finish_reason),
    )


def _start(state: Transcript, data: Mapping[str, Any]) -> None:
    state.query = data.get("query", state.query)
    state.adapter_id = data.get("adapterId")
    state.max_rounds = data.get("maxRounds")
    state.models = {role: str(model.get("model", "")) for role, model in (data.get("models") or {}).items()}


def _retrieval(state: Transcript, data: Mapping[str, Any]) -> None:
    state.retrieved = True
    state.templates = [TemplateUse(found["name"], str(found["id"])) for found in data.get("templates", ())]


def _warning(state: Transcript, data: Mapping[str, Any]) -> None:
    state.warnings.append(str(data.get("detail", "")))


def _round_start(state: Transcript, data: Mapping[str, Any]) -> None:
    state.exchange(data["round"])
    state.phase = "proposing"
    state.adapter_id = data.get("adapterId", state.adapter_id)  # old logs do not say it


def _token(state: Transcript, data: Mapping[str, Any]) -> None:
    _write(state, data, data["text"], "")


def _thought(state: Transcript, data: Mapping[str, Any]) -> None:
    _write(state, data, "", data["text"])


def _revised(state: Transcript, data: Mapping[str, Any]) -> None:
    _write(state, data, data["text"], data["thought"], replace=True)


def _write(state: Transcript, data: Mapping[str, Any], text: str, thought: str, *, replace: bool = False) -> None:
    """Add to what a role has written and thought, or replace both."""
    role = data["role"]
    if role == "proposer":
        exchange = state.exchange(data["round"])
        exchange.proposal = text if replace else exchange.proposal + text
        exchange.proposer_thought = thought if replace else exchange.proposer_thought + thought
        state.phase = "proposing"
    elif role == "skeptic":
        exchange = state.exchange(data["round"])
        exchange.critique_text = text if replace else exchange.critique_text + text
        exchange.skeptic_thought = thought if replace else exchange.skeptic_thought + thought
        state.phase = "checking"
    elif role == "synthesizer":
        state.synthesis = text if replace else state.synthesis + text
        state.synthesizer_thought = thought if replace else state.synthesizer_thought + thought
        state.phase = "synthesis"


def _round_end(state: Transcript, data: Mapping[str, Any]) -> None:
    exchange = state.exchange(data["round"])
    exchange.proposal = data.get("proposal", exchange.proposal)
    exchange.critique_text = data.get("critiqueText", exchange.critique_text)
    critique = data.get("critique")
    exchange.critique = msgspec.convert(critique, Critique) if isinstance(critique, dict) else critique
    exchange.proposer_ms, exchange.skeptic_ms = data.get("proposerMs"), data.get("skepticMs")
    exchange.proposer_thought = data.get("proposerThought", exchange.proposer_thought)
    exchange.skeptic_thought = data.get("skepticThought", exchange.skeptic_thought)
    exchange.proposer_cut = describe_cut(data.get("proposerFinishReason"))
    exchange.skeptic_cut = describe_cut(data.get("skepticFinishReason"))
    exchange.done = True


def _early_stop(state: Transcript, data: Mapping[str, Any]) -> None:
    state.early_stop = data.get("reason") or "The Skeptic accepted the answer."


def _synthesis_start(state: Transcript, _data: Mapping[str, Any]) -> None:
    state.phase = "synthesis"


def _synthesis(state: Transcript, data: Mapping[str, Any]) -> None:
    state.phase = "scoring"
    state.answer = data.get("text", state.synthesis)
    state.synthesizer_thought = data.get("thought", state.synthesizer_thought)
    state.cut = describe_cut(data.get("finishReason"))


def _scoring(state: Transcript, data: Mapping[str, Any]) -> None:
    state.phase = "scoring"
    state.scored = True
    state.score, state.judge = data.get("score"), data.get("judge")
    state.reasons = list(data.get("reasons") or ())


def _complete(state: Transcript, data: Mapping[str, Any]) -> None:
    state.phase, state.outcome = "ended", "completed"
    state.trace_id = str(data["traceId"]) if data.get("traceId") else state.trace_id
    state.answer = data.get("finalAnswer", state.answer)
    state.cut = describe_cut(data.get("finishReason"))
    state.scored = True
    state.score, state.judge = data.get("score", state.score), data.get("judge", state.judge)
    state.reasons = list(data.get("reasons") or state.reasons)
    state.stop_reason = data.get("stopReason") or ""
    if data.get("earlyStopped"):
        state.early_stop = state.stop_reason
    state.total_ms = (data.get("timings") or {}).get("totalMs")


def _error(state: Transcript, data: Mapping[str, Any]) -> None:
    state.phase, state.outcome = "ended", "interrupted" if data.get("code") == "interrupted" else "failed"
    state.error = data.get("detail") or state.error


def _cancelled(state: Transcript, _data: Mapping[str, Any]) -> None:
    state.phase, state.outcome = "ended", "cancelled"


_HANDLERS = {
    "start": _start,
    "retrieval": _retrieval,
    "warning": _warning,
    "round_start": _round_start,
    "token": _token,
    "thought": _thought,
    "revised": _revised,
    "round_end": _round_end,
    "early_stop": _early_stop,
    "synthesis_start": _synthesis_start,
    "synthesis": _synthesis,
    "scoring": _scoring,
    "complete": _complete,
    "error": _error,
    "cancelled": _cancelled,
}
