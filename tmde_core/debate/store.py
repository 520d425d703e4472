"""Stores debates: one row for each debate, updated when the debate ends."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path
from uuid import UUID

import msgspec
import psutil

from tmde_core.debate.signs import read_sign_of_life
from tmde_core.errors import NotFoundError
from tmde_core.records.base import from_json, to_json, utc_now
from tmde_core.records.debate import Debate, DebateConfig, DebateStatus
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time

INTERRUPTED = "The debate was cut off because TMDE ended while it ran. Ask the question again."


class DebateStore:
    """Reads and writes the `debates` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, debate: Debate, owner_pid: int) -> None:
        """Insert a running debate."""
        await self._database.write(
            "INSERT INTO debates (id, query, status, config, created_at, adapter_id, source, owner_pid) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                str(debate.id),
                debate.query,
                debate.status,
                to_json(debate.config).decode(),
                encode_time(debate.created_at),
                debate.adapter_id,
                debate.source,
                owner_pid,
            ),
        )

    async def end(
        self,
        debate_id: UUID,
        status: DebateStatus,
        *,
        trace_id: UUID | None = None,
        adapter_id: str | None = None,
        error_message: str | None = None,
    ) -> None:
        """Mark a running debate as ended; leave a debate that has already ended unchanged."""
        await self._database.write(
            "UPDATE debates SET status = ?, ended_at = ?, trace_id = ?, adapter_id = ?, error_message = ? "
            "WHERE id = ? AND status = 'running'",
            (
                status,
                encode_time(utc_now()),
                str(trace_id) if trace_id else None,
                adapter_id,
                error_message,
                str(debate_id),
            ),
        )

    async def get(self, debate_id: UUID) -> Debate:
        """Return a debate as its row records it, without rounds.

        Raises:
            NotFoundError: No debate has this id.
        """
        row = await self._database.row("SELECT * FROM debates WHERE id = ?", (str(debate_id),))
        if row is None:
            raise NotFoundError(f"There is no debate with the id {debate_id}.")
        return _debate(row)

    async def list_orphans(self, pid: int, live: set[UUID], data_dir: Path) -> list[UUID]:
        """Return the ids of debates that are marked as running but are not.

        Either their process is gone, or they belong to this process (`pid`) and are not among its `live` debates. A
        process in another container has a process id that means another process here, or none. Its sign of life counts.
        """
        rows = await self._database.rows("SELECT id, owner_pid, created_at FROM debates WHERE status = 'running'")
        orphans = []
        for row in rows:
            debate_id = UUID(row["id"])
            if debate_id in live:
                continue
            sign = read_sign_of_life(data_dir, debate_id)
            if sign is None:  # no file: an earlier version of TMDE wrote the row
                sign = row["owner_pid"] != pid and _owner_lives(row)
            if not sign:
                orphans.append(debate_id)
        return orphans


def _owner_lives(row: sqlite3.Row) -> bool:
    """Return whether the process that wrote the row still runs.

    A process that started after the row was written only has the same number, and is another process.
    """
    pid = row["owner_pid"]
    if pid is None:
        return False
    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
    # Allow one second, because the clock may have been adjusted between the two measurements.
    return bool(born <= datetime.fromisoformat(row["created_at"]).timestamp() + 1)


def _debate(row: sqlite3.Row) -> Debate:
    return Debate(
        id=UUID(row["id"]),
        query=row["query"],
        status=msgspec.convert(row["status"], DebateStatus),
        created_at=datetime.fromisoformat(row["created_at"]),
        ended_at=datetime.fromisoformat(row["ended_at"]) if row["ended_at"] else None,
        config=from_json(row["config"], DebateConfig),
        trace_id=UUID(row["trace_id"]) if row["trace_id"] else None,
        adapter_id=row["adapter_id"],
        error_message=row["error_message"],
        source=row["source"],
    )
