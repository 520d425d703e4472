"""Cron expressions against an oracle that looks at every minute of three years."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmde_core.errors import InvalidInputError
from tmde_core.schedule.cron import Cron, machine_timezone

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = 3 * 365 + 1
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata")


Clock = tuple[int, int, int, int, int]
"""Minute, hour, day, month, weekday."""


@cache
def minutes(zone: str) -> list[tuple[datetime, datetime, Clock, bool]]:
    """Every quarter-hour of three years: the instant, what the clocks on the wall show, and whether they show it again."""
    found = []
    for step in range(DAYS * 96):
        instant = START + timedelta(minutes=15 * step)
        local = instant.astimezone(ZoneInfo(zone))
        found.append((instant, local.replace(tzinfo=None), clock_of(local), bool(local.fold)))
    return found


def clock_of(local: datetime) -> Clock:
    return (local.minute, local.hour, local.day, local.month, local.isoweekday() % 7)


def oracle(fields: tuple[str, str, str, str, str], zone: str) -> list[datetime]:
    """Walk over all quarter-hours; times that the clocks skip are added at the first one after the gap."""
    every_minute, every_hour, every_day, every_month, every_weekday = (
        frozenset(range(60) if text == "*" else map(int, text.split(","))) for text in fields
    )
    either = fields[2] != "*" and fields[4] != "*"

    def due(clock: Clock) -> bool:
        minute, hour, day, month, weekday = clock
        if minute not in every_minute or hour not in every_hour or month not in every_month:
            return False
        of_month, of_week = day in every_day, weekday in every_weekday
        return of_month or of_week if either else of_month and of_week

    found: list[datetime] = []
    quarter = timedelta(minutes=15)
    before: datetime | None = None
    for instant, wall, clock, repeated in minutes(zone):
        if before is not None and wall - before > quarter:
            skipped = before + quarter
            while skipped < wall:
                if due(clock_of(skipped)) and instant not in found[-1:]:
                    found.append(instant)
                skipped += quarter
        before = wall
        if due(clock) and (fields[1] == "*" or not repeated) and instant not in found[-1:]:
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


@pytest.mark.parametrize(
    "expression", ["", "a b c d e", "* * * *", "60 * * * *", "0 24 * * *", "@fortnightly", "0 0 0 * *"]
)
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
        ("0 2,14 * * *", "every day at 02:00 and 14:00"),
        ("0 2 * * 0-7", "every day at 02:00"),
        ("0 * * * *", "at minute 0 of every hour"),
        ("5/15 * * * *", "at minute 5, 20, 35 and 50 of every hour"),
        ("*/15 * * * *", "every 15 minutes"),
        ("* * * * *", "every minute"),
        ("*/20 * * * 1", "every Monday every 20 minutes"),
        ("3/5 * * * *", "when `3/5 * * * *` comes due"),
        ("*/5 9 * * *", "when `*/5 9 * * *` comes due"),
        ("0 2 1 * 1", "when `0 2 1 * 1` comes due"),
        ("0 2 1 1 *", "when `0 2 1 1 *` comes due"),
    ],
)
def test_common_schedules_are_told_in_words(expression: str, words: str):
    assert Cron(expression, "UTC").describe() == words


NAMES = {
    "month": ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
    "weekday": ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"),
}


def values(low: int, high: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[tuple[str, set[int]]]:
    """A field's text, with the values that a person means by it."""

    def written(value: int) -> st.SearchStrategy[str]:
        forms = [str(value), f"{value:02}"]
        if names:
            forms += [names[value - low], names[value - low].lower()]
        return st.sampled_from(forms)

    @st.composite
    def part(draw: st.DrawFn) -> tuple[str, set[int]]:
        kind = draw(st.sampled_from(["one", "range", "range/step", "*/step", "from/step"]))
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = draw(st.integers(1, high + 5))
        begin, end = draw(written(first)), draw(written(last))
        match kind:
            case "one":
                return begin, {first}
            case "range":
                return f"{begin}-{end}", set(range(first, last + 1))
            case "range/step":
                return f"{begin}-{end}/{step}", set(range(first, last + 1, step))
            case "*/step":
                return f"*/{step}", set(range(low, high + 1, step))
        return f"{begin}/{step}", set(range(first, high + 1, step))

    parts = st.lists(part(), min_size=1, max_size=3).map(
        lambda found: (",".join(text for text, _ in found), set[int]().union(*(means for _, means in found)))
    )
    return st.just(("*", set(range(low, high + 1)))) | parts


