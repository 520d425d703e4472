"""A run's state on the page."""

from __future__ import annotations

import pytest

from tmde_core.storage.events import Event
from tmde_ui.finetune.state import MESSAGES_KEPT, TrainingState


def events(*described: tuple[str, dict]) -> list[Event]:
    return [Event(id=number, type=kind, data=data) for number, (kind, data) in enumerate(described, 1)]


def steps(first: int, last: int, loss: float = 2.0) -> list[tuple[str, dict]]:
    return [("progress", {"step": step, "totalSteps": 10, "loss": loss}) for step in range(first, last + 1)]


def test_steps_become_a_line_and_a_share():
    state = TrainingState(events(*steps(1, 4)))
    assert state.train == [(1, 2.0), (2, 2.0), (3, 2.0), (4, 2.0)]
    assert state.share == 0.4
    assert state.ended is None


def test_events_that_come_twice_count_once():
    told = events(*steps(1, 3))
    state = TrainingState(told)
    for event in told:
        state.apply(event)
    assert len(state.train) == 3


def test_a_run_that_went_back_to_a_checkpoint_is_drawn_once():
    state = TrainingState(events(*steps(1, 7), ("error", {"detail": "gone"}), *steps(5, 6, loss=1.0)))
    assert state.train == [(1, 2.0), (2, 2.0), (3, 2.0), (4, 2.0), (5, 1.0), (6, 1.0)]
    assert state.ended is None


def test_a_validation_that_is_told_twice_is_one_point():
    progress = ("progress", {"step": 4, "totalSteps": 10, "loss": 1.5, "evalLoss": 1.75})
    state = TrainingState(events(progress, ("eval", {"step": 4, "evalLoss": 1.75, "best": True})))
    assert state.eval == [(4, 1.75)]
    assert state.best == (4, 1.75)


def test_steps_that_tell_the_last_validation_loss_again_are_no_new_points():
    def step(number: int, held_out: float) -> tuple[str, dict]:
        return "progress", {"step": number, "totalSteps": 10, "loss": 1.0, "evalLoss": held_out}

    measured = ("eval", {"step": 4, "evalLoss": 1.75, "best": True})
    state = TrainingState(events(measured, step(5, 1.75), step(6, 1.75), step(8, 1.5), step(9, 1.5)))
    assert state.eval == [(4, 1.75), (8, 1.5)]


@pytest.mark.parametrize(
    "data", [{}, {"step": "four"}, {"step": 1, "totalSteps": 3, "loss": "low"}, {"step": None, "totalSteps": []}]
)
@pytest.mark.parametrize("kind", ["progress", "eval", "checkpoint", "log", "error", "unheard-of"])
def test_what_a_strange_backend_logs_changes_nothing(kind, data):
    state = TrainingState(events(*steps(1, 2), (kind, data)))
    assert (len(state.train), state.last.step, list(state.said)) == (2, 2, [])


def test_a_talkative_run_is_cut_short():
    state = TrainingState(events(*(("log", {"text": "x" * 10_000}) for _ in range(500))))
    assert len(state.said) == MESSAGES_KEPT
    assert len(state.said[-1].text) == 2_000
