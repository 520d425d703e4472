"""Times as a person reads them: durations, ages and dates."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tmde_core.records.base import utc_now
from tmde_ui.kit.words import count


def format_milliseconds(milliseconds: float | None) -> str:
    """Return `40 ms`, `0.8 s`, `12 s` or `3 min 05 s`; empty for None."""
    if milliseconds is None:
        return ""
    if milliseconds < 95:
        return f"{max(milliseconds, 1):.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return `just now`, `12 min ago` or `3 h ago`, then the date."""
    seconds = ((now or utc_now()) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 86_400:
        return f"{int(seconds // 3600)} h ago"
    return f"{moment.day} {moment:%b %Y}"


def exact(moment: datetime) -> str:
    """Return the instant in UTC, to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def age(moment: datetime, now: datetime | None = None) -> str:
    """Return `just now`, `12 minutes ago` or `3 days ago`, then the date."""
    seconds = ((now or utc_now()) - moment).total_seconds()
    for length, unit, most in ((60, "minute", 60), (3600, "hour", 24), (86_400, "day", 31)):
        if seconds < 60:
            return "just now"
        if seconds < length * most:
            return f"{count(int(seconds // length), unit)} ago"
    return f"{moment.day} {moment:%b %Y}"


def format_next_time(moment: datetime, zone: str, now: datetime | None = None) -> str:
    """Return a future instant in that time zone: `today 14:00`, `tomorrow 02:00`, `Sunday 02:00`, `6 Dec 02:00`."""
    place = zone_of(zone)
    local, today = moment.astimezone(place), (now or utc_now()).astimezone(place)
    days = (local.date() - today.date()).days
    near = {0: "today", 1: "tomorrow"}.get(days)
    day = near or (f"{local:%A}" if 1 < days < 7 else f"{local.day} {local:%b}")
    return f"{day} {local:%H:%M}"


def on_the_clock(moment: datetime, zone: str) -> str:
    """Return an instant in that time zone: `Sun 29 Nov 2026, 02:00`."""
    local = moment.astimezone(zone_of(zone))
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M}"


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone with that name, or UTC if it is unknown."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")
