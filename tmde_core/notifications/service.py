"""Notifications: kept in SQLite, followed by any number of readers, sent to a webhook where one is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from tmde_core.notifications.records import Level, Notification
from tmde_core.settings import Settings
from tmde_core.storage.database import Database
from tmde_core.storage.events import Event


class NotificationService:
    """The notifications of one data directory. It is an `EventLog` too: `follow` never ends."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    async def notify(
        self, kind: str, level: Level, title: str, detail: str = "", href: str | None = None
    ) -> Notification:
        """Keep it, tell the followers, and send it to the webhook in the background. Never fails for the webhook's sake."""
        raise NotImplementedError

    async def list(self, limit: int = 50, dismissed: bool = False) -> tuple[list[Notification], int]:
        """The newest first, and how many there are; without the dismissed ones unless asked for."""
        raise NotImplementedError

    async def dismiss(self, notification_id: UUID) -> Notification:
        """Do not show it any more. Dismissing twice changes nothing.

        Raises:
            NotFoundError: no such notification.
        """
        raise NotImplementedError

    def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """See `EventLog.follow`; events `notification` and `dismissed`."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Let webhook calls that are under way end, for a moment."""
