"""SQLite with one writer and several readers.

aiosqlite connections run their statements on a thread of their own. Tasks that shared a connection would share its
transaction, so all writing goes through one connection behind a lock, in `BEGIN IMMEDIATE` transactions that either
happen or do not; reading uses a small pool of read-only connections, which WAL lets run beside the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
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

    def __init__(self, path: Path, writer: aiosqlite.Connection, connections: list[aiosqlite.Connection]) -> None:
        """Build it on an open writer; `connections` are closed with the database, and readers are added to them."""
        self._path = path
        self._writer = writer
        self._connections = connections
        self._idle: list[aiosqlite.Connection] = []
        self._reading = asyncio.Semaphore(READERS)
        self._write_lock = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None

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
            yield cls(path, writer, connections)
        finally:
            for connection in reversed(connections):
                await connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Write: all of the block's statements happen, or none. Keep the block short; writers queue here.

        A cancellation that arrives while the commit is under way is raised after it: the block has then happened.

        Raises:
            RuntimeError: the task is in a transaction already; waiting for itself it would never go on.
            InsufficientStorageError: the disk is full or read-only; nothing of the block happened.
        """
        if self._writing is not None and self._writing is asyncio.current_task():
            raise RuntimeError("a transaction inside a transaction: pass the open connection on instead")
        async with self._write_lock:
            self._writing = asyncio.current_task()
            try:
                with _explained(None):
                    try:
                        await self._writer.execute("BEGIN IMMEDIATE")
                        yield self._writer
                    except BaseException:
                        await _to_its_end(self._writer.rollback())
                        raise
                    await _to_its_end(self._commit())
            finally:
                self._writing = None

    async def _commit(self) -> None:
        try:
            await self._writer.commit()
        except BaseException:  # an open transaction would swallow the next writer's
            await self._writer.rollback()
            raise

    async def write(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one writing statement in a transaction of its own; returns the number of rows it changed."""
        async with self.transaction() as connection:
            cursor = await connection.execute(sql, parameters)
            return cursor.rowcount

    async def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """Read rows."""
        async with self._reading:
            reader = self._idle.pop() if self._idle else await self._new_reader()
            try:
                with _explained(None):
                    return list(await reader.execute_fetchall(sql, parameters))
            finally:
                self._idle.append(reader)

    async def _new_reader(self) -> aiosqlite.Connection:
        """One more reading connection. Made when all others are busy: most commands need one."""
        with _explained(self._path):
            reader = await _connect(self._path)
            self._connections.append(reader)
            await reader.execute("PRAGMA query_only = ON")
        return reader

    async def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """Read the first row, if there is one."""
        found = await self.rows(sql, parameters)
        return found[0] if found else None

    async def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """Read the first column of the first row; None when there is none."""
        found = await self.row(sql, parameters)
        return found[0] if found is not None else None


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` to its end even when this task is cancelled meanwhile; the cancellation is raised afterwards.

    Statements queue on the connection's thread. Left behind, a late rollback would hit the next writer's transaction.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def _connect(path: Path) -> aiosqlite.Connection:
    # Where aiosqlite cannot open a file, its thread answers a loop that may be gone, and prints a traceback.
    await asyncio.to_thread(lambda: sqlite3.connect(path).close())
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = NORMAL")
        await connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:  # its thread would keep the process alive
        await connection.close()
        raise
    return connection


def _migrations() -> list[tuple[int, str]]:
    files = sorted(SCHEMA_DIR.glob("[0-9]*.sql"))
    return [(int(file.name.split("_")[0]), file.read_text(encoding="utf-8")) for file in files]


async def _migrate(writer: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema up to date; `PRAGMA user_version` counts the migrations that have run."""
    migrations = _migrations()
    newest = migrations[-1][0]
    version = await _version(writer)
    if version > newest:
        raise InvalidInputError(
            f"{path} was written by a newer version of TMDE (schema {version}, this one knows {newest}). Update TMDE."
        )
    for number, sql in migrations:
        if number <= version:
            continue
        await writer.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated while this one waited for the lock.
            if await _version(writer) < number:
                for statement in _statements(sql):
                    await writer.execute(statement)
                await writer.execute(f"PRAGMA user_version = {number}")
            await writer.commit()
        except BaseException:
            await writer.rollback()
            raise


async def _version(connection: aiosqlite.Connection) -> int:
    cursor = await connection.execute("PRAGMA user_version")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


def _statements(script: str) -> Iterator[str]:
    """Cut a script into statements. `executescript` would commit whatever transaction is open."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


class _explained:
    """Turns SQLite's complaints about the disk and the file into our errors; all others pass as they are."""

    def __init__(self, path: Path | None) -> None:
        self._where = f" ({path})" if path else ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        # The low byte is the primary code; the rest tells variants apart that mean the same to a person.
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise InsufficientStorageError(
                f"The database{self._where} cannot be written: {error}. Check the permissions of the data directory."
            ) from error
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise InsufficientStorageError(
                f"The disk that holds the database{self._where} is full or failing: {error}. "
                "Free some space; what was saved before is safe."
            ) from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise InvalidInputError(
                f"The database file{self._where} is damaged: {error}. Move it away or restore a copy; TMDE did not touch it."
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TmdeError(
                f"Another process kept the database{self._where} busy for {BUSY_TIMEOUT_MS // 1000} s. Try again."
            ) from error
