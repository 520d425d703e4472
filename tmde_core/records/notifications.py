"""A notification: one thing that a person should know."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from tmde_core.records.base import Record

Level = Literal["info", "success", "warning", "error"]


class Notification(Record):
    """One thing that a person should know."""

    seq: int
    """Counts up; the id of the event stream."""
    id: UUID
    created_at: datetime
    kind: str
    """A stable word for programs, such as `finetune.completed`."""
    level: Level
    title: str
    detail: str = ""
    href: str | None = None
    """The page that shows it."""
    dismissed_at: datetime | None = None
