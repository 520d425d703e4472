"""Stores training runs in SQLite."""

# ruff: noqa: S608 - statements are put together from this module's own constants; values are always parameters
from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.errors import ConflictError
from tmde_core.records.base import Record, to_json, utc_now
from tmde_core.records.finetune import (
    TRAINING_ENDED,
    FineTuneConfig,
    FineTuneMetrics,
    FineTuneRun,
    RunAttempt,
    TrainingRunStatus,
)
from tmde_core.storage.database import Database
from tmde_core.storage.stamps import encode_time

Runs = list[FineTuneRun]
Attempts = tuple[RunAttempt, ...]

_LIVE = "status IN ('pending', 'running')"
_COLUMNS = (
    "id, started_at, completed_at, status, traces_used, train_examples, val_examples, base_model, config, metrics, "
    "lora_path, error_message, triggered_by, dataset_hash, attempts, queued, name"
)


class RunResult(Record):
    """How a run ended."""

    status: TrainingRunStatus
    error: str | None = None
    metrics: FineTuneMetrics | None = None
    lora_path: str | None = None
    base_model: str | None = None
    """The base model that the published adapter names; None: keep the requested base model."""


class RunStore:
    """Stores the rows of `finetune_runs` and `run_traces`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, run: FineTuneRun, train: list[str], val: list[str]) -> None:
        """Store a new run and its traces in one transaction.

        Raises:
            ConflictError: another run is in progress.
        """
        values = (
            str(run.id),
            encode_time(run.started_at),
            None,
            run.status,
            run.traces_used,
            run.train_examples,
            run.val_examples,
            run.base_model,
            to_json(run.config).decode(),
            None,
            None,
            None,
            run.triggered_by,
            run.dataset_hash,
            to_json(run.attempts).decode(),
            int(run.queued),
            run.name,
        )
        used = [(str(run.id), trace_id, "train") for trace_id in train]
        used += [(str(run.id), trace_id, "val") for trace_id in val]
        with _one_at_a_time():
            async with self._database.transaction() as connection:
                await connection.execute(
                    f"INSERT INTO finetune_runs ({_COLUMNS}) VALUES ({', '.join('?' * len(values))})", values
                )
                await connection.executemany("INSERT INTO run_traces (run_id, trace_id, split) VALUES (?, ?, ?)", used)

    async def get(self, run_id: UUID) -> FineTuneRun | None:
        """Return a run; None if it does not exist."""
        row = await self._database.row(f"SELECT {_COLUMNS} FROM finetune_runs WHERE id = ?", (str(run_id),))
        return _run(row) if row else None

    async def live(self) -> FineTuneRun | None:
        """Return the run in progress, of which there is at most one."""
        row = await self._database.row(f"SELECT {_COLUMNS} FROM finetune_runs WHERE {_LIVE}")
        return _run(row) if row else None

    async def page(self, limit: int, offset: int, status: TrainingRunStatus | None) -> tuple[Runs, int]:
        """Return a page of runs, newest first, and the total number of runs."""
        clause, values = ("WHERE status = ?", [status]) if status else ("", [])
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM finetune_runs {clause} ORDER BY started_at DESC, rowid DESC LIMIT ? OFFSET ?",
            [*values, limit, offset],
        )
        total = await self._database.value(f"SELECT count(*) FROM finetune_runs {clause}", values)
        return [_run(row) for row in rows], int(total)

    async def trace_ids(self, run_id: UUID) -> list[UUID]:
        """Return the ids of the traces that a run received."""
        rows = await self._database.rows("SELECT trace_id FROM run_traces WHERE run_id = ?", (str(run_id),))
        return [UUID(row[0]) for row in rows]

    async def given(self, trace_id: UUID) -> list[tuple[UUID, TrainingRunStatus]]:
        """Return the ids and states of the runs that received a trace, oldest first."""
        rows = await self._database.rows(
            "SELECT run.id, run.status FROM run_traces AS used JOIN finetune_runs AS run ON run.id = used.run_id "
            "WHERE used.trace_id = ? ORDER BY run.started_at, run.id",
            (str(trace_id),),
        )
        return [(UUID(row["id"]), row["status"]) for row in rows]

    async def names(self) -> dict[UUID, str]:
        """Return the names of all runs that have one."""
        rows = await self._database.rows("SELECT id, name FROM finetune_runs WHERE name <> ''")
        return {UUID(row["id"]): row["name"] for row in rows}

    async def nameless(self) -> list[tuple[UUID, datetime]]:
        """Return the runs without a name, which earlier versions stored, with the times when they started."""
        rows = await self._database.rows("SELECT id, started_at FROM finetune_runs WHERE name = '' ORDER BY started_at")
        return [(UUID(row["id"]), _moment(row["started_at"])) for row in rows]

    async def rename(self, run_id: UUID, name: str) -> bool:
        """Change the name of a run; return False if there is no such run."""
        return bool(await self._database.write("UPDATE finetune_runs SET name = ? WHERE id = ?", (name, str(run_id))))

    async def asked(self, trace_ids: Sequence[str]) -> list[tuple[str, str | None]]:
        """Return the questions of traces with their domains, without those deleted since."""
        found: list[tuple[str, str | None]] = []
        for start in range(0, len(trace_ids), 500):  # SQLite limits the number of parameters
            some = trace_ids[start : start + 500]
            marks = ",".join("?" * len(some))
            rows = await self._database.rows(
                f"SELECT query, domain FROM traces WHERE id IN ({marks}) ORDER BY seq", some
            )
            found += [(row["query"], row["domain"]) for row in rows]
        return found

    async def running(self, run_id: UUID) -> None:
        """Record that the worker has begun."""
        await self._database.write(
            "UPDATE finetune_runs SET status = 'running' WHERE id = ? AND status = 'pending'", (str(run_id),)
        )

    async def attempt(self, run: FineTuneRun, attempts: Attempts) -> bool:
        """Record that a process is about to work on the run; return False if `run` is outdated.

        Raises:
            ConflictError: another run is in progress.
        """
        return await self._revive(run, attempts, queued=False)

    async def enqueue(self, run: FineTuneRun) -> bool:
        """Queue an ended run for a `tmde worker`; return False if `run` is outdated.

        Raises:
            ConflictError: another run is in progress.
        """
        return await self._revive(run, run.attempts, queued=True)

    async def requeue(self, run: FineTuneRun, attempts: Attempts) -> bool:
        """Queue a run in progress again, whose last attempt was paused; return False if `run` is outdated."""
        return await self._revive(run, attempts, queued=True)

    async def newest_completed(self) -> UUID | None:
        """Return the id of the run that was completed last; None if there is none."""
        row = await self._database.row(
            "SELECT id FROM finetune_runs WHERE status = 'completed' ORDER BY completed_at DESC, rowid DESC LIMIT 1"
        )
        return UUID(row["id"]) if row else None

    async def _revive(self, run: FineTuneRun, attempts: Attempts, *, queued: bool) -> bool:
        status: TrainingRunStatus = "running" if run.status == "running" and not queued else "pending"
        with _one_at_a_time():
            changed = await self._database.write(
                "UPDATE finetune_runs SET status = ?, queued = ?, attempts = ?, completed_at = NULL, error_message = NULL, "
                "metrics = NULL WHERE id = ? AND queued = ? AND attempts = ? AND (status IN ('pending', 'running')) = ?",
                (
                    status,
                    int(queued),
                    to_json(attempts).decode(),
                    str(run.id),
                    int(run.queued),
                    to_json(run.attempts).decode(),
                    int(run.status not in TRAINING_ENDED),
                ),
            )
        return changed == 1

    async def finish(self, run: FineTuneRun, outcome: RunResult, attempts: Attempts) -> bool:
        """Record the end of the run; return False if `run` is outdated, because another process has changed it."""
        changed = await self._database.write(
            "UPDATE finetune_runs SET status = ?, completed_at = ?, error_message = ?, metrics = ?, lora_path = ?, "
            "attempts = ?, queued = 0, base_model = coalesce(?, base_model) "
            f"WHERE id = ? AND attempts = ? AND queued = ? AND {_LIVE}",
            (
                outcome.status,
                encode_time(utc_now()),
                outcome.error,
                to_json(outcome.metrics).decode() if outcome.metrics else None,
                outcome.lora_path,
                to_json(attempts).decode(),
                outcome.base_model,
                str(run.id),
                to_json(run.attempts).decode(),
                int(run.queued),
            ),
        )
        return changed == 1


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if "one_run_at_a_time" not in str(error):
            raise
        raise ConflictError("A training run is in progress. Wait for its end, or cancel it.") from None


def _run(row: sqlite3.Row) -> FineTuneRun:
    return FineTuneRun(
        id=UUID(row["id"]),
        started_at=_moment(row["started_at"]),
        completed_at=_moment(row["completed_at"]) if row["completed_at"] else None,
        status=row["status"],
        traces_used=row["traces_used"],
        train_examples=row["train_examples"],
        val_examples=row["val_examples"],
        lora_path=row["lora_path"],
        base_model=row["base_model"],
        config=_stored(row["config"], FineTuneConfig),
        metrics=_stored(row["metrics"], FineTuneMetrics) if row["metrics"] else None,
        error_message=row["error_message"],
        triggered_by=row["triggered_by"],
        dataset_hash=row["dataset_hash"],
        attempts=_stored(row["attempts"], Attempts),
        queued=bool(row["queued"]),
        name=row["name"],
    )


def _stored(text: str, as_type: Any) -> Any:
    return msgspec.json.decode(text, type=as_type)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
