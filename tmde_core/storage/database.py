"""SQLite with one writer and several readers.

aiosqlite connections run their statements on a thread of their own. Tasks that shared a connection would share its
transaction, so all writing goes through one connection behind a lock, in `BEGIN IMMEDIATE` transactions that either
happen or do not; reading uses a small pool of read-only connections, which WAL lets run beside the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from tmde_core.errors import InsufficientStorageError, InvalidInputError, TmdeError

READERS = 3
"""Enough for the pages and the API of one person; each costs a thread and a page cache."""

BUSY_TIMEOUT_MS = 10_000
"""How long to wait for another process (the CLI beside the server) that is writing."""

SCHEMA_DIR = Path(__file__).parent / "schema"

Parameters = Sequence[Any] | dict[str, Any]


class Database:
    """An open database. `async with Database.open(path) as db`."""

    def __init__(self, writer: aiosqlite.Connection, readers: asyncio.Queue[aiosqlite.Connection]) -> None:
        self._writer = writer
        self._readers = readers
        self._write_lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Database]:
        """Open (and create or migrate) the database file.

        Raises:
            InsufficientStorageError: the directory is read-only or full.
            InvalidInputError: the file is no SQLite database, damaged, or from a newer version of TMDE.
        """
        connections: list[aiosqlite.Connection] = []
        try:
            with _explained(path):
                writer = await _connect(path)
                connections.append(writer)
                await _migrate(writer, path)
                readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
                for _ in range(READERS):
                    reader = await _connect(path)
                    connections.append(reader)
                    await reader.execute("PRAGMA query_only = ON")
                    readers.put_nowait(reader)
            yield cls(writer, readers)
        finally:
            for connection in reversed(connections):
                await connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Write: all of the block's statements happen, or none. Keep the block short; writers queue here."""
        async with self._write_lock:
            with _explained(None):
                await self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                except BaseException:
                    await asyncio.shield(self._writer.rollback())
                    raise
                await asyncio.shield(self._writer.commit())

    async def write(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one writing statement in a transaction of its own; returns the number of rows it changed."""
        async with self.transaction() as connection:
            cursor = await connection.execute(sql, parameters)
            return cursor.rowcount

    async def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """Read rows."""
        reader = await self._readers.get()
        try:
            with _explained(None):
                return list(await reader.execute_fetchall(sql, parameters))
        finally:
            self._readers.put_nowait(reader)

    async def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """Read the first row, if there is one."""
        found = await self.rows(sql, parameters)
        return found[0] if found else None

    async def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """Read the first column of the first row; None when there is none."""
        found = await self.row(sql, parameters)
        return found[0] if found is not None else None


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = NORMAL")
    await connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _migrations() -> Iterable[tuple[int, str]]:
    for file in sorted(SCHEMA_DIR.glob("[0-9]*.sql")):
        yield int(file.name.split("_")[0]), file.read_text(encoding="utf-8")


async def _migrate(writer: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema up to date; `PRAGMA user_version` counts the migrations that have run."""
    migrations = list(_migrations())
    cursor = await writer.execute("PRAGMA user_version")
    row = await cursor.fetchone()
    version = int(row[0]) if row else 0
    newest = migrations[-1][0]
    if version > newest:
        raise InvalidInputError(
            f"{path} was written by a newer version of TMDE (schema {version}, this one knows {newest}). Update TMDE."
        )
    for number, sql in migrations:
        if number > version:
            # executescript ends any open transaction, so the script carries its own.
            await writer.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\nCOMMIT;")


class _explained:
    """Turns SQLite's complaints about the disk and the file into our errors."""

    def __init__(self, path: Path | None) -> None:
        self._where = f" ({path})" if path else ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError):
            return
        text = str(error)
        if "readonly" in text or "read-only" in text or "unable to open" in text:
            raise InsufficientStorageError(
                f"The database{self._where} cannot be written: {text}. Check the permissions of the data directory."
            ) from error
        if "full" in text or "disk I/O" in text:
            raise InsufficientStorageError(
                f"The disk that holds the database{self._where} is full or failing: {text}. Free some space; nothing was lost."
            ) from error
        if "not a database" in text or "malformed" in text:
            raise InvalidInputError(
                f"The database file{self._where} is damaged: {text}. Move it away or restore a copy; TMDE did not touch it."
            ) from error
        if "locked" in text:
            raise TmdeError(
                f"Another process kept the database{self._where} busy for {BUSY_TIMEOUT_MS // 1000} s. Try again."
            ) from error
