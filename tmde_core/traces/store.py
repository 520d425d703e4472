"""Stores traces in SQLite: converts between rows and records; the service decides what is allowed."""

# ruff: noqa: S608 - statements are put together from this module's own constants; values are always parameters
from __future__ import annotations

import base64
import binascii
import math
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import aiosqlite
import msgspec

from tmde_core.errors import InvalidInputError, UnprocessableError
from tmde_core.records.base import Record, to_json, utc_now
from tmde_core.records.debate import Critique, Round
from tmde_core.records.traces import RoleModel, Timings, TokenCounts, Trace, TraceFilter, TraceStats
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time
from tmde_core.storage.words import (
    QUALITY_STEPS,
    RATED_MARK,
    WITHDRAWN_MARK,
    quality_mark,
    search_terms,
    source_mark,
)

T = TypeVar("T")

QUALITY = "coalesce(user_rating, auto_score)"
"""`Trace.quality_score` in SQL, written exactly as in its index; otherwise SQLite does not use the index."""

MIN_PREFIX = 3
"""The length of the prefixes that the full-text index holds."""

HIGHEST_STEP = 10 * QUALITY_STEPS

PLACE = (
    "((coalesce(min(max(unixepoch(?) * 1000 + CAST(substr(?, 21, 3) AS INTEGER), 0), 8796093022207), 0) << 20) "
    "| (? & 1048575))"
)
"""The column `place` for a given `created_at`, twice, and `seq`. The trace itself may have been deleted."""

COLUMNS = (
    "seq, id, created_at, query, final_answer, domain, early_stopped, stop_reason, auto_score, judge, user_rating, "
    "corrected_answer, withdrawn_at, withdrawn_reason, adapter_id, source, details"
)

PassedOver = Literal["low-score", "benchmark"]
Scored = tuple[UUID, float | None]
"""A trace's id and its quality score."""

_PASSED_OVER: Mapping[PassedOver, str] = {
    "low-score": f"source <> 'benchmark' AND coalesce({QUALITY}, -1) < ?",
    "benchmark": f"source = 'benchmark' AND {QUALITY} >= ?",
}

_CURSOR = re.compile(r"(?P<created_at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<seq>\d{1,18})", re.ASCII)


class TraceDetails(Record):
    """The fields that are shown with a trace but never searched, stored in one JSON column."""

    models: dict[str, RoleModel] = msgspec.field(default_factory=dict)
    templates_used: tuple[str, ...] = ()
    timings: Timings = Timings()
    tokens: TokenCounts = TokenCounts()
    score_reasons: tuple[str, ...] = ()


