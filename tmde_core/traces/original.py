"""Reads the SQLite file of the project that TMDE continues.

The file has the tables `traces` and `rounds`, with one row per debate and one row per round.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

from tmde_core.errors import FileMissingError, InvalidInputError
from tmde_core.records.debate import Round
from tmde_core.records.traces import RoleModel, Timings, Trace
from tmde_core.storage.words import is_blank
from tmde_core.traces.exchange import Entry, in_utc, require_answer, without_thought
from tmde_core.traces.store import Arrival

NAMESPACE = UUID("6f9a3c1e-5d0b-4b83-9b52-3d0a1f4a7c11")
"""Ids that are not UUIDs become UUIDs in this fixed namespace, so that a second import recognises them."""

BATCH_ROWS = 200

_EPOCH = re.compile(r"\d{9,}(\.\d+)?", re.ASCII)

REQUIRED = {
    "traces": {"id", "query", "final_answer"},
    "rounds": {"trace_id", "round_number", "proposer_response"},
}
"""The columns that each table must have. Any other column may be missing; its value is then empty."""

ROLE_COLUMNS = {
    "proposer": "proposer_model",
    "skeptic": "skeptic_model",
    "synthesizer": "synthesizer_model",
    "embedding": "embedding_model",
}


async def entries(path: Path) -> AsyncIterator[Entry]:
    """Yield each row of `traces`, with its number in the file, as a trace or as the reason why it is not a trace.

    Raises:
        NotFoundError, InvalidInputError: See `TraceService.import_sqlite`.
    """
    connection = await asyncio.to_thread(_open, path)
    try:
        cursor = await asyncio.to_thread(_read, connection, path, "SELECT * FROM traces ORDER BY rowid")
        number = 0
        while rows := await asyncio.to_thread(_batch, connection, cursor, path):
            for row, rounds in rows:
                number += 1
                try:
                    yield number, Arrival(_trace(row, rounds), named=True)
                except InvalidInputError as error:
                    yield number, error.detail
    finally:
        await asyncio.to_thread(connection.close)


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise FileMissingError(f"There is no file {path}.")
    # `immutable` creates no files beside the database, but it ignores changes that are only in the WAL so far.
    wal = path.with_name(path.name + "-wal")
    mode = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
    uri = f"file:{quote(str(path.absolute()))}?{mode}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.text_factory = _text
    try:
        _check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _text(stored: bytes) -> str | bytes:
    """Return a stored text. Text that is not UTF-8 stays bytes, which a trace does not take: no letter is guessed."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


_DAMAGED = (sqlite3.Error, UnicodeDecodeError)
"""Python decodes the names of columns, and SQLite's messages about them, as UTF-8. Damage makes them something else."""


def _problem(error: Exception) -> str:
    return "a name in it is no text" if isinstance(error, UnicodeDecodeError) else str(error)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    for table, columns in REQUIRED.items():
        present = {row["name"] for row in _read(connection, path, f"PRAGMA table_info({table})")}
        if not present:
            raise InvalidInputError(
                f"{path} has no table {table!r}: it is no file of the original project, whose debates are in the "
                "tables 'traces' and 'rounds'.",
                table=table,
            )
        if missing := sorted(columns - present):
            raise InvalidInputError(
                f"In {path} the table {table!r} lacks the column {', '.join(missing)}: it is not the original "
                "project's table.",
                table=table,
                missing=missing,
            )


