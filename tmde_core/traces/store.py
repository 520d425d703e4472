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
from typing import Any, Literal, NamedTuple, TypeVar, get_args
from uuid import UUID, uuid4

import aiosqlite
import msgspec

from tmde_core.errors import InvalidInputError, UnprocessableError
from tmde_core.records.base import Record, to_json, utc_now
from tmde_core.records.chat import FinishReason
from tmde_core.records.debate import Critique, Exchange, Round
from tmde_core.records.traces import Eligibility, RoleModel, Timings, TokenCounts, Trace, TraceFilter, TraceStats
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time
from tmde_core.storage.words import (
    CORRECTED_MARK,
    CUT_MARK,
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

GOOD_ENOUGH = f"({QUALITY} >= ? OR corrected)"
"""Whether the answer is good enough for training: its score is sufficient, or a person has corrected it."""
CUT = "finish_reason IN ('length', 'content_filter') AND user_rating IS NULL AND corrected_answer IS NULL"
"""A cut answer that no person has rated or corrected, written exactly as in its index."""

MIN_PREFIX = 3
"""The shortest prefix that the full-text index holds."""

HIGHEST_STEP = 10 * QUALITY_STEPS

PLACE = (
    "((coalesce(min(max(unixepoch(?) * 1000 + CAST(substr(?, 21, 3) AS INTEGER), 0), 8796093022207), 0) << 20) "
    "| (? & 1048575))"
)
"""The column `place` for a given `created_at`, twice, and `seq`. The trace itself may have been deleted."""

COLUMNS = (
    "seq, id, created_at, query, final_answer, domain, early_stopped, stop_reason, auto_score, judge, user_rating, "
    "corrected_answer, withdrawn_at, withdrawn_reason, adapter_id, source, finish_reason, details"
)

ROUND_COLUMNS = (
    "trace_id, number, proposal, critique, critique_text, proposer_ms, skeptic_ms, proposer_thought, skeptic_thought, "
    "proposer_finish_reason, skeptic_finish_reason"
)

PassedOver = Literal["low-score", "benchmark", "cut"]
Scored = tuple[UUID, float | None]
"""A trace's id and its quality score."""

_PASSED_OVER: Mapping[PassedOver, str] = {
    "low-score": f"source <> 'benchmark' AND NOT corrected AND coalesce({QUALITY}, -1) < ?",
    "benchmark": f"source = 'benchmark' AND {QUALITY} >= ?",
    # The score itself instead of QUALITY, because no person has rated such an answer: so its own index is used.
    "cut": f"source <> 'benchmark' AND auto_score >= ? AND {CUT}",
}

_FINISH_REASONS: Mapping[str | None, FinishReason] = {reason: reason for reason in get_args(FinishReason)}
"""A look-up instead of a conversion, which took half of the time of a page."""

_CURSOR = re.compile(r"(?P<created_at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<seq>\d{1,18})", re.ASCII)


class TraceDetails(Record):
    """The fields that are shown with a trace but never searched, stored in one JSON column."""

    models: dict[str, RoleModel] = msgspec.field(default_factory=dict)
    templates_used: tuple[str, ...] = ()
    timings: Timings = Timings()
    tokens: TokenCounts = TokenCounts()
    score_reasons: tuple[str, ...] = ()
    synthesizer_thought: str = ""
    follows: UUID | None = None
    earlier: tuple[Exchange, ...] = ()


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


class Arrival(NamedTuple):
    """A trace that an import brings."""

    trace: Trace
    named: bool
    """Whether the id comes from the file."""


class _Twin(NamedTuple):
    id: UUID
    created_at: str
    seq: int


class Where:
    """A filter as SQL: conditions and their parameters.

    A search also has each condition as tokens of the index, because looking up 100,000 matches in the table takes
    50 ms. Only a threshold between two of the index's steps of quality is looked up.
    """

    def __init__(self, wanted: TraceFilter, eligibility: Eligibility) -> None:
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
            whole = "" if eligibility.use_cut_answers else f" AND seq NOT IN (SELECT seq FROM traces WHERE {CUT})"
            eligible = f"({GOOD_ENOUGH} AND withdrawn_at IS NULL AND source <> 'benchmark'{whole})"
            # Within coalesce, so that counting walks the covering index instead of visiting each row of the quality index.
            self.add(f"coalesce({eligible}, 0) = {int(wanted.eligible)}", eligibility.min_quality)
            self._look_up_unless(_is_step(eligibility.min_quality))
            if wanted.eligible or self.exact:  # the traces of the step below may be ineligible too
                marks = [WITHDRAWN_MARK, source_mark("benchmark")]
                marks += [] if eligibility.use_cut_answers else [CUT_MARK]
                unfit = " OR ".join(f'"{mark}"' for mark in marks)
                good = f'{_quality_mark(eligibility.min_quality)} OR "{CORRECTED_MARK}"'
                self._find(f"(({good}) NOT ({unfit}))", wanted.eligible)
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
        self, wanted: TraceFilter, eligibility: Eligibility, limit: int, cursor: str | None
    ) -> tuple[list[Trace], int, str | None]:
        """Return one page, newest first, the number of matches on all pages, and the cursor of the next page."""
        where = Where(wanted, eligibility)
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

    async def eligible(self, eligibility: Eligibility) -> list[Trace]:
        """Return every trace that may be used for training, oldest first."""
        clause, parameters = Where(TraceFilter(eligible=True), eligibility).sql()
        return await self._traces(
            await self._db.rows(f"SELECT {COLUMNS} FROM traces {clause} ORDER BY created_at, seq", parameters)
        )

    async def withdrawn(self, min_quality_score: float) -> list[UUID]:
        """Return the ids of withdrawn traces that are otherwise good enough for training, oldest first."""
        rows = await self._db.rows(
            f"SELECT id FROM traces WHERE withdrawn_at IS NOT NULL AND {GOOD_ENOUGH} AND source <> 'benchmark' "
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
                f"SELECT {ROUND_COLUMNS} FROM rounds WHERE trace_id IN ({marks}) ORDER BY trace_id, number",
                ids,
            ):
                rounds.setdefault(row["trace_id"], []).append(_round(row))
        return [_trace(row, rounds.get(row["id"], ())) for row in rows]

    async def delete(self, trace_ids: Sequence[UUID]) -> UUID | None:
        """Delete all of these traces, or none if one does not exist. Return the first id that does not exist."""
        async with self._db.transaction() as connection:
            for trace_id in trace_ids:
                rows = list(await connection.execute_fetchall("SELECT 1 FROM traces WHERE id = ?", (str(trace_id),)))
                if not rows:
                    return trace_id
            await connection.executemany("DELETE FROM traces WHERE id = ?", [(str(one),) for one in trace_ids])
        return None

    async def has(self, trace_id: UUID) -> bool:
        """Return whether a trace with this id exists."""
        return bool(await self._db.value("SELECT count(*) FROM traces WHERE id = ?", (str(trace_id),)))

    async def add(self, trace: Trace) -> None:
        """Store a trace with its rounds, completely or not at all; raise `sqlite3.IntegrityError` if the id exists."""
        async with self._db.transaction() as connection:
            await self.insert(connection, [trace])

    async def last_seq(self) -> int:
        """Return the position of the trace that was stored last; 0 if there is none."""
        return int(await self._db.value("SELECT coalesce(max(seq), 0) FROM traces"))

    async def add_new(self, arrivals: Sequence[Arrival], began: int, *, copies: bool = False) -> list[UUID | None]:
        """Store traces in one transaction; return for each the stored trace that is the same, or None if it was stored.

        A trace with an id of its own is the same as the trace with this id, or as a trace with the same question, answer
        and time from before the import. A trace without an id is the same as one with the same question and answer.

        Args:
            began: The position of the last trace before the import (`last_seq`).
            copies: Store every trace. A copy gets a new id if its id is taken, and comes from an import.
        """
        twins: list[UUID | None] = []
        new: list[Trace] = []
        async with self._db.transaction() as connection:
            taken = await _taken_ids(connection, [arrival.trace for arrival in arrivals])
            alike = await _same_content(connection, [arrival.trace for arrival in arrivals])
            for trace, named in arrivals:
                known = alike.setdefault((trace.query, trace.final_answer), [])
                time = encode_time(trace.created_at)
                twin = trace.id if trace.id in taken else None
                if twin is None:
                    same = (one.id for one in known if not named or (one.created_at == time and one.seq <= began))
                    twin = next(same, None)
                kept = trace
                if twin is not None and copies:
                    free = trace.id if trace.id not in taken else uuid4()
                    kept = msgspec.structs.replace(trace, id=free, source="import")
                    twin = None
                twins.append(twin)
                if twin is None:
                    new.append(kept)
                    taken.add(kept.id)
                    known.append(_Twin(kept.id, time, began + 1))
            await self.insert(connection, new)
        return twins

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

    async def correct(self, trace_id: UUID, corrected_answer: str) -> bool:
        """Store a correction, or remove it if the text is blank; return False if no trace has this id."""
        text = corrected_answer if corrected_answer.strip() else None
        return bool(await self._db.write("UPDATE traces SET corrected_answer = ? WHERE id = ?", (text, str(trace_id))))

    async def withdraw(self, trace_id: UUID, reason: str) -> None:
        """Mark a trace as withdrawn now; a trace that is already withdrawn keeps its first reason."""
        await self._db.write(
            "UPDATE traces SET withdrawn_at = ?, withdrawn_reason = ? WHERE id = ? AND withdrawn_at IS NULL",
            (encode_time(utc_now()), reason, str(trace_id)),
        )

    async def stats(self, eligibility: Eligibility) -> TraceStats:
        """Return figures of the whole table."""
        clause, parameters = Where(TraceFilter(eligible=True), eligibility).sql()
        cut = 0 if eligibility.use_cut_answers else (await self.passed_over("cut", eligibility.min_quality, 0))[0]
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
            cut=cut,
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