@settings(max_examples=60, deadline=None)
@given(values(0, 59), values(0, 23), values(1, 31), values(1, 12, NAMES["month"]), values(0, 6, NAMES["weekday"]))
def test_every_way_of_writing_a_field_means_what_it_means_in_cron(minute, hour, day, month, weekday):
    texts = [text for text, _ in (minute, hour, day, month, weekday)]
    either = not texts[2].startswith("*") and not texts[4].startswith("*")

    def comes_due_on(date: datetime) -> bool:
        of_month, of_week = date.day in day[1], date.isoweekday() % 7 in weekday[1]
        return date.month in month[1] and (of_month or of_week if either else of_month and of_week)

    until = START + timedelta(days=20)
    oracle = [
        moment
        for date in (START + timedelta(days=number) for number in range(20))
        if comes_due_on(date)
        for at in product(sorted(hour[1]), sorted(minute[1]))
        if (moment := date.replace(hour=at[0], minute=at[1])) > START
    ]
    if comes_due_on(until) and 0 in hour[1] and 0 in minute[1]:
        oracle.append(until)
    try:
        cron = Cron(" ".join(texts), "UTC")
    except InvalidInputError as error:
        assert "never comes due" in str(error)  # noqa: PT017 - whether it raises is not known
        assert oracle == []
        return
    assert list(cron.between(START, until)) == oracle


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("5/15 * * * *", "5,20,35,50 * * * *"),
        ("50/15 * * * *", "50 * * * *"),
        ("0 20/2 * * *", "0 20,22 * * *"),
        ("*/90 * * * *", "0 * * * *"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * SUN", "0 0 * * 0"),
        ("0 0 * * fri-sun", "0 0 * * 0,5,6"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 7-2", "0 0 * * 0,1,2"),
        ("0 0 * * 0-7", "0 0 * * 0-6"),
        ("0 0 * * MON/2", "0 0 * * 1,3,5"),
        ("0 0 * Jan,MAR-may *", "0 0 * 1,3,4,5 *"),
        ("@daily", "0 0 * * *"),
        ("@Weekly", "0 0 * * 0"),
        ("@hourly", "0 * * * *"),
        ("@yearly", "0 0 1 1 *"),
        ("\t0  2 *\n* 0 ", "0 2 * * 0"),
    ],
)
def test_two_ways_of_writing_one_schedule(expression: str, same: str):
    until = START + timedelta(days=400)
    assert list(Cron(expression, "Europe/Berlin").between(START, until)) == list(
        Cron(same, "Europe/Berlin").between(START, until)
    )


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 22-2 * * *", "runs backwards.*22-23,0-2"),
        ("0 0 * * FRI-MON", "runs backwards.*5-6,0-1"),
        ("0 0 * NOV-FEB *", "runs backwards.*11-12,1-2"),
        ("0 0 ? * *", "another scheduler"),
        ("0 0 L * *", "another scheduler"),
        ("0 0 15W * *", "another scheduler"),
        ("0 0 * * 5L", "another scheduler"),
        ("0 0 * * 5#2", "another scheduler"),
        ("0 0 0 * * *", "6 fields.*Seconds"),
        ("0 0 0 * * * 2027", "7 fields.*Seconds"),
        ("0 0 * *", "4 fields"),
        ("@reboot", "'@reboot' is not known.*@daily"),
        ("*/0 * * * *", "no step"),
        ("*/x * * * *", "no step"),
        ("5-1/2 * * * *", "runs backwards"),
        ("*-5 * * * *", r"`\*` has no range"),
        ("-5 * * * *", "'-5' is no minute"),
        ("+5 * * * *", "'.5' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("1_0 * * * *", "'1_0' is no minute"),
        ("\uff15 * * * *", "is no minute"),
        ("61 * * * *", "'61' is no minute; that is a number from 0 to 59"),
        ("0 24 * * *", "'24' is no hour"),
        ("0 0 32 * *", "'32' is no day of the month"),
        ("0 0 * 13 *", "'13' is no month; that is a number from 1 to 12 or JAN to DEC"),
        ("0 0 * * 8", "'8' is no weekday"),
        ("0 0 * * MONDAY", "'MONDAY' is no weekday"),
        ("MON * * * *", "'MON' is no minute"),
        ("99999999999 * * * *", "is no minute"),
    ],
)
def test_what_cron_does_not_know_is_refused_with_its_reason(expression: str, reason: str):
    with pytest.raises(InvalidInputError, match=f"no cron expression: .*{reason}"):
        Cron(expression, "UTC")


