"""What training is called and how its figures are said on the pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tmde_core.records.base import utc_now
from tmde_core.records.fields import Field, fields_of
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun, LeftOut
from tmde_ui.words import count, duration


def labelled(field: Field) -> str:
    """What a field is called on the page, with its unit: `Longest example, tokens`."""
    return ", ".join(part for part in (field.title, field.unit) if part)


NAMES: Mapping[str, str] = {field.wire_name: labelled(field) for field in fields_of(FineTuneConfig)}
"""Hyperparameter on the wire → its name on the page. One that is missing goes by its name on the wire."""

STATUS: Mapping[str, tuple[str, str]] = {
    "pending": ("starting", "accent"),
    "running": ("training", "accent"),
    "completed": ("done", "good"),
    "failed": ("failed", "critical"),
    "cancelled": ("cancelled", "major"),
}
"""Run status → word and kind of chip."""

LEFT_OUT: Mapping[str, str] = {
    "duplicate": "same question as another",
    "leak": "too close to a benchmark question",
    "withdrawn": "withdrawn",
    "too-long": "longer than the longest example",
    "benchmark": "came from a benchmark run",
    "empty": "without an answer",
    "low-score": "with too low a score or none",
}

BY: Mapping[str, str] = {
    "user": "by you",
    "ui": "by you",
    "api": "through the API",
    "cli": "from the command line",
    "schedule": "by the schedule",
    "scheduled": "by the schedule",
    "loop": "by the loop",
}


def status_of(run: FineTuneRun) -> tuple[str, str]:
    """Word and kind of chip for where a run stands."""
    return ("waiting", "accent") if run.queued and run.status == "pending" else STATUS[run.status]


def loss(value: float | None) -> str:
    """A loss to three decimals; a dash where it was never measured."""
    return "–" if value is None else f"{value:.3f}"


def took(run: FineTuneRun, now: datetime | None = None) -> str:
    """How long a run took, or takes so far."""
    end = run.completed_at or now or utc_now()
    return duration(max(1.0, (end - run.started_at).total_seconds() * 1000))


def made_of(run: FineTuneRun) -> str:
    """`62 traces`."""
    return count(run.traces_used, "trace")


def age(moment: datetime, now: datetime | None = None) -> str:
    """`just now`, `12 minutes ago`, `3 days ago`, then the date."""
    seconds = ((now or utc_now()) - moment).total_seconds()
    for length, unit, most in ((60, "minute", 60), (3600, "hour", 24), (86_400, "day", 31)):
        if seconds < 60:
            return "just now"
        if seconds < length * most:
            return f"{count(int(seconds // length), unit)} ago"
    return f"{moment.day} {moment:%b %Y}"


def coming(moment: datetime, zone: str, now: datetime | None = None) -> str:
    """A future instant by that zone's clock: `today 14:00`, `tomorrow 02:00`, `Sunday 02:00`, `6 Dec 02:00`."""
    place = zone_of(zone)
    local, today = moment.astimezone(place), (now or utc_now()).astimezone(place)
    days = (local.date() - today.date()).days
    near = {0: "today", 1: "tomorrow"}.get(days)
    day = near or (f"{local:%A}" if 1 < days < 7 else f"{local.day} {local:%b}")
    return f"{day} {local:%H:%M}"


def on_the_clock(moment: datetime, zone: str) -> str:
    """An instant by that zone's clock: `Sun 29 Nov 2026, 02:00`."""
    local = moment.astimezone(zone_of(zone))
    return f"{local:%a} {local.day} {local:%b %Y, %H:%M}"


def zone_of(name: str) -> ZoneInfo:
    """The time zone; UTC where there is none of that name."""
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def left_out(by_reason: Mapping[str, int]) -> str:
    """`3 left out: 2 same question as another, 1 withdrawn`."""
    parts = ", ".join(f"{number:,} {LEFT_OUT.get(reason, reason)}" for reason, number in by_reason.items() if number)
    return f"{sum(by_reason.values()):,} left out: {parts}"


def why(one: LeftOut) -> str:
    """Why one trace was left out."""
    return one.detail or f"It is {LEFT_OUT.get(one.reason, one.reason)}."


def figure_of(value: object) -> str:
    """A hyperparameter's value as a person would type it."""
    if not isinstance(value, float):
        return str(value)
    plain = f"{value:g}"
    return plain if "e" not in plain else f"{value:.12f}".rstrip("0")