def encode_cursor(created_at: str, seq: int) -> str:
    """Return the position after one row as an opaque text for callers."""
    return base64.urlsafe_b64encode(f"{created_at} {seq}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[str, int]:
    """Return the position that `encode_cursor` encoded.

    Raises:
        InvalidInputError: The text is not a cursor of this list.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        found = _CURSOR.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        raise InvalidInputError(
            "cursor: this is no cursor of this list; take `nextCursor` from a page.", field="cursor"
        )
    return found["created_at"], int(found["seq"])


def fts_query(text: str) -> str | None:
    """Return the full-text query for a search text, or None if the text contains no word.

    Each word is quoted, so that no word acts as an operator. The last word is a prefix.
    """
    terms = search_terms(text)
    if not terms:
        return None
    last = terms[-1]
    # Someone may still be typing the last word; a shorter prefix would match nearly everything, slowly.
    prefix = "*" if last.spaced and len(last.tokens[-1]) >= MIN_PREFIX else ""
    return f"({' AND '.join(term.quoted() for term in terms)}{prefix})"


class Where:
    """A filter as SQL: conditions and their parameters.

    A search also has each condition as tokens of the index, because looking up 100,000 matches in the table takes
    50 ms. Only a threshold between two of the index's steps of quality is looked up.
    """

    def __init__(self, wanted: TraceFilter, min_quality_score: float) -> None:
        self._conditions: list[str] = []
        self._parameters: list[Any] = []
        self.match: str | None = None
        """The full-text query with all conditions that the index knows; None if nothing is searched for."""
        self.exact = True
        """Whether the index alone decides. Otherwise the conditions must be looked up too."""
        self.nothing = False
        if wanted.q is not None and wanted.q.strip():
            self.match = fts_query(wanted.q)
            self.nothing = self.match is None
        if wanted.min_quality is not None:
            self.add(f"{QUALITY} >= ?", wanted.min_quality)
            self._find(_quality_mark(wanted.min_quality))
            self._look_up_unless(_is_step(wanted.min_quality))
        if wanted.rated is not None:
            self.add(f"user_rating IS {'NOT ' if wanted.rated else ''}NULL")
            self._find(f'"{RATED_MARK}"', wanted.rated)
        if wanted.eligible is not None:
            eligible = f"({QUALITY} >= ? AND withdrawn_at IS NULL AND source <> 'benchmark')"
            # Within coalesce, so that counting walks the covering index instead of visiting each row of the quality index.
            self.add(f"coalesce({eligible}, 0) = {int(wanted.eligible)}", min_quality_score)
            self._look_up_unless(_is_step(min_quality_score))
            if wanted.eligible or self.exact:  # the traces of the step below may be ineligible too
                unfit = f'"{WITHDRAWN_MARK}" OR "{source_mark("benchmark")}"'
                self._find(f"({_quality_mark(min_quality_score)} NOT ({unfit}))", wanted.eligible)
        if wanted.source is not None:
            self.add("source = ?", wanted.source)
            self._find(f'"{source_mark(wanted.source)}"')

    def add(self, condition: str, *parameters: Any) -> None:
        """Add a condition that must hold."""
        self._conditions.append(condition)
        self._parameters.extend(parameters)

    def _find(self, mark: str, present: bool = True) -> None:
        if self.match is not None:
            self.match = f"({self.match} {'AND' if present else 'NOT'} {mark})"

    def _look_up_unless(self, known: bool) -> None:
        self.exact = self.exact and known

    def sql(self) -> tuple[str, list[Any]]:
        """Return the WHERE clause with its parameters, without what is searched for."""
        return (f"WHERE {' AND '.join(self._conditions)}" if self._conditions else ""), list(self._parameters)

    def found_sql(self, *more: str) -> tuple[str, list[Any]]:
        """Return the FROM and WHERE clauses of a search, with their parameters.

        Args:
            more: more conditions.
        """
        sql, conditions, parameters = "FROM traces_fts", ["traces_fts MATCH ?", *more], [self.match]
        if not self.exact:
            # CROSS: otherwise SQLite may look up each trace in the full-text index.
            sql += " CROSS JOIN traces ON traces.place = traces_fts.rowid"
            conditions += self._conditions
            parameters += self._parameters
        return f"{sql} WHERE {' AND '.join(conditions)}", parameters

    def count_sql(self) -> tuple[str, list[Any]]:
        """Return the statement that counts the matches, with its parameters."""
        clauses, parameters = self.sql() if self.match is None else self.found_sql()
        source = "FROM traces " if self.match is None else ""
        return f"SELECT count(*) {source}{clauses}", parameters


def _quality_mark(threshold: float) -> str:
    """Return the token of the highest step of quality that is not above a threshold."""
    steps = threshold * QUALITY_STEPS
    step = math.floor(max(steps, 0)) if steps <= HIGHEST_STEP else HIGHEST_STEP + 1  # which no trace has; also for NaN
    return f'"{quality_mark(step)}"'


def _is_step(threshold: float) -> bool:
    """Return whether the tokens of quality decide this threshold. Every score is at least 0 and at most 10."""
    steps = threshold * QUALITY_STEPS
    return not 0 < steps <= HIGHEST_STEP or steps == math.floor(steps)


def build_page_sql(where: Where, limit: int, cursor: str | None) -> tuple[str, list[Any]]:
    """Return the statement of one page, newest first, with its parameters.

    The statement reads one row more than `limit`, which shows whether more rows follow.
    """
    position = None if cursor is None else decode_cursor(cursor)
    if where.match is not None:
        return _build_found_page_sql(where, limit, position)
    if position is not None:
        where.add("(created_at, seq) < (?, ?)", *position)
    clause, parameters = where.sql()
    # Choosing the keys first keeps the long texts out of any sorting.
    keys = f"SELECT seq FROM traces {clause} ORDER BY created_at DESC, seq DESC LIMIT ?"
    sql = f"SELECT {COLUMNS} FROM traces WHERE seq IN ({keys}) ORDER BY created_at DESC, seq DESC"
    return sql, [*parameters, limit + 1]


def _build_found_page_sql(where: Where, limit: int, position: tuple[str, int] | None) -> tuple[str, list[Any]]:
    """Return the statement of one page of a search.

    The full-text index yields the matches in the order of pages, so it stops after `limit`.
    """
    clauses, parameters = where.found_sql(*(() if position is None else (f"traces_fts.rowid < {PLACE}",)))
    if position is not None:
        at = 1  # after what is searched for, before other conditions
        parameters[at:at] = [position[0], position[0], position[1]]
    places = f"SELECT traces_fts.rowid {clauses} ORDER BY traces_fts.rowid DESC LIMIT ?"
    return f"SELECT {COLUMNS} FROM traces WHERE place IN ({places}) ORDER BY place DESC", [*parameters, limit + 1]


class TraceStore:
    """Reads and writes traces."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def get(self, trace_id: UUID) -> Trace | None:
        """Return the trace with its rounds, or None if no trace has this id."""
        found = await self._traces(await self._db.rows(f"SELECT {COLUMNS} FROM traces WHERE id = ?", (str(trace_id),)))
        return found[0] if found else None

    async def page(
        self, wanted: TraceFilter, min_quality_score: float, limit: int, cursor: str | None
    ) -> tuple[list[Trace], int, str | None]:
        """Return one page, newest first, the number of matches on all pages, and the cursor of the next page."""
        where = Where(wanted, min_quality_score)
        if cursor is not None:
            decode_cursor(cursor)
        total = 0 if where.nothing else int(await self._db.value(*where.count_sql()))
        if not total:
            return [], 0, None
        rows = await self._db.rows(*build_page_sql(where, limit, cursor))
        page = rows[:limit]
        more = encode_cursor(page[-1]["created_at"], page[-1]["seq"]) if len(rows) > limit else None
        return await self._traces(page), total, more

    async def after(self, seq: int, limit: int) -> tuple[list[Trace], int]:
        """Return the next `limit` traces in the order in which they were stored, and the position after them."""
        rows = await self._db.rows(f"SELECT {COLUMNS} FROM traces WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return await self._traces(rows), rows[-1]["seq"] if rows else seq

    async def eligible(self, min_quality_score: float) -> list[Trace]:
        """Return every trace that may be used for training, oldest first."""
        clause, parameters = Where(TraceFilter(eligible=True), min_quality_score).sql()
        return await self._traces(
            await self._db.rows(f"SELECT {COLUMNS} FROM traces {clause} ORDER BY created_at, seq", parameters)
        )

    async def withdrawn(self, min_quality_score: float) -> list[UUID]:
        """Return the ids of withdrawn traces with at least this quality, oldest first."""
        rows = await self._db.rows(
            f"SELECT id FROM traces WHERE withdrawn_at IS NOT NULL AND {QUALITY} >= ? AND source <> 'benchmark' "
            "ORDER BY created_at, seq",
            (min_quality_score,),
        )
        return [UUID(row["id"]) for row in rows]

    async def passed_over(self, which: PassedOver, min_quality_score: float, limit: int) -> tuple[int, list[Scored]]:
        """Return the number of traces that training never considers, and the best of them, best first."""
        where = f"withdrawn_at IS NULL AND {_PASSED_OVER[which]}"
        total = await self._db.value(f"SELECT count(*) FROM traces WHERE {where}", (min_quality_score,))
        rows = await self._db.rows(
            f"SELECT id, {QUALITY} AS quality FROM traces WHERE {where} ORDER BY quality DESC, seq LIMIT ?",
            (min_quality_score, limit),
        )
        return total, [(UUID(row["id"]), row["quality"]) for row in rows]

    async def _traces(self, rows: Sequence[sqlite3.Row]) -> list[Trace]:
        rounds: dict[str, list[Round]] = {}
        for start in range(0, len(rows), 500):  # SQLite bounds the number of parameters
            ids = [row["id"] for row in rows[start : start + 500]]
            marks = ",".join("?" * len(ids))
            for row in await self._db.rows(
                "SELECT trace_id, number, proposal, critique, critique_text, proposer_ms, skeptic_ms FROM rounds "
                f"WHERE trace_id IN ({marks}) ORDER BY trace_id, number",
                ids,
            ):
                rounds.setdefault(row["trace_id"], []).append(_round(row))
        return [_trace(row, rounds.get(row["id"], ())) for row in rows]

    async def has(self, trace_id: UUID) -> bool:
        """Return whether a trace with this id exists."""
        return bool(await self._db.value("SELECT count(*) FROM traces WHERE id = ?", (str(trace_id),)))

    async def add(self, trace: Trace) -> None:
        """Store a trace with its rounds, completely or not at all; raise `sqlite3.IntegrityError` if the id exists."""
        async with self._db.transaction() as connection:
            await self.insert(connection, [trace])

    async def add_new(self, traces: Sequence[Trace]) -> list[bool]:
        """Store the traces whose id does not exist yet, in one transaction; return for each whether it was stored."""
        kept: list[bool] = []
        async with self._db.transaction() as connection:
            marks = ",".join("?" * len(traces))
            rows = await connection.execute_fetchall(
                f"SELECT id FROM traces WHERE id IN ({marks})", [str(trace.id) for trace in traces]
            )
            taken = {UUID(row["id"]) for row in rows}
            for trace in traces:
                kept.append(trace.id not in taken)
                taken.add(trace.id)
            await self.insert(connection, [trace for trace, new in zip(traces, kept, strict=True) if new])
        return kept

    async def rate(self, trace_id: UUID, rating: int, corrected_answer: str | None) -> bool:
        """Store a rating; return False if no trace has this id.

        Args:
            corrected_answer: None keeps an earlier correction; blank text removes it.
        """
        changes = "user_rating = ?"
        values: list[int | str | None] = [rating]
        if corrected_answer is not None:
            changes += ", corrected_answer = ?"
            values.append(corrected_answer if corrected_answer.strip() else None)
        return bool(await self._db.write(f"UPDATE traces SET {changes} WHERE id = ?", [*values, str(trace_id)]))

    async def withdraw(self, trace_id: UUID, reason: str) -> None:
        """Mark a trace as withdrawn now; a trace that is already withdrawn keeps its first reason."""
        await self._db.write(
            "UPDATE traces SET withdrawn_at = ?, withdrawn_reason = ? WHERE id = ? AND withdrawn_at IS NULL",
            (encode_time(utc_now()), reason, str(trace_id)),
        )

    async def stats(self, min_quality_score: float) -> TraceStats:
        """Return figures of the whole table."""
        clause, parameters = Where(TraceFilter(eligible=True), min_quality_score).sql()
        last_run, newest = await self._last_run()
        counts = await self._db.row(
            f"SELECT count(*) AS eligible, count(*) FILTER (WHERE {newest}) AS since FROM traces {clause}",
            [last_run, *parameters],
        )
        domains = await self._db.rows("SELECT domain, count(*) FROM traces GROUP BY domain")
        by_domain: dict[str, int] = {}
        for row in domains:
            by_domain[row[0] or "unknown"] = by_domain.get(row[0] or "unknown", 0) + row[1]
        return TraceStats(
            total=sum(by_domain.values()),
            eligible=counts["eligible"] if counts else 0,
            rated=await self._db.value("SELECT count(*) FROM traces WHERE user_rating IS NOT NULL"),
            withdrawn=await self._db.value("SELECT count(*) FROM traces WHERE withdrawn_at IS NOT NULL"),
            by_domain=dict(sorted(by_domain.items())),
            since_last_run=counts["since"] if counts else 0,
        )

    async def _last_run(self) -> tuple[Any, str]:
        """Return a position and the condition of the traces that were stored after the last successful run.

        The order in which rows were stored decides, not the times: a clock that was ahead would hide all new traces.
        """
        run = await self._db.row(
            "SELECT id, started_at FROM finetune_runs WHERE status = 'completed' ORDER BY rowid DESC LIMIT 1"
        )
        if run is None:
            return 0, "seq > ?"
        newest = await self._db.value(
            "SELECT max(traces.seq) FROM run_traces JOIN traces ON traces.id = run_traces.trace_id "
            "WHERE run_traces.run_id = ?",
            (run["id"],),
        )
        return (run["started_at"], "created_at > ?") if newest is None else (newest, "seq > ?")

    async def insert(self, connection: aiosqlite.Connection, traces: Iterable[Trace]) -> None:
        """Insert traces within an open transaction; raise `sqlite3.IntegrityError` if an id exists."""
        traces = list(traces)
        await connection.executemany(_INSERT_TRACE, [_trace_row(trace) for trace in traces])
        await connection.executemany(_INSERT_ROUND, [row for trace in traces for row in _round_rows(trace)])


_INSERT_TRACE = f"INSERT INTO traces ({COLUMNS.removeprefix('seq, ')}) VALUES ({','.join('?' * 16)})"
_INSERT_ROUND = (
    "INSERT INTO rounds (trace_id, number, proposal, critique, critique_text, proposer_ms, skeptic_ms) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def _trace_row(trace: Trace) -> tuple[Any, ...]:
    details = TraceDetails(**{name: getattr(trace, name) for name in TraceDetails.__struct_fields__})
    return (
        str(trace.id),
        encode_time(trace.created_at),
        trace.query,
        trace.final_answer,
        trace.domain,
        int(trace.early_stopped),
        trace.stop_reason,
        trace.auto_score,
        trace.judge,
        trace.user_rating,
        trace.corrected_answer,
        encode_time(trace.withdrawn_at) if trace.withdrawn_at else None,
        trace.withdrawn_reason,
        trace.adapter_id,
        trace.source,
        to_json(details).decode(),
    )


def _round_rows(trace: Trace) -> Iterable[tuple[Any, ...]]:
    for round_ in trace.rounds:
        critique = to_json(round_.critique).decode() if round_.critique is not None else None
        yield (
            str(trace.id),
            round_.number,
            round_.proposal,
            critique,
            round_.critique_text,
            round_.proposer_ms,
            round_.skeptic_ms,
        )


def _decoded(text: str, as_type: type[T], trace_id: str) -> T:
    try:
        return msgspec.json.decode(text, type=as_type)
    except msgspec.MsgspecError as error:
        raise UnprocessableError(
            f"The stored trace {trace_id} cannot be read ({error}). Restore tmde.db from a copy.", traceId=trace_id
        ) from None


def _trace(row: sqlite3.Row, rounds: Iterable[Round]) -> Trace:
    details = _decoded(row["details"], TraceDetails, row["id"])
    withdrawn = row["withdrawn_at"]
    return Trace(
        id=UUID(row["id"]),
        created_at=datetime.fromisoformat(row["created_at"]),
        query=row["query"],
        final_answer=row["final_answer"],
        domain=row["domain"],
        rounds=tuple(rounds),
        early_stopped=bool(row["early_stopped"]),
        stop_reason=row["stop_reason"],
        auto_score=row["auto_score"],
        judge=row["judge"],
        user_rating=row["user_rating"],
        corrected_answer=row["corrected_answer"],
        withdrawn_at=datetime.fromisoformat(withdrawn) if withdrawn else None,
        withdrawn_reason=row["withdrawn_reason"],
        adapter_id=row["adapter_id"],
        source=row["source"],
        **msgspec.structs.asdict(details),
    )


def _round(row: sqlite3.Row) -> Round:
    critique = row["critique"]
    return Round(
        number=row["number"],
        proposal=row["proposal"],
        critique=_decoded(critique, Critique, row["trace_id"]) if critique is not None else None,
        critique_text=row["critique_text"],
        proposer_ms=row["proposer_ms"],
        skeptic_ms=row["skeptic_ms"],
    )
