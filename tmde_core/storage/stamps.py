"""Formats times for SQLite."""

from __future__ import annotations

from datetime import UTC, datetime


def encode_time(moment: datetime) -> str:
    """Return a time as the tables store it: UTC, milliseconds, `Z`.

    A time without a time zone counts as UTC. The text order of these values is their time order.
    """
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
