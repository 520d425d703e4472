"""Runs schedules: waits for what is due, decides once, records why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from tmde_core.schedule.records import Action, Decision, ScheduleName, ScheduleStatus
from tmde_core.settings import Settings
from tmde_core.storage.database import Database

Verdict = tuple[Action, str, str | None]
"""Action, reason, run id."""
Decide = Callable[[datetime], Awaitable[Verdict]]
"""Given the due instant: do it, or say why not."""


class ScheduleService:
    """The schedules of one data directory."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    def register(self, name: ScheduleName, decide: Decide) -> None:
        """Say what to do when a schedule comes due."""

    async def start(self) -> None:
        """Catch up with what was missed less than a day ago (once), then wait for what is due. Only in the server."""

    async def stop(self) -> None:
        """Stop waiting."""

    async def status(self, name: ScheduleName) -> ScheduleStatus:
        """How a schedule stands, with its last decisions."""
        raise NotImplementedError

    async def set(
        self, name: ScheduleName, expression: str | None = None, timezone: str | None = None
    ) -> ScheduleStatus:
        """Change a schedule, here and in the settings file; `off` as expression switches it off.

        Raises:
            InvalidInputError: not a cron expression, an unknown time zone, or one that never comes due.
        """
        raise NotImplementedError

    async def fire(self, name: ScheduleName, due: datetime) -> Decision:
        """Decide one due instant now. Done once: a second call answers with the first decision."""
        raise NotImplementedError