def test_every_way_to_write_every_hour_comes_due_in_both_hours_that_the_clocks_repeat():
    before, after = datetime(2026, 10, 24, 22, 59, tzinfo=UTC), datetime(2026, 10, 25, 2, 59, tzinfo=UTC)
    for hours in ("*", "*/1", "0-23", "0/1"):
        assert len(list(Cron(f"30 {hours} * * *", "Europe/Berlin").between(before, after))) == 4


LEAP_YEAR = datetime(2028, 1, 1, tzinfo=UTC)
SPANS = (((1, 13), (1, 19)), ((2, 26), (3, 4)), ((4, 28), (5, 2)), ((12, 29), (12, 31)))
"""The days of the year that are compared, as (month, day): every weekday, the 15th, and the ends of long and short months."""
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def compared(moment: datetime) -> bool:
    return any(first <= (moment.month, moment.day) <= last for first, last in SPANS)


def claimed(words: str) -> set[datetime] | None:
    """Every compared minute of 2028 at which a schedule comes due if its words are true; None if they only repeat it."""
    if words.startswith("when `"):
        return None
    days = [LEAP_YEAR + timedelta(days=number) for number in range(366)]
    if found := re.search(r"on day (\d+) of every month( that has one)?", words):
        days = [day for day in days if day.day == int(found[1])]
        months = {(day.year, day.month) for day in days}
        assert len(months) == 12 or found[2], words  # a month without the day is owned up to
    elif named := [name for name in WEEKDAYS if name in words]:
        days = [day for day in days if WEEKDAYS[day.isoweekday() % 7] in named]
    if times := re.findall(r"\d\d:\d\d", words):
        minutes_of_day = [int(one[:2]) * 60 + int(one[3:]) for one in times]
    elif found := re.search(r"at minute ([\d, and]+) of every hour", words):
        wanted = {int(one) for one in re.findall(r"\d+", found[1])}
        minutes_of_day = [minute for minute in range(1440) if minute % 60 in wanted]
    else:
        step = re.search(r"every (\d+) minutes", words)
        assert step or "every minute" in words, words
        minutes_of_day = [minute for minute in range(1440) if minute % (int(step[1]) if step else 1) == 0]
    return {day + timedelta(minutes=minute) for day in days if compared(day) for minute in minutes_of_day}


@settings(max_examples=300, deadline=None)
@given(
    minute=st.sampled_from(
        ["0", "*", "*/5", "*/7", "*/45", "1-59/2", "5/15", "0,30", "55-59", "10-40/15", "*/90", "07"]
    ),
    hour=st.sampled_from(["*", "3", "0-23", "*/6", "*/3", "9-17", "5/24", "0,12", "22-23,0-2"]),
    day=st.sampled_from(["*", "1", "28", "29", "31", "08", "*/2", "1-31", "28-31", "1,15"]),
    month=st.sampled_from(["*", "1-12", "2,3", "*/3", "JAN"]),
    weekday=st.sampled_from(["*", "1", "7", "FRI-SUN", "1-7", "MON/2", "*/2", "0,6"]),
)
def test_the_words_for_a_schedule_are_true_of_every_time_at_which_it_comes_due(minute, hour, day, month, weekday):
    cron = Cron(f"{minute} {hour} {day} {month} {weekday}", "UTC")
    told = claimed(cron.describe())
    if told is not None:
        due: set[datetime] = set()
        for first, last in SPANS:
            begin, end = (LEAP_YEAR.replace(month=month, day=day) for month, day in (first, last))
            due.update(cron.between(begin - timedelta(minutes=1), end + timedelta(days=1, minutes=-1)))
        assert due == told, cron.describe()
