"""What is said of adapters, and a question's answers as they are put together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmde_core.records.base import utc_now
from tmde_core.records.finetune import FineTuneMetrics
from tmde_core.records.lora import LoRAActivationEvent
from tmde_core.storage.events import Event
from tmde_ui.versions.compare.answers import VersionAnswers
from tmde_ui.versions.words import (
    LONGEST_FIGURE,
    METRICS,
    describe_event,
    format_value,
    identity,
    losses,
    measured,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
"""What a manifest that came from elsewhere may hold anywhere."""


@given(
    st.dictionaries(st.sampled_from(["finalTrainLoss", "bestValLoss", "trainingTimeSeconds", "leftOut", "other"]), JSON)
)
def test_whatever_an_imported_manifest_measures_can_be_shown(metrics):
    assert losses(metrics)
    assert all(len(value) <= LONGEST_FIGURE + 2 for _, value in measured(metrics))


def test_every_figure_of_a_training_has_a_name_and_a_time_is_told_as_a_time():
    fields = msgspec.structs.fields(FineTuneMetrics)
    assert [field.encode_name for field in fields if field.encode_name not in METRICS] == []
    assert measured({"trainingTimeSeconds": 642.706, "leftOut": 0}) == [
        ("Training time", "10 min 43 s"),
        ("Examples left out", "0"),
    ]


def test_integers_beyond_all_measure_are_shown_short_and_never_reckoned_with():
    assert losses({"finalTrainLoss": 10**400}) == "no losses known"
    assert len(format_value(10**400)) == LONGEST_FIGURE + 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.874, "0.874"),
        (2.0, "2"),
        (0.0005, "0.0005"),
        (12_345, "12,345"),
        (True, "yes"),
        (None, "–"),
        ({"a": [1]}, '{"a":[1]}'),
    ],
)
def test_figures_are_said_as_a_person_writes_them(value, shown):
    assert format_value(value) == shown


@pytest.mark.parametrize(
    ("operation", "success", "words"),
    [
        ("activate", True, "Activated the base model"),
        ("rollback", True, "Rolled back to the base model"),
        ("import", False, "Could not import the base model"),
        ("delete", None, "Began to delete the base model"),
        ("deactivate", True, "Deactivated"),
        ("deactivate", None, "Began to deactivate"),
    ],
)
def test_every_deed_is_told_with_how_it_went(operation, success, words):
    event = LoRAActivationEvent(
        id=1,
        timestamp=utc_now(),
        adapter_id=None,
        previous_adapter_id=None,
        triggered_by="user",
        success=success,
        operation=operation,
    )
    assert describe_event(event) == words


@pytest.mark.parametrize("nonsense", ["", "x", "../../etc", None, 7, ["a"]])
def test_what_is_no_id_is_none(nonsense):
    assert identity(nonsense) is None


def test_answers_are_the_same_however_often_their_events_arrive():
    events = [
        Event(id=1, type="start", data={"question": "Why?", "versions": [None, "a", "b"]}),
        Event(id=2, type="token", data={"version": None, "text": "Be"}),
        Event(id=3, type="token", data={"version": None, "text": "cause"}),
        Event(id=4, type="answer", data={"version": None, "text": "Because.", "ms": 12.0, "tokens": 2}),
        Event(id=5, type="failed", data={"version": "a", "code": "x", "detail": "It is damaged."}),
    ]
    state = VersionAnswers([*events, *events])
    assert list(state.of) == [None, "a", "b"]
    assert (state.of[None].text, state.of[None].phase, state.of[None].tokens) == ("Because.", "done", 2)
    assert (state.of["a"].phase, state.of["a"].problem) == ("failed", "It is damaged.")
    assert (state.of["b"].phase, state.ended) == ("waiting", False)
    state.apply(Event(id=6, type="error", data={"code": "x", "detail": "The model server crashed."}))
    assert state.ended
    assert (state.of["b"].phase, state.of["b"].problem) == ("failed", "The model server crashed.")
    assert state.of[None].phase == "done"
