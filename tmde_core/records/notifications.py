"""Describes notifications for people."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from tmde_core.records.base import Record

Level = Literal["info", "success", "warning", "error"]


class Notification(Record):
    """One notification for a person."""

    seq: int
    """A number that increases with each notification; the id in the event stream."""
    id: UUID
    created_at: datetime
    kind: str
    """A stable identifier for programs, such as `finetune.completed`."""
    level: Level
    title: str
    detail: str = ""
    href: str | None = None
    """The page that shows the subject of the notification."""
    subject_id: UUID | None = None
    """The training run, benchmark run or adapter that the notification is about; None: none of them."""
    dismissed_at: datetime | None = None
