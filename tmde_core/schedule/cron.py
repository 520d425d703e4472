"""Computes the due instants of a cron expression in a time zone.

`fields` reads the expression; this module computes the instants in UTC. The rules are those of Vixie's cron. Simple
wall-clock arithmetic would give other results:

- If day of month and weekday are both restricted, a day matches if either matches.
- A time that is skipped when clocks move forward in spring is due once, at the first instant after the gap.
- If clocks move back in autumn and an hour is repeated, an expression for every hour (such as `*` in the hour field) is
  due in both hours. Every other expression is due only in the first one.
- Instants are strictly increasing; no instant is returned twice.
- An expression that is never due, such as 30 February, is rejected when it is parsed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import takewhile
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tmde_core.errors import InvalidInputError
from tmde_core.schedule.fields import FIELDS, split

HORIZON = timedelta(days=366 * 40)
"""How far to search for the next due day. 29 February falls on a given weekday at least once in 40 years, even across
2100, so an expression without a due day within 40 years is never due.
"""

HOURS = 24
HOUR = 60
"""Minutes."""
SHORTEST_MONTH = 28
LISTED = 6
"""So many times are listed in words. More would be no help."""

WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


class Cron:
    """A five-field cron expression in a time zone.

    Args:
        expression: minute, hour, day of month, month, weekday (0 or 7 is Sunday; names are allowed); see `fields`.
        timezone: IANA name; an empty text stands for the machine's time zone.

    Raises:
        InvalidInputError: the expression is not a cron expression or is never due, or the time zone is unknown.
    """

    def __init__(self, expression: str, timezone: str = "") -> None:
        self.expression = " ".join(expression.split())
        self.timezone = timezone or machine_timezone()
        self._zone = _zone(self.timezone)
        try:
            fields = split(self.expression)
            minutes, hours, days, months, weekdays = (
                field.read(text) for field, text in zip(FIELDS, fields, strict=True)
            )
        except ValueError as error:
            raise InvalidInputError(
                f"{expression[:60]!r} is no cron expression: {error}. Write five fields, such as `0 2 * * 0` for Sundays at "
                "two, or `off`.",
                field="expression",
            ) from None
        self._times = [time(hour, minute) for hour in sorted(hours) for minute in sorted(minutes)]
        self._days, self._months, self._weekdays = days, months, weekdays
        self._hourly = len(hours) == HOURS
        self._either = not fields[2].startswith("*") and not fields[4].startswith("*")
        self._fields = fields
        today = datetime.now(UTC).astimezone(self._zone).date()
        if next(self._dates(today), None) is None:
            raise InvalidInputError(
                f"{self.expression!r} never comes due: no month has that day. Correct the day or the month.",
                field="expression",
            )

    def after(self, moment: datetime) -> datetime:
        """Return the first due instant after `moment`, in UTC."""
        return next(self.upcoming(moment))

    def upcoming(self, moment: datetime) -> Iterator[datetime]:
        """Yield all due instants after `moment`, in UTC, strictly increasing."""
        # Begin one day earlier: just after midnight, a repeated hour may still belong to the previous day.
        first = moment.astimezone(self._zone).date() - timedelta(days=1)
        for day in self._dates(first):
            for instant in sorted({instant for at in self._times for instant in self._instants(day, at)}):
                if instant > moment:
                    moment = instant
                    yield instant

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield all due instants with `after` < instant ≤ `until`."""
        return takewhile(lambda instant: instant <= until, self.upcoming(after))

    def describe(self) -> str:
        """Return the schedule in words if it is a common one, else a sentence with the expression."""
        _, _, day, month, weekday = self._fields
        at = self._describe_times()
        if at and month == "*":
            if day == "*" and len(self._weekdays) == len(WEEKDAYS):
                return at if self._hourly else f"every day {at}"
            if day == "*":
                return f"every {_listed([WEEKDAYS[number] for number in sorted(self._weekdays)])} {at}"
            if weekday == "*" and day.isdigit():
                rare = " that has one" if int(day) > SHORTEST_MONTH else ""
                return f"on day {int(day)} of every month{rare} {at}"
        return f"when `{self.expression}` comes due"

    def _describe_times(self) -> str:
        """Return the times of a due day in words; empty if there are too many to list."""
        if len(self._times) <= LISTED:
            return f"at {_listed([f'{one:%H:%M}' for one in self._times])}"
        if not self._hourly:
            return ""
        minutes = sorted({one.minute for one in self._times})
        step = minutes[1] - minutes[0] if minutes[1:] else HOUR
        if step < HOUR and HOUR % step == 0 and minutes == list(range(0, HOUR, step)):
            return "every minute" if step == 1 else f"every {step} minutes"
        if len(minutes) > LISTED:
            return ""
        return f"at minute {_listed(minutes)} of every hour"

    def _dates(self, first: date) -> Iterator[date]:
        last = first + HORIZON if first.year < 9000 else date.max
        day = first
        while day < last:
            if self._matches(day):
                yield day
            day += timedelta(days=1)

    def _matches(self, day: date) -> bool:
        if day.month not in self._months:
            return False
        of_month, of_week = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        return of_month or of_week if self._either else of_month and of_week

    def _instants(self, day: date, at: time) -> tuple[datetime, ...]:
        """Return the due instants, in UTC, for a local date and time: one or two, see the module's rules."""
        wall = datetime.combine(day, at)
        first = wall.replace(tzinfo=self._zone, fold=0).astimezone(UTC)
        second = wall.replace(tzinfo=self._zone, fold=1).astimezone(UTC)
        if first.astimezone(self._zone).replace(tzinfo=None) != wall:
            return (_gap_end(second, first, self._zone),)
        return (first, second) if self._hourly and second != first else (first,)


def _listed(items: Sequence[object]) -> str:
    """Return `1`, `1 and 2`, or `1, 2 and 3`."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last


def machine_timezone() -> str:
    """Return the IANA name of the machine's time zone, or UTC if the time zone is unknown."""
    named = os.environ.get("TZ", "").lstrip(":")
    if named and _known(named):
        return named
    try:
        target = os.path.realpath("/etc/localtime")
        if "zoneinfo/" in target and _known(name := target.split("zoneinfo/", 1)[1].removeprefix("posix/")):
            return name
        name = Path("/etc/timezone").read_text(encoding="utf-8").strip()
        return name if _known(name) else "UTC"
    except OSError:
        return "UTC"


def known_timezone(name: str) -> str:
    """Return the name of a time zone, or the machine's time zone if the name is empty or unknown."""
    return name if name and _known(name) else machine_timezone()


def _known(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _zone(name: str) -> ZoneInfo:
    if not _known(name):
        raise InvalidInputError(
            f"{name[:60]!r} is no time zone that is known here. Write an IANA name such as Europe/Berlin.",
            field="timezone",
        )
    return ZoneInfo(name)


def _gap_end(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant at which the clocks change, by bisection.

    Args:
        before: an instant before the change.
        after: an instant after the change.
        zone: the time zone.
    """
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after.replace(microsecond=0)
