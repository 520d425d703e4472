"""Stores the audit trail: every switch, import and deletion of an adapter, who asked for it, and how it ended."""

# ruff: noqa: S608 - statements are put together from this module's own constants; values are always parameters
from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from tmde_core.records.base import utc_now
from tmde_core.records.lora import ActivationTrigger, LiveAt, LoRAActivationEvent, Operation
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time

_SWITCHED = "success = 1 AND operation IN ('activate', 'rollback', 'deactivate')"


class AuditTrail:
    """Reads and writes the rows of the table `lora_events`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(
        self, adapter_id: UUID | None, previous: UUID | None, by: ActivationTrigger, operation: Operation = "activate"
    ) -> int:
        """Write an intent: a switch, an import or a deletion that is about to happen.

        Args:
            adapter_id: the adapter to activate, import or delete; None is the base model.
            previous: the adapter that is active before; None is the base model.
            by: who asked for it.
            operation: what is about to happen.

        Returns:
            The event's id.
        """
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "INSERT INTO lora_events (timestamp, adapter_id, previous_adapter_id, triggered_by, operation) "
                "VALUES (?, ?, ?, ?, ?)",
                (encode_time(utc_now()), _text(adapter_id), _text(previous), by, operation),
            )
            return int(cursor.lastrowid or 0)

    async def close(
        self,
        event_id: int,
        success: bool,
        message: str | None = None,
        note: str | None = None,
        at: datetime | None = None,
    ) -> None:
        """Close an intent. Do nothing if the intent is already closed.

        Args:
            event_id: the event's id; see `open`.
            success: the operation was carried out.
            message: why the operation failed.
            note: further details, such as the origin of an import.
            at: when the operation happened, if this is known. `find_active_at` reads these times.
        """
        await self._database.write(
            "UPDATE lora_events SET success = ?, error_message = ?, note = ?, timestamp = coalesce(?, timestamp) "
            "WHERE id = ? AND success IS NULL",
            (int(success), message, note, encode_time(at) if at else None, event_id),
        )

    async def events(self, limit: int, offset: int = 0, adapter_id: UUID | None = None) -> list[LoRAActivationEvent]:
        """Return events, newest first; with `adapter_id` only the events of that adapter."""
        clause, values = ("", [])
        if adapter_id is not None:
            clause, values = "WHERE adapter_id = ? OR previous_adapter_id = ?", [str(adapter_id), str(adapter_id)]
        rows = await self._database.rows(
            f"SELECT * FROM lora_events {clause} ORDER BY id DESC LIMIT ? OFFSET ?", [*values, limit, offset]
        )
        return [_event(row) for row in rows]

    async def count(self) -> int:
        """Return the number of events."""
        return int(await self._database.value("SELECT count(*) FROM lora_events"))

    async def list_unsettled(self) -> list[LoRAActivationEvent]:
        """Return the intents that are still open, oldest first: they are in progress, or their process has ended."""
        rows = await self._database.rows("SELECT * FROM lora_events WHERE success IS NULL ORDER BY id")
        return [_event(row) for row in rows]

    async def history(self) -> list[LoRAActivationEvent]:
        """Return all successful switches, oldest first."""
        rows = await self._database.rows(f"SELECT * FROM lora_events WHERE {_SWITCHED} ORDER BY id")
        return [_event(row) for row in rows]

    async def live_at(self, moment: datetime) -> LiveAt:
        """Return the adapter that was active at a moment, since when, and until when."""
        row = await self._database.row(
            f"SELECT adapter_id, timestamp AS since, (SELECT min(timestamp) FROM lora_events WHERE {_SWITCHED} AND timestamp > :at) "
            f"AS until FROM lora_events WHERE {_SWITCHED} AND timestamp <= :at ORDER BY id DESC LIMIT 1",
            {"at": encode_time(moment.astimezone(UTC))},
        )
        if row is None:
            first = await self._database.value(f"SELECT min(timestamp) FROM lora_events WHERE {_SWITCHED}")
            return LiveAt(at=moment, adapter_id=None, until=_moment(first))
        return LiveAt(
            at=moment, adapter_id=_uuid(row["adapter_id"]), since=_moment(row["since"]), until=_moment(row["until"])
        )


def build_rollback_chain(history: Sequence[LoRAActivationEvent]) -> list[UUID | None]:
    """Return the active adapters as a stack: the base model (None) at the bottom, the active adapter on top.

    An activation pushes its adapter. A rollback removes everything above its target. So after the activations A, B and
    C, two rollbacks lead to A, and a third one leads to the base model. A rollback to an adapter that is not in the
    stack counts as an activation.
    """
    stack: list[UUID | None] = [None]
    for event in history:
        target = event.adapter_id
        below = stack[:-1]
        if event.operation == "rollback" and target in below:
            last = max(index for index, adapter_id in enumerate(below) if adapter_id == target)
            del stack[last + 1 :]
        elif stack[-1] != target:
            stack.append(target)
    return stack


def _event(row: sqlite3.Row) -> LoRAActivationEvent:
    return LoRAActivationEvent(
        id=str(row["id"]),
        timestamp=datetime.fromisoformat(row["timestamp"]).astimezone(UTC),
        adapter_id=_uuid(row["adapter_id"]),
        previous_adapter_id=_uuid(row["previous_adapter_id"]),
        triggered_by=row["triggered_by"],
        success=None if row["success"] is None else bool(row["success"]),
        error_message=row["error_message"],
        operation=row["operation"],
        note=row["note"],
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def _text(adapter_id: UUID | None) -> str | None:
    return str(adapter_id) if adapter_id else None
