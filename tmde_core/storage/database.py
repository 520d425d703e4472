"""Opens the SQLite database with one writer and several readers.

Each aiosqlite connection runs its statements in its own thread. Tasks that share a connection also share its
transaction. Therefore all writes use one connection, protected by a lock, and run in atomic `BEGIN IMMEDIATE`
transactions. Reads use a small pool of read-only connections. WAL mode lets these run beside the writer.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import structlog

from tmde_core.errors import BrokenFileError, InsufficientStorageError, TmdeError
from tmde_core.storage.words import search_marks, search_words

log = structlog.get_logger(__name__)

READERS = 3
"""The number of reading connections: enough for one person's pages and API. Each costs a thread and a page cache."""

BUSY_TIMEOUT_MS = 10_000
"""How long to wait while another process writes, such as the CLI beside the server, milliseconds."""

MIGRATION_TIMEOUT_MS = 15 * 60_000
"""How long to wait while another process migrates the file, milliseconds. 0006 takes some 12 s for 100,000 traces."""

SCHEMA_DIR = Path(__file__).parent / "schema"

Parameters = Sequence[Any] | dict[str, Any]


class Database:
    """An open database. Open it with `async with Database.open(path) as db`."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, connections: list[aiosqlite.Connection]) -> None:
        """Create the database on an open writer.

        Args:
            path: the database file.
            writer: the connection for all writes.
            connections: closed with the database. New reading connections are added to this list.
        """
        self._path = path
        self._writer = writer
        self._connections = connections
        self._idle: list[aiosqlite.Connection] = []
        self._opening: set[asyncio.Future[aiosqlite.Connection]] = set()
        self._reading = asyncio.Semaphore(READERS)
        self._write_lock = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Database]:
        """Open the database file.

        Create or migrate it if needed.

        Raises:
            InsufficientStorageError: the directory is read-only or full.
            BrokenFileError: the file is not a SQLite database, is damaged, or was written by a newer version of TMDE.
        """
        connections: list[aiosqlite.Connection] = []
        database: Database | None = None
        try:
            with _explained(path):
                writer = await _connect(path)
                connections.append(writer)
                await _migrate(writer, path)
            database = cls(path, writer, connections)
            yield database
        finally:
            if database is not None and database._opening:
                await asyncio.wait(database._opening)
            for connection in reversed(connections):
                await connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """Run the block's statements as one atomic transaction.

        Keep the block short, because other writers wait for it. If the task is cancelled during the commit, the commit
        is completed first. Then the cancellation is raised.

        Raises:
            RuntimeError: the task is already in a transaction; it would wait for itself forever.
            InsufficientStorageError: the disk is full or read-only; nothing was written.
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
        except BaseException:  # otherwise the next writer's statements would join the open transaction
            await self._writer.rollback()
            raise

    async def write(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one writing statement in its own transaction and return the number of changed rows."""
        async with self.transaction() as connection:
            cursor = await connection.execute(sql, parameters)
            return cursor.rowcount

    async def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        async with self._reading:
            reader = self._idle.pop() if self._idle else await self._new_reader()
            try:
                with _explained(None):
                    return list(await reader.execute_fetchall(sql, parameters))
            finally:
                self._idle.append(reader)

    async def _new_reader(self) -> aiosqlite.Connection:
        """Open one more reading connection, because all others are busy. Most commands need only one."""
        # Cancelling a query must not cut off the opening: the thread of a connection that nobody knows is never ended
        # and keeps the process alive. Closing the database waits for what is being opened.
        opening = asyncio.ensure_future(self._open_reader())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._keep_idle)
            raise

    def _keep_idle(self, opened: asyncio.Future[aiosqlite.Connection]) -> None:
        if not opened.cancelled() and opened.exception() is None:
            self._idle.append(opened.result())

    async def _open_reader(self) -> aiosqlite.Connection:
        with _explained(self._path):
            reader = await _connect(self._path)
            self._connections.append(reader)
            await reader.execute("PRAGMA query_only = ON")
        return reader

    async def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """Return the first row of a query; None if there are no rows."""
        found = await self.rows(sql, parameters)
        return found[0] if found else None

    async def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """Return the first column of the first row; None if there are no rows."""
        found = await self.row(sql, parameters)
        return found[0] if found is not None else None


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to completion even if this task is cancelled.

    Raise the cancellation afterwards. Statements wait in a queue on the connection's thread. A late rollback would roll
    back the next writer's transaction.
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
    # If aiosqlite cannot open a file, its thread may report to a closed event loop and print a traceback.
    await asyncio.to_thread(lambda: sqlite3.connect(path).close())
    connection = await aiosqlite.connect(path, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = NORMAL")
        await connection.execute("PRAGMA foreign_keys = ON")
        # Triggers call these; see the module.
        await connection.create_function("search_words", 1, search_words, deterministic=True)
        await connection.create_function("search_marks", 6, search_marks, deterministic=True)
    except BaseException:  # the connection's thread would keep the process alive
        await connection.close()
        raise
    return connection


def _migrations() -> list[tuple[int, str]]:
    files = sorted(SCHEMA_DIR.glob("[0-9]*.sql"))
    return [(int(file.name.split("_")[0]), file.read_text(encoding="utf-8")) for file in files]


async def _migrate(writer: aiosqlite.Connection, path: Path) -> None:
    """Update the schema. `PRAGMA user_version` is the number of the last migration that has run."""
    migrations = _migrations()
    newest = migrations[-1][0]
    version = await _version(writer)
    if version > newest:
        raise BrokenFileError(
            f"{path} was written by a newer version of TMDE (schema {version}, this one knows {newest}). Update TMDE."
        )
    if version < newest:
        await writer.execute(f"PRAGMA busy_timeout = {MIGRATION_TIMEOUT_MS}")
    for number, sql in migrations:
        if number <= version:
            continue
        await writer.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated while this one waited for the lock.
            if await _version(writer) < number:
                if version:
                    log.info("database.migrating", file=str(path), schema=number)
                for statement in _statements(sql):
                    await writer.execute(statement)
                await writer.execute(f"PRAGMA user_version = {number}")
            await writer.commit()
        except BaseException:
            await writer.rollback()
            raise
    await writer.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")


async def _version(connection: aiosqlite.Connection) -> int:
    cursor = await connection.execute("PRAGMA user_version")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements. `executescript` is not used, because it commits an open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


class _explained:
    """Translates SQLite errors about the disk or the file into TMDE's errors. Other errors stay unchanged."""

    def __init__(self, path: Path | None) -> None:
        self._where = f" ({path})" if path else ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        # The low byte is the primary code. The other bytes distinguish variants that mean the same to a person.
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
            raise BrokenFileError(
                f"The database file{self._where} is damaged: {error}. Move it away or restore a copy; TMDE did not touch it."
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TmdeError(
                f"Another process kept the database{self._where} busy for {BUSY_TIMEOUT_MS // 1000} s. Try again."
            ) from error
