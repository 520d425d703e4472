"""When a process counts as hung: judged on a clock that the test turns."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tmde_core.finetune.limits import Limits
from tmde_core.finetune.supervision.watchdog import Watchdog

LIMITS = Limits()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A run's directory, and a dog that looks at it once a second."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.clock = Clock()
        self.dog = Watchdog(run_dir, LIMITS, self.clock)
        self.beats = 0

    def step(self, number: int, seconds: float | None) -> None:
        with (self.run_dir / "events.jsonl").open("a") as log:
            data = {"step": number, "totalSteps": 100, "stepSeconds": seconds}
            log.write(json.dumps({"type": "progress", "data": data}) + "\n")

    def beat(self) -> None:
        self.beats += 1
        file = self.run_dir / "heartbeat"
        file.touch()
        os.utime(file, ns=(self.beats, self.beats))

    def pass_(self, seconds: int, *, beating: bool = True):
        """What is found first within so many seconds, and when."""
        for second in range(1, seconds + 1):
            self.clock.now += 1
            if beating:
                self.beat()
            if (found := self.dog.look()) is not None:
                return second, found
        return None


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_ten_minutes_without_a_step_are_a_hang(watched: Watched) -> None:
    watched.step(1, None)
    watched.step(2, 1.5)
    second, found = watched.pass_(700)
    assert second == pytest.approx(601, abs=1)
    assert found.reason == "hung"
    assert (
        "made no step for 10 min (the limit is 10 min, the larger of 10 min and 20 times the median step of 1.5 s)"
        in (found.detail)
    )
    assert found.detail.endswith("It was ended after step 2 of 100; there is no checkpoint.")


def test_slow_steps_have_twenty_times_their_median(watched: Watched) -> None:
    for number, seconds in enumerate((60.0, 90.0, 300.0), 2):
        watched.step(number, seconds)
    second, _ = watched.pass_(2000)
    assert second == pytest.approx(1801, abs=1)


def test_a_long_start_with_a_word_now_and_then_is_no_hang(watched: Watched) -> None:
    for _ in range(4):
        with (watched.run_dir / "events.jsonl").open("a") as log:
            log.write('{"type": "log", "data": {"text": "converting"}}\n')
        assert watched.pass_(590) is None


def test_a_long_step_that_says_it_works_is_no_hang(watched: Watched) -> None:
    watched.step(1, 1.0)
    for number in range(4):
        activity = watched.run_dir / "activity"
        activity.touch()
        os.utime(activity, ns=(number, number))
        assert watched.pass_(590) is None


def test_five_minutes_without_a_heartbeat_are_a_hang(watched: Watched) -> None:
    watched.beat()
    (watched.run_dir / "lock").touch()
    with (watched.run_dir / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second, found = watched.pass_(400, beating=False)
    assert second == pytest.approx(301, abs=1)
    assert "no sign of life for 5 min" in found.detail
    assert "before its first step" in found.detail


def test_before_the_first_heartbeat_libraries_may_take_ten_minutes_to_load(watched: Watched) -> None:
    (watched.run_dir / "lock").touch()  # of an earlier attempt
    assert watched.pass_(590, beating=False) is None
    assert watched.pass_(30, beating=False) is not None


def test_a_free_lock_without_a_heartbeat_is_a_death_soon(watched: Watched) -> None:
    watched.beat()
    (watched.run_dir / "lock").touch()
    second, found = watched.pass_(60, beating=False)
    assert (second, found) == (11, "dead")


def test_time_in_which_nobody_looked_does_not_count(watched: Watched) -> None:
    watched.step(1, 1.0)
    assert watched.pass_(10) is None
    watched.clock.now += 8 * 3600  # the machine slept, and the trainer with it
    assert watched.pass_(500) is None


def test_a_disk_below_the_floor_is_told_with_figures(tmp_path: Path) -> None:
    limits = Limits(floor_bytes=10**18)
    found = Watchdog(tmp_path, limits).look()
    assert found is not None
    assert found != "dead"
    assert found.reason == "disk-full"
    assert "MB are free in" in found.detail
