"""A benchmark's state, its filters, words and pairs, and questions as form fields: all that draws nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.benchmark.questions.custom import decode_question
from tmde_core.benchmark.results.metrics import tmde_score
from tmde_core.errors import InvalidInputError
from tmde_core.records.base import to_json
from tmde_core.records.benchmark import SeriesPoint
from tmde_core.records.lora import LoRAActivationEvent
from tmde_core.records.schedule import ScheduleStatus
from tmde_core.settings import BenchmarkSettings
from tmde_core.storage.events import Event
from tmde_ui.benchmark.compare.pairs import switches
from tmde_ui.benchmark.filters import BenchmarkFilters
from tmde_ui.benchmark.gate import in_words
from tmde_ui.benchmark.questions.checks import decode_criterion, encode_fields
from tmde_ui.benchmark.results.series import interval
from tmde_ui.benchmark.state import ANSWERS_KEPT, BenchmarkState
from tmde_ui.benchmark.words import change

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NEW, OLD = UUID(int=2), UUID(int=1)


def answer(number: int, **data) -> Event:
    told = {
        "done": number, "total": 10, "questionId": f"q{number}", "domain": "science", "score": 7.0, "meanScore": 6.5,
        "etaSeconds": 30.0, "status": "scored", **data,
    }  # fmt: skip
    return Event(id=number + 1, type="progress", data=told)


START = Event(id=1, type="start", data={"total": 10, "done": 0})


# --------------------------------------------------------------------------------------------- state


def test_answers_become_a_share_a_mean_and_a_time():
    state = BenchmarkState(
        events=[START, answer(1), answer(2, status="unscored", score=None), answer(3, status="failed")]
    )
    assert (state.share, state.mean, state.eta_seconds) == (0.3, 6.5, 30.0)
    assert (state.unscored, state.failed) == (1, 1)
    assert state.ended is None


def test_events_that_come_twice_count_once():
    told = [START, answer(1), answer(2, status="failed")]
    state = BenchmarkState(events=[*told, *told])
    assert (len(state.answers), state.failed) == (2, 1)


def test_a_run_in_another_process_is_counted_by_its_row_and_never_backwards():
    state = BenchmarkState(total=10, done=2)
    state.counted(5, 10)
    state.counted(4, 10)
    assert state.share == 0.5


def test_a_long_run_keeps_only_its_newest_answers():
    state = BenchmarkState(events=[answer(number, total=500) for number in range(1, 400)])
    assert len(state.answers) == ANSWERS_KEPT
    assert state.answers[-1].question_id == "q399"


# ------------------------------------------------------------------------------------------- filters


def test_filters_survive_the_address_and_what_cannot_be_meant_is_dropped():
    wanted = BenchmarkFilters.read(
        {"start": "2026-11-01", "end": "x", "adapter": str(NEW), "type": "quick", "mode": "alone"}
    )
    assert wanted == BenchmarkFilters(start="2026-11-01", adapter=str(NEW), type="quick")
    assert wanted.address() == f"/benchmark?start=2026-11-01&adapter={NEW}&type=quick"
    assert BenchmarkFilters().address() == "/benchmark"


def test_the_last_day_counts_to_its_end():
    found = BenchmarkFilters(start="2026-11-24", end="2026-11-24").filter()
    assert found["start"] <= NOW <= found["end"]
    assert found["end"] - found["start"] < timedelta(days=1)


def test_an_export_has_the_dates_of_the_filter():
    assert (
        BenchmarkFilters(start="2026-11-01").export("csv")
        == "/api/benchmark/export?format=csv&from=2026-11-01T00%3A00%3A00Z"
    )


# --------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("difference", "low", "high", "words"),
    [(3.1, -2.6, 8.8, "+3.1 ± 5.7"), (-0.4, None, None, "-0.4"), (0.01, -1, 1, "0.0 ± 1.0"), (None, None, None, "–")],
)
def test_a_change_has_its_sign_and_half_its_interval(difference, low, high, words):
    assert change(difference, low, high) == words


def schedule(*, enabled: bool) -> ScheduleStatus:
    return ScheduleStatus(
        schedule="benchmark",
        enabled=enabled,
        expression="0 3 * * 1",
        timezone="UTC",
        description="every Monday at 03:00",
    )


def test_the_gate_says_what_it_does_by_itself_and_what_it_leaves_to_a_person():
    cautious = " ".join(in_words(BenchmarkSettings(), schedule(enabled=False)))
    assert "waits for you to activate it" in cautious
    assert "No benchmark is scheduled" in cautious
    bold = " ".join(in_words(BenchmarkSettings(auto_activate=True, auto_rollback=True), schedule(enabled=True)))
    assert "activated automatically" in bold
    assert "every Monday at 03:00" in bold
    assert "rolled back with an alert" in bold
    off = in_words(BenchmarkSettings(after_training=False), schedule(enabled=False))
    assert "not measured automatically" in off[0]


# -------------------------------------------------------------------------------------------- series


def point(at: int, adapter: UUID | None = None, mode: str = "proposer", **fields) -> SeriesPoint:
    moment = NOW + timedelta(minutes=at)
    values = {"tmde_score": 50.0, "quality": 5.0, "low": 4.0, "high": 6.0, **fields}
    return SeriesPoint(run_id=UUID(int=1000 + at), at=moment, type="quick", mode=mode, adapter_id=adapter, **values)


@given(st.floats(0.5, 10), st.floats(0.01, 1), st.floats(0.5, 1))
def test_the_band_is_the_score_at_the_ends_of_the_qualitys_interval(quality, efficiency, weight):
    low, high = quality * 0.5, min(10.0, quality * 1.2)
    found = interval(
        point(0, tmde_score=tmde_score(quality, efficiency, weight), quality=quality, low=low, high=high), weight
    )
    assert found == pytest.approx((tmde_score(low, efficiency, weight), tmde_score(high, efficiency, weight)))


def test_a_run_without_interval_has_no_band():
    assert interval(point(0, low=None, high=None), 0.8) is None
    assert interval(point(0, tmde_score=0.0, quality=0.0), 0.8) is None


# ------------------------------------------------------------------------------------ before and after


def activation(at: int, adapter: UUID | None, previous: UUID | None, **fields) -> LoRAActivationEvent:
    return LoRAActivationEvent(
        id=7, timestamp=NOW + timedelta(minutes=at), adapter_id=adapter, previous_adapter_id=previous, triggered_by="user",
        **{"success": True, **fields},
    )  # fmt: skip


def test_an_activation_is_told_by_the_run_since_then_and_the_last_of_the_same_kind_before():
    series = [point(0, OLD), point(1, OLD, "debate"), point(2, OLD), point(5, NEW), point(6, NEW)]
    (found,) = switches([activation(4, NEW, OLD)], series)
    assert (found.before, found.after) == (series[2], series[3])


def test_a_run_of_the_gate_before_the_activation_counts_when_there_is_none_since():
    series = [point(0), point(1, NEW)]
    (found,) = switches([activation(4, NEW, None)], series)
    assert (found.before, found.after) == (series[0], series[1])


def test_activations_that_failed_or_have_nothing_to_compare_are_left_out():
    series = [point(0), point(1, NEW, "debate")]
    assert switches([activation(4, NEW, None)], series) == []
    assert switches([activation(4, NEW, None, success=False)], [point(0), point(1, NEW)]) == []
    assert switches([activation(4, NEW, None, operation="import")], [point(0), point(1, NEW)]) == []


# ----------------------------------------------------------------------------------------- questions

CHECKS = (
    {"kind": "number", "value": 42, "tolerance": 0.5},
    {"kind": "choice", "answer": "yes", "options": ["yes", "no"]},
    {"kind": "facts", "facts": [["Paris", "the capital of France"], ["1789"]], "forbidden": ["London"]},
    {"kind": "regex", "pattern": "a|b", "absent": True},
    {"kind": "count", "of": "lines", "minimum": 2, "maximum": 3},
    {"kind": "count", "of": "words", "minimum": 2},
    {"kind": "form", "form": "acrostic", "value": "TREE"},
    {"kind": "code", "tests": ["assert f(1) == 2", "assert f(2) == 3"]},
    None,
)


@pytest.mark.parametrize("check", CHECKS)
def test_every_kind_of_check_is_the_same_after_the_form(check):
    criterion = {"name": "right", "weight": 2.5, "description": "It is right.", **({"check": check} if check else {})}
    question = decode_question(
        {"id": "own", "question": "Is it?", "referenceAnswer": "Yes.", "domain": "science", "criteria": [criterion]}
    )
    fields = {
        "query": "Is it?",
        "reference": "Yes.",
        "domain": "science",
        "question-id": "own",
        **decode_criterion(3, question.criteria[0]),
    }
    assert to_json(decode_question(encode_fields(fields))) == to_json(question)


def test_criteria_keep_their_order_and_those_taken_away_are_gone():
    fields = {"query": "?", "domain": "science"}
    for number in (10, 2, 7):
        fields |= {f"c{number}-name": f"n{number}", f"c{number}-kind": "judge", f"c{number}-description": "x"}
    assert [one["name"] for one in encode_fields(fields)["criteria"]] == ["n2", "n7", "n10"]


def test_a_number_that_is_missing_is_asked_for():
    with pytest.raises(InvalidInputError, match=r"a number is missing\. Enter the right answer\."):
        encode_fields({"query": "?", "c1-name": "right", "c1-kind": "number", "c1-value": ""})


@pytest.mark.parametrize(
    "fields",
    [
        {"c4-name": "right", "c4-kind": "number", "c4-value": "forty"},
        {"c4-name": "short", "c4-kind": "count", "c4-maximum": "-3"},
    ],
)
def test_what_is_no_number_is_told_at_its_criterion(fields):
    with pytest.raises(InvalidInputError) as caught:
        encode_fields({"query": "?", "c1-name": "first", "c1-kind": "judge", **fields})
    assert caught.value.context["field"] == "criteria[1].check"
