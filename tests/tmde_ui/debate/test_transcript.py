"""A debate's state, read from its events."""

from __future__ import annotations

from uuid import UUID

from tmde_core.records.base import utc_now
from tmde_core.records.debate import Critique, Debate, DebateConfig, Issue, Round
from tmde_core.records.traces import Timings, Trace
from tmde_core.storage.events import Event
from tmde_ui.debate.transcript import Transcript, from_log, from_trace

DEBATE = Debate(id=UUID(int=1), query="Why?", status="running", created_at=utc_now())


def events(*pairs):
    return [Event(id=number, type=type_, data=data) for number, (type_, data) in enumerate(pairs, 1)]


BEGINNING = (
    (
        "start",
        {"query": "Why?", "adapterId": "a1", "models": {"proposer": {"runtime": "r", "model": "m"}}, "maxRounds": 3},
    ),
    ("retrieval", {"templates": [{"id": "t1", "name": "Proof"}], "ms": 1.0}),
    ("round_start", {"round": 1}),
    ("token", {"role": "proposer", "round": 1, "text": "Be"}),
    ("token", {"role": "proposer", "round": 1, "text": "cause."}),
)
CRITIQUE = {
    "issues": [{"severity": "major", "text": "No reason."}],
    "score": 3.0,
    "verdict": "revise",
    "malformed": False,
}


def test_tokens_add_up_and_the_phase_follows_the_speaker():
    state = from_log(DEBATE, events(*BEGINNING, ("token", {"role": "skeptic", "round": 1, "text": '{"issues": ['})))
    assert state.exchanges[0].proposal == "Because."
    assert state.phase == "checking"
    assert state.adapter_id == "a1"
    assert [use.name for use in state.templates] == ["Proof"]


def test_the_adapter_is_the_one_that_takes_part_and_not_the_active_one():
    state = from_log(DEBATE, events(*BEGINNING[:2], ("round_start", {"round": 1, "adapterId": None})))
    assert state.adapter_id is None


def test_a_thought_that_looked_like_an_answer_moves_to_its_place():
    revised = ("revised", {"role": "proposer", "round": 1, "text": "It is", "thought": "Because."})
    more = ("token", {"role": "proposer", "round": 1, "text": " so."})
    state = from_log(DEBATE, events(*BEGINNING, revised, more))
    assert (state.exchanges[0].proposal, state.exchanges[0].proposer_thought) == ("It is so.", "Because.")


def test_a_thought_is_no_part_of_what_a_role_has_said():
    thoughts = [
        ("thought", {"role": role, "round": 1, "text": "Hm."}) for role in ("proposer", "skeptic", "synthesizer")
    ]
    state = from_log(DEBATE, events(*BEGINNING, *thoughts))
    exchange = state.exchanges[0]
    assert (exchange.proposer_thought, exchange.skeptic_thought, state.synthesizer_thought) == ("Hm.", "Hm.", "Hm.")
    assert (exchange.proposal, exchange.critique_text, state.synthesis) == ("Because.", "", "")


def test_an_event_that_comes_twice_counts_once():
    state = from_log(DEBATE, events(*BEGINNING))
    state.apply_all(events(*BEGINNING))
    assert state.exchanges[0].proposal == "Because."


def test_half_a_critique_can_be_read_already():
    state = from_log(
        DEBATE,
        events(
            *BEGINNING,
            ("token", {"role": "skeptic", "round": 1, "text": '{"issues": [{"severity": "critical", "text": "The sum'}),
        ),
    )
    so_far = state.exchanges[0].critique_so_far
    assert so_far is not None
    assert so_far.issues == (Issue(severity="critical", text="The sum"),)


def test_a_critique_in_prose_is_not_read_as_data_while_it_grows():
    state = from_log(DEBATE, events(*BEGINNING, ("token", {"role": "skeptic", "round": 1, "text": "I think"})))
    assert state.exchanges[0].critique_so_far is None


def test_a_whole_debate_ends_completed_with_everything_known():
    state = from_log(
        DEBATE,
        events(
            *BEGINNING,
            ("warning", {"detail": "The adapter does not take part."}),
            ("round_end", {"round": 1, "proposal": "Because.", "critique": CRITIQUE, "critiqueText": "{…}", "proposerMs": 5.0, "skepticMs": 6.0}),
            ("early_stop", {"round": 1, "reason": "Accepted."}),
            ("synthesis_start", {}),
            ("token", {"role": "synthesizer", "round": 1, "text": "So."}),
            ("synthesis", {"text": "So.", "ms": 3.0, "skipped": False, "reason": ""}),
            ("scoring", {"score": None, "judge": "rubric", "reasons": ["cannot"]}),
            ("complete", {"traceId": "t", "finalAnswer": "So.", "score": None, "judge": "rubric", "reasons": ["cannot"], "rounds": 1,
                          "earlyStopped": True, "stopReason": "Accepted.", "timings": {"totalMs": 9.0}, "tokens": {}}),
        ),
    )  # fmt: skip
    assert (state.outcome, state.phase, state.answer, state.score) == ("completed", "ended", "So.", None)
    assert state.exchanges[0].critique == Critique(
        issues=(Issue(severity="major", text="No reason."),), score=3.0, verdict="revise"
    )
    assert state.early_stop == "Accepted."
    assert state.warnings == ["The adapter does not take part."]
    assert state.total_ms == 9.0


def test_of_an_older_debate_the_row_tells_what_its_events_no_longer_do():
    ended = Debate(
        id=UUID(int=1),
        query="Why?",
        status="interrupted",
        created_at=utc_now(),
        config=DebateConfig(),
        rounds=(Round(number=1, proposal="Because."),),
        error_message="The server stopped.",
    )
    state = from_log(ended, events(("error", {"code": "interrupted", "detail": "The server stopped."})))
    assert (state.outcome, state.phase) == ("interrupted", "ended")
    assert state.exchanges[0].proposal == "Because."


def test_a_trace_reads_as_an_ended_debate():
    trace = Trace(
        id=UUID(int=2),
        created_at=utc_now(),
        query="Why?",
        final_answer="So.",
        auto_score=7.5,
        timings=Timings(total_ms=10.0),
    )
    state = from_trace(trace)
    assert (state.outcome, state.phase, state.answer, state.score, state.total_ms) == (
        "completed",
        "ended",
        "So.",
        7.5,
        10.0,
    )


def test_events_of_unknown_type_change_nothing():
    state = Transcript(query="Why?")
    state.apply(Event(id=1, type="something-new", data={"role": 1}))
    assert state.outcome == "running"
