"""Stores notifications in SQLite, streams them to readers, and sends them to a webhook if one is configured.

Any process that uses the data directory may add a notification; for example, the first process that notices the end of
a training run records it. Therefore the service also polls the database: once a second for all readers together, and
only while there are readers.
"""

# ruff: noqa: S608 - statements are put together from this module's own constants; values are always parameters
from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import msgspec
import structlog

from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.base import to_json, utc_now
from tmde_core.records.notifications import Level, Notification
from tmde_core.settings import LiveSettings, Settings
from tmde_core.storage.database import Database
from tmde_core.storage.events import Event
from tmde_core.storage.stamps import encode_time

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
REPLAYED = 200
"""`follow` starts with at most this many notifications, the newest; `list` returns older ones."""
TIMEOUT_SECONDS = 10.0
PAUSES = (1.0, 4.0)
"""Seconds before the second and the third attempt."""
PATIENCE_SECONDS = 2.0
"""How long `stop` waits for webhook calls that are in progress."""

_COLUMNS = "seq, id, created_at, kind, level, title, detail, href, subject_id, dismissed_at"

Notifications = list[Notification]


class NotificationService:
    """Manages the notifications of one data directory. The service is also an `EventLog` whose `follow` never ends."""

    def __init__(self, database: Database, settings: LiveSettings) -> None:
        self._db = database
        self._settings = settings
        self._latest = 0
        self._followers = 0
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.webhook_problem: str | None = None
        """Why the last call of the webhook failed, or why its address cannot be used; None if nothing is wrong."""
        try:
            checked_webhook(settings.current.notify.webhook_url)
        except InvalidInputError as error:  # only the webhook is off
            self.webhook_problem = error.detail
            log.warning("webhook.off", problem=error.detail)

    async def notify(
        self,
        kind: str,
        level: Level,
        title: str,
        detail: str = "",
        href: str | None = None,
        subject_id: UUID | None = None,
    ) -> Notification:
        """Store a notification, pass it to the readers, and send it to the webhook in the background.

        A failure of the webhook raises no error here; see `webhook_problem`.

        Args:
            kind: a stable word for programs, such as `finetune.completed`.
            level: how important the notification is.
            title: one line.
            detail: further text.
            href: the page that shows the subject of the notification.
            subject_id: the run or adapter that the notification is about.
        """
        identity, now = uuid4(), utc_now()
        async with self._db.transaction() as connection:
            cursor = await connection.execute(
                "INSERT INTO notifications (id, created_at, kind, level, title, detail, href, subject_id) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (str(identity), encode_time(now), kind, level, title, detail, href, subject_id and str(subject_id)),
            )
            seq = int(cursor.lastrowid or 0)
        made = Notification(
            seq=seq,
            id=identity,
            created_at=now,
            kind=kind,
            level=level,
            title=title,
            detail=detail,
            href=href,
            subject_id=subject_id,
        )
        self._wake(seq)
        webhook = self._settings.current.notify.webhook_url
        if webhook and is_webhook(webhook):
            call = asyncio.create_task(self._call(webhook, made), name=f"webhook {seq}")
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return made

    async def list(self, limit: int = 50, dismissed: bool = False, offset: int = 0) -> tuple[Notifications, int]:
        """Return notifications, newest first, and their total number.

        Args:
            limit: the maximum number to return.
            dismissed: include dismissed notifications.
            offset: how many of the newest to skip.
        """
        clause = "" if dismissed else "WHERE dismissed_at IS NULL"
        rows = await self._db.rows(
            f"SELECT {_COLUMNS} FROM notifications {clause} ORDER BY seq DESC LIMIT ? OFFSET ?", (limit, offset)
        )
        total = await self._db.value(f"SELECT count(*) FROM notifications {clause}")
        return [_notification(row) for row in rows], int(total)

    async def dismiss(self, notification_id: UUID) -> Notification:
        """Dismiss a notification. Dismissing it again changes nothing.

        Raises:
            NotFoundError: no such notification.
        """
        await self._db.write(
            "UPDATE notifications SET dismissed_at = ? WHERE id = ? AND dismissed_at IS NULL",
            (encode_time(utc_now()), str(notification_id)),
        )
        row = await self._db.row(f"SELECT {_COLUMNS} FROM notifications WHERE id = ?", (str(notification_id),))
        if row is None:
            raise NotFoundError(f"There is no notification with the id {notification_id}.")
        return _notification(row)

    async def dismiss_all(self) -> int:
        """Dismiss all current notifications, and return how many there were."""
        return await self._db.write(
            "UPDATE notifications SET dismissed_at = ? WHERE dismissed_at IS NULL", (encode_time(utc_now()),)
        )

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield the notifications with a number above `after`, then new ones as they arrive.

        The stream starts with at most 200 stored notifications, the newest, and never ends. If no notification has the
        number `after` yet, the stream yields only new ones.
        """
        after = min(after, int(await self._db.value("SELECT coalesce(max(seq), 0) FROM notifications")))
        self._followers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="notifications")
        try:
            while True:
                changed = self._changed
                rows = await self._db.rows(
                    f"SELECT {_COLUMNS} FROM notifications WHERE seq > ? ORDER BY seq DESC LIMIT ?", (after, REPLAYED)
                )
                for row in reversed(rows):
                    after = row["seq"]
                    data = msgspec.to_builtins(_notification(row))
                    yield Event(id=after, type="notification", data=data)
                if self._latest <= after:
                    await changed.wait()
        finally:
            self._followers -= 1
            if not self._followers and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def stop(self) -> None:
        """Stop polling, wait up to two seconds for webhook calls, and cancel the remaining calls."""
        if self._looking is not None:
            self._looking.cancel()
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=PATIENCE_SECONDS)
            for call in late:
                call.cancel()

    def _wake(self, seq: int) -> None:
        if seq > self._latest:
            self._latest = seq
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def _look(self) -> None:
        """Poll the database for notifications of other processes."""
        while True:
            with contextlib.suppress(sqlite3.Error):
                self._wake(int(await self._db.value("SELECT coalesce(max(seq), 0) FROM notifications")))
            await asyncio.sleep(LOOK_SECONDS)

    async def _call(self, webhook: str, made: Notification) -> None:
        """Send a notification to the webhook, in at most three attempts.

        Redirects are not followed, so a notification only reaches the configured address.
        """
        import httpx  # imported here, because it is needed only with a webhook

        body = to_json(made)
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
            for pause in (*PAUSES, None):
                try:
                    answer = await client.post(webhook, content=body, headers={"Content-Type": "application/json"})
                    if answer.is_success:
                        self.webhook_problem = None
                        return
                    problem = f"it answered {answer.status_code}"
                except httpx.HTTPError as error:
                    problem = str(error) or type(error).__name__
                if pause is not None:
                    await asyncio.sleep(pause)
        self.webhook_problem = f"The webhook {_host(webhook)} could not be told of {made.title!r}: {problem}."
        log.warning("webhook.failed", host=_host(webhook), kind=made.kind, problem=problem)


def checked_webhook(url: str) -> str:
    """Check the webhook's address and return it. An empty address is valid: no webhook is configured.

    Raises:
        InvalidInputError: the address is not an http(s) address.
    """
    if not is_webhook(url):
        raise InvalidInputError(
            "notify.webhook_url: must be an address that begins with http:// or https://. Correct it in tmde.toml, or leave it empty.",
            field="notify.webhookUrl",
        )
    return url


def is_webhook(url: str) -> bool:
    """Return whether this is an http(s) address, or empty."""
    try:
        parts = urlsplit(url)
        return not url or (parts.scheme in ("http", "https") and bool(parts.hostname))
    except ValueError:
        return False


def check_webhook(wanted: Settings, stored: Settings) -> None:
    """Check the webhook's address before it is changed; see `LiveSettings`.

    Raises:
        InvalidInputError: the address is not an http(s) address.
    """
    if wanted.notify.webhook_url != stored.notify.webhook_url:
        checked_webhook(wanted.notify.webhook_url)


def _host(url: str) -> str:
    """Return the host of an address for the log; the rest of the address can contain a secret."""
    return urlsplit(url).hostname or ""


def _notification(row: sqlite3.Row) -> Notification:
    return Notification(
        seq=row["seq"],
        id=UUID(row["id"]),
        created_at=datetime.fromisoformat(row["created_at"]),
        kind=row["kind"],
        level=row["level"],
        title=row["title"],
        detail=row["detail"],
        href=row["href"],
        subject_id=UUID(row["subject_id"]) if row["subject_id"] else None,
        dismissed_at=datetime.fromisoformat(row["dismissed_at"]) if row["dismissed_at"] else None,
    )
