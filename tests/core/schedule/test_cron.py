"""Cron expressions against an oracle that looks at every minute of three years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError
from tmde_core.schedule.cron import Cron, machine_timezone

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 3 * 365 + 1
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")


@cache
def minutes(zone: str) -> list[tuple[datetime, tuple[int, int, int, int, int], bool]]:
    """Every quarter-hour of three years as an instant, its wall clock (minute, hour, day, month, weekday), and whether it repeats."""
    found = []
    for step in range(DAYS * 96):
        instant = START + timedelta(minutes=15 * step)
        local = instant.astimezone(ZoneInfo(zone))
        clock = (local.minute, local.hour, local.day, local.month, local.isoweekday() % 7)
        found.append((instant, clock, bool(local.fold)))
    return found


def oracle(fields: tuple[str, str, str, str, str], zone: str) -> list[datetime]:
    """Walk over all quarter-hours; times that the clocks skip are added at the first one after the gap."""
    minute, hour, day, month, weekday = fields

    def allowed(text: str, value: int) -> bool:
        return text == "*" or str(value) in text.split(",")

    def due(clock: tuple[int, int, int, int, int]) -> bool:
        of_month, of_week = allowed(day, clock[2]), allowed(weekday, clock[4])
        either = day != "*" and weekday != "*"
        right_day = of_month or of_week if either else of_month and of_week
        return allowed(minute, clock[0]) and allowed(hour, clock[1]) and allowed(month, clock[3]) and right_day

    found = []
    tz = ZoneInfo(zone)
    before: datetime | None = None
    for instant, clock, repeated in minutes(zone):
        local = instant.astimezone(tz)
        wall = local.replace(tzinfo=None)
        if before is not None and wall - before > timedelta(minutes=15):
            skipped = before + timedelta(minutes=15)
            while skipped < wall:
                gone = (skipped.minute, skipped.hour, skipped.day, skipped.month, skipped.isoweekday() % 7)
                if due(gone) and instant not in found[-1:]:
                    found.append(instant)
                skipped += timedelta(minutes=15)
        before = wall
        if due(clock) and (hour == "*" or not repeated) and instant not in found[-1:]:
            found.append(instant)
    return found


def numbers(low: int, high: int, most: int = 3) -> st.SearchStrategy[str]:
    return st.lists(st.integers(low, high), min_size=1, max_size=most, unique=True).map(
        lambda values: ",".join(map(str, sorted(values)))
    )


expressions = st.tuples(
    st.lists(st.sampled_from([0, 15, 30, 45]), min_size=1, max_size=2, unique=True).map(
        lambda values: ",".join(map(str, sorted(values)))
    ),
    st.just("*") | numbers(0, 3) | numbers(0, 23),
    st.just("*") | numbers(1, 28),
    st.just("*") | numbers(1, 12),
    st.just("*") | numbers(0, 6),
)


@pytest.mark.parametrize("zone", ZONES)
@settings(max_examples=8)
@given(expressions)
def test_three_years_of_instants_are_those_of_the_oracle(zone: str, fields: tuple[str, str, str, str, str]):
    cron = Cron(" ".join(fields), zone)
    until = START + timedelta(days=DAYS) - timedelta(minutes=15)
    expected = [instant for instant in oracle(fields, zone) if instant > START]
    assert list(cron.between(START, until)) == expected


@pytest.mark.parametrize("zone", ZONES)
def test_instants_rise_strictly_and_each_is_the_next_after_the_one_before(zone: str):
    cron = Cron("*/30 1-3 * * *", zone)
    found = list(cron.between(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 15, tzinfo=UTC)))
    assert all(one < other for one, other in pairwise(found))
    assert [cron.after(one) for one in found[:-1]] == found[1:]


def test_a_time_that_the_clocks_skip_comes_due_once_right_after_the_gap():
    cron = Cron("30 2 * * *", "Europe/Berlin")
    found = list(cron.between(datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 30, 12, tzinfo=UTC)))
    assert found == [datetime(2026, 3, 29, 1, 0, tzinfo=UTC), datetime(2026, 3, 30, 0, 30, tzinfo=UTC)]


def test_a_time_that_the_clocks_repeat_comes_due_once_and_every_hour_twice():
    before, after = datetime(2026, 10, 24, 22, 59, tzinfo=UTC), datetime(2026, 10, 25, 2, 59, tzinfo=UTC)
    once = list(Cron("30 2 * * *", "Europe/Berlin").between(before, after))
    assert once == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]
    hourly = list(Cron("30 * * * *", "Europe/Berlin").between(before, after))
    assert len(hourly) == 4


def test_day_of_month_or_weekday_is_enough_when_both_are_restricted():
    found = list(Cron("0 12 13 * 5", "UTC").between(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)))
    assert [one.day for one in found] == [6, 13, 20, 27]
    both = list(Cron("0 12 10 * 5", "UTC").between(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)))
    assert [one.day for one in both] == [6, 10, 13, 20, 27]


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_a_schedule_that_never_comes_due_is_refused_at_once(expression: str):
    with pytest.raises(InvalidInputError, match="never comes due"):
        Cron(expression, "UTC")


def test_the_29th_of_february_is_waited_for_across_the_century():
    cron = Cron("0 0 29 2 *", "UTC")
    assert cron.after(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize("expression", ["", "a b c d e", "* * * *", "60 * * * *", "0 24 * * *", "@weekly", "0 0 0 * *"])
def test_what_is_no_cron_expression_is_refused_with_an_example(expression: str):
    with pytest.raises(InvalidInputError, match=r"no cron expression.*0 2 \* \* 0"):
        Cron(expression, "UTC")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_in_words(text: str):
    try:
        Cron(text, "UTC")
    except InvalidInputError as error:
        assert error.context["field"] == "expression"  # noqa: PT017 - whether it raises is not known


def test_an_unknown_time_zone_is_refused_by_name():
    for zone in ("Mars/Olympus", "../../etc/passwd", "/etc/localtime"):
        with pytest.raises(InvalidInputError, match="no time zone"):
            Cron("0 2 * * 0", zone)


def test_the_machine_s_zone_comes_from_its_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert machine_timezone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "nonsense")
    assert ZoneInfo(machine_timezone())


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("0 2 * * 0", "every Sunday at 02:00"),
        ("30 4 * * 1,3", "every Monday and Wednesday at 04:30"),
        ("0 2 * * 1-3", "every Monday, Tuesday and Wednesday at 02:00"),
        ("0 2 * * *", "every day at 02:00"),
        ("0 2 1 * *", "on day 1 of every month at 02:00"),
        ("0 2 1 * 1", "when `0 2 1 * 1` comes due"),
    ],
)
def test_common_schedules_are_told_in_words(expression: str, words: str):
    assert Cron(expression, "UTC").describe() == words
