"""Stores benchmark runs and their answers in SQLite, apart from the traces that training reads."""

# ruff: noqa: S608 - statements are put together from this module's own constants; values are always parameters
from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.errors import ConflictError
from tmde_core.records.base import Record, to_json, utc_now
from tmde_core.records.benchmark import (
    BenchmarkMode,
    BenchmarkResult,
    BenchmarkRun,
    BenchmarkRunStatus,
    GateDecision,
    RunComparison,
    RunType,
    SeriesPoint,
)
from tmde_core.records.lora import AdapterBenchmark
from tmde_core.records.questions import Question
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time

Runs = list[BenchmarkRun]

LIVE = "status IN ('pending', 'running')"


class RunFilter(Record):
    """Selects runs."""

    start: datetime | None = None
    end: datetime | None = None
    adapter_id: UUID | None = None
    type: RunType | None = None
    status: BenchmarkRunStatus | None = None
    mode: BenchmarkMode | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return the filter as an SQL WHERE clause with its parameters."""
        wanted = {
            "started_at >= ?": encode_time(self.start) if self.start else None,
            "started_at <= ?": encode_time(self.end) if self.end else None,
            "adapter_id = ?": str(self.adapter_id) if self.adapter_id else None,
            "type = ?": self.type,
            "status = ?": self.status,
            "mode = ?": self.mode,
        }
        clauses = [clause for clause, value in wanted.items() if value is not None]
        return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), [v for v in wanted.values() if v is not None]


class BenchmarkStore:
    """Reads and writes the `benchmark_*` tables and the gate's decisions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # ---------------------------------------------------------------------------------------- runs

    async def insert(self, run: BenchmarkRun, questions: Sequence[Question], comparable: str) -> None:
        """Insert a new run with its questions.

        Raises:
            ConflictError: Another run is in progress.
        """
        try:
            await self._db.write(
                "INSERT INTO benchmark_runs (id, type, mode, suite, status, started_at, adapter_id, suite_sha256, comparable, "
                "record, questions) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    str(run.id),
                    run.type,
                    run.mode,
                    run.suite,
                    run.status,
                    encode_time(run.started_at),
                    str(run.adapter_id) if run.adapter_id else None,
                    run.suite_sha256,
                    comparable,
                    to_json(run).decode(),
                    to_json(list(questions)).decode(),
                ),
            )
        except sqlite3.IntegrityError as error:
            if "one_benchmark_at_a_time" not in str(error):
                raise
            raise ConflictError("A benchmark is running. Wait for its end, or cancel it.") from None

    async def update(self, run: BenchmarkRun) -> None:
        """Update the stored run.

        Raises:
            ConflictError: Another run is in progress.
        """
        quality = run.metrics.intervals.quality if run.metrics else None
        try:
            await self._db.write(
                "UPDATE benchmark_runs SET status = ?, completed_at = ?, tmde_score = ?, quality = ?, quality_low = ?, "
                "quality_high = ?, record = ? WHERE id = ?",
                (
                    run.status,
                    encode_time(run.completed_at) if run.completed_at else None,
                    run.metrics.tmde_score if run.metrics else None,
                    quality.mean if quality else None,
                    quality.low if quality else None,
                    quality.high if quality else None,
                    to_json(run).decode(),
                    str(run.id),
                ),
            )
        except sqlite3.IntegrityError:
            raise ConflictError("A benchmark is running. Wait for its end, or cancel it.") from None

    async def get(self, run_id: UUID) -> BenchmarkRun | None:
        """Return the run, or None if no run has this id."""
        row = await self._db.row("SELECT record FROM benchmark_runs WHERE id = ?", (str(run_id),))
        return _run(row) if row else None

    async def questions(self, run_id: UUID) -> list[Question]:
        """Return the questions of a run, as they were when the run asked them."""
        text = await self._db.value("SELECT questions FROM benchmark_runs WHERE id = ?", (str(run_id),))
        return msgspec.json.decode(text, type=list[Question]) if text else []

    async def page(self, wanted: RunFilter, limit: int, offset: int) -> tuple[Runs, int]:
        """Return a page of runs, newest first, and the total number of matching runs."""
        clause, values = wanted.where()
        rows = await self._db.rows(
            f"SELECT record FROM benchmark_runs {clause} ORDER BY started_at DESC, rowid DESC LIMIT ? OFFSET ?",
            [*values, limit, offset],
        )
        total = await self._db.value(f"SELECT count(*) FROM benchmark_runs {clause}", values)
        return [_run(row) for row in rows], int(total)

    async def unfinished(self) -> Runs:
        """Return the runs that are marked as pending or running; their process may have died."""
        return [_run(row) for row in await self._db.rows(f"SELECT record FROM benchmark_runs WHERE {LIVE}")]

    async def interrupted(self) -> Runs:
        """Return the interrupted runs, oldest first."""
        rows = await self._db.rows("SELECT record FROM benchmark_runs WHERE status = 'interrupted' ORDER BY started_at")
        return [_run(row) for row in rows]

    async def latest(
        self,
        comparable: str,
        *,
        adapter_id: UUID | None = None,
        any_adapter: bool = False,
        before: datetime | None = None,
        without: UUID | None = None,
    ) -> BenchmarkRun | None:
        """Return the newest completed run with this comparable hash, or None.

        Args:
            comparable: The hash of what both runs must share.
            adapter_id: The adapter of the run; None for a run of the base model.
            any_adapter: Ignore `adapter_id` and accept a run of any adapter or of the base model.
            before: Accept only runs that started before this time.
            without: Exclude the run with this id.
        """
        clauses, values = ["comparable = ?", "status = 'completed'"], [comparable]
        if not any_adapter:
            clauses.append("adapter_id IS ?")
            values.append(str(adapter_id) if adapter_id else None)  # type: ignore[arg-type]
        if before is not None:
            clauses.append("started_at < ?")
            values.append(encode_time(before))
        if without is not None:
            clauses.append("id <> ?")
            values.append(str(without))
        row = await self._db.row(
            f"SELECT record FROM benchmark_runs WHERE {' AND '.join(clauses)} ORDER BY started_at DESC LIMIT 1", values
        )
        return _run(row) if row else None

    async def comparable(self, run_id: UUID) -> str:
        """Return the hash of what another run must share with this run."""
        return str(await self._db.value("SELECT comparable FROM benchmark_runs WHERE id = ?", (str(run_id),)))

    async def series(self, wanted: RunFilter) -> list[SeriesPoint]:
        """Return every completed run as a point, oldest first; decode no JSON."""
        clause, values = msgspec.structs.replace(wanted, status="completed").where()
        rows = await self._db.rows(
            "SELECT id, started_at, type, mode, adapter_id, tmde_score, quality, quality_low, quality_high "
            f"FROM benchmark_runs {clause} ORDER BY started_at",
            values,
        )
        return [
            SeriesPoint(
                run_id=UUID(row[0]),
                at=datetime.fromisoformat(row[1]),
                type=row[2],
                mode=row[3],
                adapter_id=UUID(row[4]) if row[4] else None,
                tmde_score=row[5],
                quality=row[6],
                low=row[7],
                high=row[8],
            )
            for row in rows
        ]

    async def scores(self) -> dict[UUID, AdapterBenchmark]:
        """Return for each measured adapter its run in progress, or else its newest completed run."""
        newest = await self._db.rows(
            "SELECT run.id, run.adapter_id, run.status, run.type, run.mode, run.tmde_score, "
            "run.record ->> '$.metrics.vsBaseline' AS vs_baseline, run.record ->> '$.questionCount' AS questions, "
            "run.record ->> '$.repeats' AS repeats FROM "
            "(SELECT id, max(started_at) FROM benchmark_runs WHERE adapter_id IS NOT NULL AND status = 'completed' "
            "GROUP BY adapter_id UNION ALL "
            f"SELECT id, started_at FROM benchmark_runs WHERE adapter_id IS NOT NULL AND {LIVE}) AS last "
            "JOIN benchmark_runs AS run ON run.id = last.id"
        )
        found: dict[UUID, AdapterBenchmark] = {}
        for row in newest:  # a run in progress comes last, and replaces the completed one
            over = row["status"] == "completed"
            answered = row["questions"] if over else (await self.count_answers(UUID(row["id"]), row["repeats"]))[1]
            found[UUID(row["adapter_id"])] = AdapterBenchmark(
                run_id=UUID(row["id"]),
                status="completed" if over else "running",
                type=row["type"],
                mode=row["mode"],
                tmde_score=row["tmde_score"] if over else None,
                vs_baseline=row["vs_baseline"] if over else None,
                completed_questions=answered,
                question_count=row["questions"],
            )
        return found

    async def delete(self, run_id: UUID) -> None:
        """Delete a run with its answers."""
        await self._db.write("DELETE FROM benchmark_runs WHERE id = ?", (str(run_id),))

    # ------------------------------------------------------------------------------------- answers

    async def add_result(self, result: BenchmarkResult, trace: bytes | None) -> None:
        """Store an answer; replace an earlier answer to the same question and repeat, such as a failed one."""
        await self._db.write(
            "INSERT OR REPLACE INTO benchmark_results (run_id, question_id, repeat, record, trace) VALUES (?, ?, ?, ?, ?)",
            (
                str(result.run_id),
                result.question_id,
                result.repeat,
                to_json(result).decode(),
                trace.decode() if trace else None,
            ),
        )

    async def results(self, run_id: UUID, question_id: str | None = None) -> list[BenchmarkResult]:
        """Return the answers of a run, ordered by question and repeat."""
        clause, values = ("AND question_id = ?", [question_id]) if question_id is not None else ("", [])
        rows = await self._db.rows(
            f"SELECT record FROM benchmark_results WHERE run_id = ? {clause} ORDER BY question_id, repeat",
            [str(run_id), *values],
        )
        return [msgspec.json.decode(row[0], type=BenchmarkResult) for row in rows]

    async def count_answers(self, run_id: UUID, repeats: int) -> tuple[int, int]:
        """Return the number of answers of a run, and the number of questions that have `repeats` answers."""
        row = await self._db.row(
            "SELECT coalesce(sum(answers), 0) AS answers, coalesce(sum(answers >= ?), 0) AS questions FROM "
            "(SELECT count(*) AS answers FROM benchmark_results WHERE run_id = ? GROUP BY question_id)",
            (repeats, str(run_id)),
        )
        return (int(row["answers"]), int(row["questions"])) if row else (0, 0)

    async def trace(self, run_id: UUID, question_id: str, repeat: int) -> dict[str, Any] | None:
        """Return the debate behind an answer as plain data, or None if there is no debate."""
        text = await self._db.value(
            "SELECT trace FROM benchmark_results WHERE run_id = ? AND question_id = ? AND repeat = ?",
            (str(run_id), question_id, repeat),
        )
        return msgspec.json.decode(text) if text else None

    # --------------------------------------------------------------------------------- comparisons

    async def comparison(self, a: UUID, b: UUID) -> RunComparison | None:
        """Return a stored comparison without its questions, or None."""
        text = await self._db.value("SELECT record FROM benchmark_comparisons WHERE a = ? AND b = ?", (str(a), str(b)))
        return msgspec.json.decode(text, type=RunComparison) if text else None

    async def keep_comparison(self, found: RunComparison) -> None:
        """Store a comparison of two ended runs; such a comparison never changes."""
        slim = msgspec.structs.replace(found, questions=())
        await self._db.write(
            "INSERT OR REPLACE INTO benchmark_comparisons (a, b, record) VALUES (?, ?, ?)",
            (str(found.a.id), str(found.b.id), to_json(slim).decode()),
        )

    # --------------------------------------------------------------------------- judge's constancy

    async def anchors(self, judge: str) -> dict[str, float]:
        """Return the scores that the judge gave the frozen answers when it was first asked."""
        rows = await self._db.rows("SELECT anchor, score FROM judge_anchors WHERE judge = ?", (judge,))
        return {row[0]: row[1] for row in rows}

    async def keep_anchors(self, judge: str, scores: dict[str, float]) -> None:
        """Store a judge's first scores; keep scores that are already stored."""
        async with self._db.transaction() as connection:
            await connection.executemany(
                "INSERT OR IGNORE INTO judge_anchors (judge, anchor, score) VALUES (?, ?, ?)",
                [(judge, anchor, score) for anchor, score in scores.items()],
            )

    # ---------------------------------------------------------------------------------------- gate

    async def add_decision(self, decision: GateDecision) -> None:
        """Store a decision of the gate."""
        await self._db.write(
            "INSERT INTO gate_decisions (adapter_id, at, record) VALUES (?, ?, ?)",
            (str(decision.adapter_id), encode_time(utc_now()), to_json(decision).decode()),
        )

    async def decisions(self, limit: int, adapter_id: UUID | None = None) -> list[GateDecision]:
        """Return the gate's decisions, newest first."""
        clause, values = ("WHERE adapter_id = ?", [str(adapter_id)]) if adapter_id else ("", [])
        rows = await self._db.rows(
            f"SELECT record FROM gate_decisions {clause} ORDER BY id DESC LIMIT ?", [*values, limit]
        )
        return [msgspec.json.decode(row[0], type=GateDecision) for row in rows]


def _run(row: sqlite3.Row) -> BenchmarkRun:
    return msgspec.json.decode(row["record"], type=BenchmarkRun)