def build_twins_sql(count: int) -> str:
    """Return the statement that finds the traces with one of `count` questions and answers, oldest first.

    The conditions on parts of the texts are written exactly as in the index; otherwise SQLite does not use the index.
    """
    return (
        f"WITH wanted (query, answer) AS (VALUES {','.join(['(?, ?)'] * count)}) "
        "SELECT DISTINCT t.seq, t.id, t.created_at, t.query, t.final_answer FROM wanted AS w CROSS JOIN traces AS t "
        "WHERE substr(t.query, 1, 64) = substr(w.query, 1, 64) AND length(t.query) = length(w.query) "
        "AND length(t.final_answer) = length(w.answer) AND t.query = w.query AND t.final_answer = w.answer ORDER BY t.seq"
    )


async def _taken_ids(connection: aiosqlite.Connection, traces: Sequence[Trace]) -> set[UUID]:
    marks = ",".join("?" * len(traces))
    ids = [str(trace.id) for trace in traces]
    return {
        UUID(row["id"])
        for row in await connection.execute_fetchall(f"SELECT id FROM traces WHERE id IN ({marks})", ids)
    }


async def _same_content(
    connection: aiosqlite.Connection, traces: Sequence[Trace]
) -> dict[tuple[str, str], list[_Twin]]:
    """Return the stored traces that have the question and answer of one of the traces."""
    wanted = list({(trace.query, trace.final_answer) for trace in traces})
    rows = await connection.execute_fetchall(
        build_twins_sql(len(wanted)), [text for content in wanted for text in content]
    )
    found: dict[tuple[str, str], list[_Twin]] = {}
    for row in rows:
        twin = _Twin(UUID(row["id"]), row["created_at"], row["seq"])
        found.setdefault((row["query"], row["final_answer"]), []).append(twin)
    return found


_INSERT_TRACE = f"INSERT INTO traces ({COLUMNS.removeprefix('seq, ')}) VALUES ({','.join('?' * 17)})"
_INSERT_ROUND = f"INSERT INTO rounds ({ROUND_COLUMNS}) VALUES ({','.join('?' * 11)})"


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
        trace.finish_reason,
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
            round_.proposer_thought,
            round_.skeptic_thought,
            round_.proposer_finish_reason,
            round_.skeptic_finish_reason,
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
        finish_reason=_FINISH_REASONS.get(row["finish_reason"]),
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
        proposer_thought=row["proposer_thought"],
        skeptic_thought=row["skeptic_thought"],
        proposer_finish_reason=_FINISH_REASONS.get(row["proposer_finish_reason"]),
        skeptic_finish_reason=_FINISH_REASONS.get(row["skeptic_finish_reason"]),
    )