def _read(connection: sqlite3.Connection, path: Path, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
    try:
        return connection.execute(sql, parameters)
    except _DAMAGED as error:
        raise InvalidInputError(f"{path} cannot be read as an SQLite database: {_problem(error)}.") from None


def _batch(
    connection: sqlite3.Connection, cursor: sqlite3.Cursor, path: Path
) -> list[tuple[sqlite3.Row, list[sqlite3.Row]]]:
    try:
        return [
            (
                row,
                _read(
                    connection, path, "SELECT * FROM rounds WHERE trace_id = ? ORDER BY round_number", (row["id"],)
                ).fetchall(),
            )
            for row in cursor.fetchmany(BATCH_ROWS)
        ]
    except _DAMAGED as error:
        raise InvalidInputError(
            f"{path} is damaged: {_problem(error)}. What came before the damage was imported."
        ) from None


def _trace(row: sqlite3.Row, round_rows: list[sqlite3.Row]) -> Trace:
    get = _Columns(row)
    auto_score = get.number("auto_score", 0, 10)
    if auto_score is None:
        auto_score = get.number("quality_score", 0, 10)
    rating = get.number("user_rating", 1, 10)
    if rating is not None and rating != int(rating):
        raise InvalidInputError(f"user_rating: {rating} is no whole number.", field="user_rating")
    early = get.number("early_stopped", 0, 1)
    metadata = get.json_object("metadata")
    domain = metadata.get("domain")
    trace = Trace(
        id=_id(get.text("id", required=True)),
        created_at=_time(get("created_at")),
        query=get.text("query", required=True),
        final_answer=get.text("final_answer", required=True),
        domain=domain[:60] if isinstance(domain, str) and domain else None,
        rounds=_rounds(round_rows),
        early_stopped=bool(early),
        auto_score=auto_score,
        judge="import" if auto_score is not None else None,
        user_rating=int(rating) if rating is not None else None,
        models={
            role: RoleModel(runtime="", model=model)
            for role, column in ROLE_COLUMNS.items()
            if (model := get.text(column))
        },
        templates_used=get.names("templates_used"),
        timings=Timings(
            total_ms=get.number("total_duration_ms", 0) or 0.0,
            retrieval_ms=get.number("rag_duration_ms", 0) or 0.0,
            synthesis_ms=get.number("synthesis_duration_ms", 0) or 0.0,
        ),
        source="import",
    )
    return require_answer(trace)


def _rounds(rows: list[sqlite3.Row]) -> tuple[Round, ...]:
    rounds = []
    for row in rows:
        get = _Columns(row)
        number = get.number("round_number", 0)
        if number is None or number != int(number):
            raise InvalidInputError("rounds: a round has no number.", field="round_number")
        rounds.append(
            without_thought(
                Round(
                    number=int(number),
                    proposal=get.text("proposer_response"),
                    critique_text=get.text("skeptic_response"),
                    proposer_ms=get.number("proposer_duration_ms", 0) or 0.0,
                    skeptic_ms=get.number("skeptic_duration_ms", 0) or 0.0,
                )
            )
        )
    if len({round_.number for round_ in rounds}) != len(rounds):
        raise InvalidInputError("rounds: two rounds have the same number.", field="round_number")
    return tuple(rounds)


class _Columns:
    """Reads and checks the columns of a row; SQLite allows any type of value in any column."""

    def __init__(self, row: sqlite3.Row) -> None:
        self._row = row
        self._names = set(row.keys())

    def __call__(self, name: str) -> Any:
        return self._row[name] if name in self._names else None

    def text(self, name: str, *, required: bool = False) -> str:
        value = self(name)
        if isinstance(value, bytes):
            raise InvalidInputError(f"{name}: holds binary data where text belongs.", field=name)
        text = "" if value is None else str(value)
        if required and is_blank(text):
            raise InvalidInputError(f"{name}: is empty.", field=name)
        return text

    def number(self, name: str, low: float, high: float = 1e12) -> float | None:
        value = self(name)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InvalidInputError(f"{name}: {str(value)[:40]!r} is no number.", field=name) from None
        if not low <= number <= high:
            raise InvalidInputError(f"{name}: {number:g} is not from {low:g} to {high:g}.", field=name)
        return number

    def json_object(self, name: str) -> dict[str, Any]:
        """Return the JSON object of a column; return an empty object for anything else."""
        try:
            value = json.loads(self.text(name) or "{}")
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def names(self, name: str) -> tuple[str, ...]:
        """Return the names of a column that holds a JSON list or names separated by commas."""
        text = self.text(name)
        try:
            value = json.loads(text or "[]")
        except (ValueError, RecursionError):
            value = text.split(",")
        if not isinstance(value, list):
            value = [value]
        return tuple(str(item).strip() for item in value if str(item).strip())


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return uuid5(NAMESPACE, text)


def _time(value: Any) -> datetime:
    """Return the time of a value; a time without a zone is UTC.

    The value is ISO 8601 text, SQLite's `YYYY-MM-DD HH:MM:SS`, or seconds or milliseconds since 1970.

    Raises:
        InvalidInputError: The value is not a time.
    """
    try:
        if isinstance(value, str) and _EPOCH.fullmatch(value):  # a TEXT column stores a number as text
            value = float(value)
        if isinstance(value, (int, float)):
            seconds = value / 1000 if abs(value) > 1e11 else value
            moment: datetime | None = datetime.fromtimestamp(seconds, UTC)
        else:
            moment = datetime.fromisoformat(value)
        moment = in_utc(moment, "created_at")
    except (TypeError, ValueError, OverflowError, OSError):
        moment = None
    if moment is None:
        raise InvalidInputError(f"created_at: {str(value)[:40]!r} is no time.", field="created_at")
    return moment
