"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tmde_ui.kit.times import age, ago, format_milliseconds, format_next_time, on_the_clock

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [(None, ""), (0, "1 ms"), (40, "40 ms"), (840, "0.8 s"), (9_940, "9.9 s"), (9_960, "10 s"), (59_400, "59 s"), (59_600, "1 min 00 s"), (185_000, "3 min 05 s"), (7_500_000, "2 h 05 min")],
)  # fmt: skip
def test_durations(milliseconds, said):
    assert format_milliseconds(milliseconds) == said


@pytest.mark.parametrize(
    ("before", "said"),
    [(timedelta(seconds=5), "just now"), (timedelta(minutes=12), "12 min ago"), (timedelta(hours=3), "3 h ago"), (timedelta(days=19), "1 Nov 2026")],
)  # fmt: skip
def test_how_long_ago(before, said):
    assert ago(NOW - before, NOW) == said


TUESDAY = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("past", "words"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(minutes=59), "59 minutes ago"),
        (timedelta(hours=23), "23 hours ago"),
        (timedelta(days=3), "3 days ago"),
        (timedelta(days=60), "25 Sep 2026"),
    ],
)
def test_ages(past, words):
    assert age(TUESDAY - past, TUESDAY) == words


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (datetime(2026, 11, 24, 13, tzinfo=UTC), "today 14:00"),
        (datetime(2026, 11, 24, 23, 30, tzinfo=UTC), "tomorrow 00:30"),
        (datetime(2026, 11, 29, 1, tzinfo=UTC), "Sunday 02:00"),
        (datetime(2026, 12, 6, 1, tzinfo=UTC), "6 Dec 02:00"),
    ],
)
def test_what_is_coming_is_told_by_the_schedules_own_clock(moment, words):
    assert format_next_time(moment, "Europe/Berlin", TUESDAY) == words


def test_an_unknown_zone_is_no_reason_to_fail():
    assert on_the_clock(TUESDAY, "Mars/Olympus") == "Tue 24 Nov 2026, 09:30"
