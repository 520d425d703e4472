"""Cron expressions in a time zone, on cron-converter with its traps covered."""

from __future__ import annotations

from datetime import datetime


class Cron:
    """A five-field cron expression in a time zone."""

    def __init__(self, expression: str, timezone: str = "") -> None:
        """Parse it.

        Raises:
            InvalidInputError: no cron expression, an unknown time zone, or one that never comes due (30 February).
        """
        self.expression = expression
        self.timezone = timezone

    def after(self, moment: datetime) -> datetime:
        """The first due instant later than `moment`; both UTC."""
        raise NotImplementedError
