"""Times in SQLite."""

from __future__ import annotations

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """A time as the tables hold it: UTC, milliseconds, `Z`. A time without zone is taken for UTC; text order is time order."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
