"""Runs one debate from the question to the trace.

    retrieval → (proposal → critique) × rounds → synthesis → scoring → trace

The engine appends each event to the event log as it happens. The engine uses neither SQLite nor tasks: the caller
cancels it like any coroutine, and only the events remain.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

from tmde_core.debate.configuration import override
from tmde_core.debate.context import Conversation
from tmde_core.debate.critique import CRITIQUE_SCHEMA, is_accepted, parse_critique, remove_echoes
from tmde_core.debate.judging import NONE, Judges
from tmde_core.debate.seats import JudgeSession, RoleSession, Spoken, TokenCounter, merge_roles
from tmde_core.errors import AdapterInvalidError, ConflictError, EmptyAnswerError, OnlyThoughtError, TmdeError
from tmde_core.prompts import (
    proposer_opening,
    proposer_revision,
    skeptic_opening,
    skeptic_revision,
    synthesizer_opening,
    template_text,
    with_earlier,
)
from tmde_core.records.base import utc_now
from tmde_core.records.chat import AdapterRef, FinishReason, Message
from tmde_core.records.debate import Critique, DebateConfig, Exchange, Role, Round
from tmde_core.records.judging import JudgeItem, Verdict
from tmde_core.records.templates import ScoredTemplate
from tmde_core.records.traces import RoleModel, Timings, Trace
from tmde_core.runtimes import describe_lack_of_adapters, serves_adapters
from tmde_core.sdk.thoughts import Change
from tmde_core.settings import RoleSettings, Settings
from tmde_core.storage.events import MemoryLog
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

ANY_DOMAIN = "general"
"""The domain of templates that fit every subject; it says nothing about the question."""


@dataclass
class Engine:
    """Runs one debate."""

    debate_id: UUID
    trace_id: UUID
    query: str
    config: DebateConfig
    source: str
    workspace: Workspace
    adapter: AdapterRef | None
    log: MemoryLog
    background: bool = False
    earlier: tuple[Exchange, ...] = ()
    """What the question follows up, the oldest first."""
    settings: Settings | None = None
    """The settings to debate with; None: those in force when the debate begins."""
    adapter_flaw: str | None = None
    """Why the active adapter cannot answer; None: it can, or there is none."""
    rounds: list[Round] = field(default_factory=list)
    found: list[ScoredTemplate] = field(default_factory=list)
    final_answer: str | None = None
    finish_reason: FinishReason | None = None
    """Why the final answer ended."""
    synthesizer_thought: str = ""

    def __post_init__(self) -> None:
        settings = self.settings or self.workspace.settings
        self.debate = override(settings.debate, self.config)
        self.roles = merge_roles(settings.roles, self.config)
        self.judges = Judges(self.workspace)
        self.judge = self.judges.choose(self.debate.judge, self.config.reference)
        self.asked = with_earlier(self.query, self.earlier)
        self.tally = TokenCounter()
        self._seats: dict[Role, RoleSession] = {}
        self._models: dict[str, RoleModel] = {}

    async def run(self) -> Trace:
        """Run the debate and return its trace, which is not stored yet.

        Raises:
            TmdeError: A runtime failed, the question does not fit, or the model gave only empty answers.
        """
        began = time.perf_counter()
        created_at = utc_now()
        self._tell_start()
        retrieval_ms = await self._retrieve()
        reason, early = await self._debate()
        synthesis_ms = await self._synthesize()
        scoring_began = time.perf_counter()
        verdict = await self._score()
        scoring_ms = _ms_since(scoring_began)
        for role, seat in self._seats.items():
            self._models[role] = seat.model
        return Trace(
            id=self.trace_id,
            created_at=created_at,
            query=self.query,
            final_answer=self.final_answer or "",
            finish_reason=self.finish_reason,
            synthesizer_thought=self.synthesizer_thought,
            domain=self._domain(),
            rounds=tuple(self.rounds),
            early_stopped=early,
            stop_reason=reason,
            auto_score=verdict.score,
            judge=verdict.judge or None,
            score_reasons=verdict.reasons,
            models=self._models,
            adapter_id=self.adapter.id if self.adapter else None,
            templates_used=tuple(hit.template.name for hit in self.found),
            timings=Timings(
                total_ms=_ms_since(began), retrieval_ms=retrieval_ms, synthesis_ms=synthesis_ms, scoring_ms=scoring_ms
            ),
            tokens=self.tally.counts(),
            source=self.source,
            follows=self.config.follows,
            earlier=self.earlier,
        )

    # ------------------------------------------------------------------------------------ the steps

    def _tell_start(self) -> None:
        roles: tuple[Role, ...] = ("proposer", "skeptic", "synthesizer", "judge")
        chosen = {role: self._role(role) for role in roles if role != "judge" or self.judge != NONE}
        self.log.append(
            "start",
            {
                "debateId": str(self.debate_id),
                "query": self.query,
                "adapterId": self.adapter.id if self.adapter else None,
                "models": {role: {"runtime": one.runtime, "model": one.model} for role, one in chosen.items()},
                "minRounds": self.debate.min_rounds,
                "maxRounds": self.debate.max_rounds,
            },
        )

    async def _retrieve(self) -> float:
        began = time.perf_counter()
        self.found = (
            await self.workspace.templates.search(self.query, self.debate.templates) if self.debate.templates else []
        )
        took = _ms_since(began)
        self.log.append(
            "retrieval",
            {
                "templates": [
                    {
                        "id": str(hit.template.id),
                        "name": hit.template.name,
                        "domain": hit.template.domain,
                        "methodology": hit.template.methodology,
                        "score": hit.score,
                    }
                    for hit in self.found
                ],
                "ms": took,
            },
        )
        return took

    async def _debate(self) -> tuple[str, bool]:
        """Run all rounds; return the reason why they ended, and whether they ended early."""
        proposer, skeptic = await self._proposer(), await self._seat("skeptic")
        proposals = Conversation(await self._opening(proposer))
        critiques: Conversation | None = None
        for number in range(1, self.debate.max_rounds + 1):
            self.log.append(
                "round_start", {"round": number, "adapterId": proposer.adapter.id if proposer.adapter else None}
            )
            try:
                proposal = await proposer.speak(proposals, number, self._teller("proposer", number))
            except OnlyThoughtError as error:
                if not any(round_.proposal for round_ in self.rounds):
                    raise
                self.log.append("warning", {"detail": error.detail})
                return f"Round {number} gave no answer: the Proposer only thought. The answer before it stands.", False
            proposals.add(Message(role="assistant", content=proposal.exact))
            if critiques is None:
                critiques = Conversation(skeptic_opening(self.asked, proposal.text))
            else:
                critiques.add(skeptic_revision(proposal.text))
            answer = await self._critique(skeptic, critiques, number)
            critiques.add(Message(role="assistant", content=answer.exact))
            critique = remove_echoes(parse_critique(answer.text), proposal.text, self.asked)
            self._end_round(number, proposal, answer, critique)
            if number >= self.debate.min_rounds and is_accepted(critique, self.debate.accept_score):
                return self._accepted(number, critique)
            proposals.add(proposer_revision(critique))
        most = self.debate.max_rounds
        return f"Ended after {most} {'round' if most == 1 else 'rounds'}, the most that are allowed.", False

    async def _critique(self, skeptic: RoleSession, critiques: Conversation, number: int) -> Spoken:
        """Return the Skeptic's answer. If the Skeptic only thinks, a `warning` event says so and the answer is empty."""
        try:
            return await skeptic.speak(critiques, number, self._teller("skeptic", number), CRITIQUE_SCHEMA)
        except OnlyThoughtError as error:
            self.log.append("warning", {"detail": error.detail})
            self._teller("skeptic", number)(Change(whole=True))
            return Spoken(text="", exact="", ms=0.0)

    def _end_round(self, number: int, proposal: Spoken, answer: Spoken, critique: Critique) -> None:
        round_ = Round(
            number=number,
            proposal=proposal.text,
            critique=critique,
            critique_text=answer.text,
            proposer_ms=proposal.ms,
            skeptic_ms=answer.ms,
            proposer_thought=proposal.thought,
            skeptic_thought=answer.thought,
            proposer_finish_reason=proposal.finish_reason,
            skeptic_finish_reason=answer.finish_reason,
        )
        self.rounds.append(round_)
        self.log.append(
            "round_end",
            {
                "round": number,
                "proposal": proposal.text,
                "critique": _plain(critique),
                "critiqueText": answer.text,
                "proposerMs": proposal.ms,
                "skepticMs": answer.ms,
                "proposerThought": proposal.thought,
                "skepticThought": answer.thought,
                "proposerFinishReason": proposal.finish_reason,
                "skepticFinishReason": answer.finish_reason,
            },
        )

    def _accepted(self, number: int, critique: Critique) -> tuple[str, bool]:
        early = number < self.debate.max_rounds
        score = "" if critique.score is None else f" with a score of {critique.score:g} of 10"
        reason = f"The Skeptic accepted the answer in round {number} of at most {self.debate.max_rounds}{score}."
        if critique.verdict != "accept":
            reason = (
                f"The Skeptic gave round {number}'s answer {critique.score or 0:g} of 10, at least the "
                f"{self.debate.accept_score:g} needed, and named nothing above minor."
            )
        if early:
            self.log.append("early_stop", {"round": number, "reason": reason})
        return reason, early

    async def _synthesize(self) -> float:
        last = self.rounds[-1]
        agreed = last.critique is not None and is_accepted(last.critique, self.debate.accept_score)
        skip = ""
        if self.debate.synthesis == "never":
            skip = "Synthesis is switched off: the last proposal is the answer."
        elif self.debate.synthesis == "when-disputed" and agreed:
            skip = "The Skeptic accepted the last proposal: it is the answer."
        if skip:
            self._take_last()
            self._tell_answer(0.0, skip, skipped=True)
            return 0.0
        self.log.append("synthesis_start")
        seat = await self._seat("synthesizer")
        conversation = Conversation(await self._draft(seat))
        began, reason = time.perf_counter(), ""
        try:
            spoken = await seat.speak(conversation, last.number, self._teller("synthesizer", last.number))
        except OnlyThoughtError as error:
            self.log.append("warning", {"detail": error.detail})
            spoken = Spoken(text="", exact="", ms=_ms_since(began))
            reason = "The Synthesizer only thought: the last proposal is the answer."
        self.synthesizer_thought = spoken.thought
        if spoken.text:
            self.final_answer, self.finish_reason = spoken.text, spoken.finish_reason
        else:
            reason = reason or "The Synthesizer said nothing: the last proposal is the answer."
            self._take_last()
        self._tell_answer(spoken.ms, reason, skipped=False)
        return spoken.ms

    def _tell_answer(self, ms: float, reason: str, *, skipped: bool) -> None:
        self.log.append(
            "synthesis",
            {
                "text": self.final_answer,
                "ms": ms,
                "skipped": skipped,
                "reason": reason,
                "thought": self.synthesizer_thought,
                "finishReason": self.finish_reason,
            },
        )

    async def _score(self) -> Verdict:
        item = JudgeItem(
            question=self.asked,
            answer=self.final_answer or "",
            reference=self.config.reference,
            check=self.config.check,
        )
        model: JudgeSession | None = None
        reasons: tuple[str, ...] = ()
        if self.judges.needs_model(self.judge):
            try:
                model = JudgeSession(await self._seat("judge"))
            except TmdeError as error:
                reasons = (f"The judge's model is not available: {error.detail}",)
        verdict = (
            Verdict(score=None, reasons=reasons, judge=self.judge)
            if reasons
            else await self.judges.judge(self.judge, item, model)
        )
        self.log.append("scoring", {"score": verdict.score, "judge": verdict.judge, "reasons": list(verdict.reasons)})
        return verdict

    # ------------------------------------------------------------------------------------- the parts

    def _role(self, role: Role) -> RoleSettings:
        chosen: RoleSettings = getattr(self.roles, role)
        return chosen

    async def _seat(self, role: Role) -> RoleSession:
        if role not in self._seats:
            settings = self._role(role)
            runtime = await self.workspace.runtimes.get(settings.runtime)
            self._seats[role] = RoleSession(
                role, settings, runtime, self.tally, seed=self.config.seed, background=self.background
            )
        return self._seats[role]

    async def _proposer(self) -> RoleSession:
        """Return the Proposer's seat, with the adapter if the runtime can load it.

        If the adapter cannot be loaded, a `warning` event reports this and the debate continues with the base model.
        """
        seat = await self._seat("proposer")
        if self.adapter is not None:
            try:
                if self.adapter_flaw is not None:
                    raise AdapterInvalidError(self.adapter_flaw)
                if not await serves_adapters(seat.runtime):
                    raise AdapterInvalidError(describe_lack_of_adapters(seat.settings.runtime, seat.runtime))
                # The Proposer's model may have been changed since the activation.
                await self.workspace.models.require_served_base(
                    self.adapter, seat.settings.runtime, seat.settings.model
                )
                await seat.runtime.load_adapter(self.adapter, seat.settings.model)
            except (AdapterInvalidError, ConflictError) as error:
                detail = f"The active adapter {self.adapter.id[:8]} does not take part, the base model answers. {error.detail}"
                self.log.append("warning", {"detail": detail})
                self.adapter = None
        seat.adapter = self.adapter
        return seat

    async def _opening(self, proposer: RoleSession) -> tuple[Message, ...]:
        """Return the Proposer's opening; leave out templates that would leave no room for the answer."""
        while self.found:
            text = "\n\n".join(template_text(hit.template) for hit in self.found)
            opening = proposer_opening(self.asked, text)
            if await proposer.fits(opening):
                return opening
            left_out = self.found.pop()
            detail = (
                f"The template {left_out.template.name!r} was left out: with it the question does not fit the model."
            )
            self.log.append("warning", {"detail": detail})
        return proposer_opening(self.asked, "")

    async def _draft(self, seat: RoleSession) -> tuple[Message, ...]:
        """Return the Synthesizer's prompt; leave out the earlier draft if both drafts do not fit."""
        prompt = synthesizer_opening(self.asked, self.rounds)
        return prompt if await seat.fits(prompt) else synthesizer_opening(self.asked, self.rounds[-1:])

    def _take_last(self) -> None:
        """Make the newest proposal that is not empty the final answer.

        Raises:
            EmptyAnswerError: Every proposal is empty.
        """
        for round_ in reversed(self.rounds):
            if round_.proposal:
                self.final_answer, self.finish_reason = round_.proposal, round_.proposer_finish_reason
                return
        raise EmptyAnswerError(
            "The model gave an empty answer in every round. Ask differently, or choose another model."
        )

    def _teller(self, role: Role, number: int) -> Callable[[Change], None]:
        def tell(change: Change) -> None:
            of = {"role": role, "round": number}
            if change.whole:
                self.log.append("revised", {**of, "text": change.text, "thought": change.thought})
                return
            if change.thought:
                self.log.append("thought", {**of, "text": change.thought})
            if change.text:
                self.log.append("token", {**of, "text": change.text})

        return tell

    def _domain(self) -> str | None:
        if self.config.domain:
            return self.config.domain
        return next((hit.template.domain for hit in self.found if hit.template.domain != ANY_DOMAIN), None)


def _plain(critique: Critique) -> dict[str, Any]:
    return {
        "issues": [{"severity": issue.severity, "text": issue.text} for issue in critique.issues],
        "score": critique.score,
        "verdict": critique.verdict,
        "malformed": critique.malformed,
    }


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
