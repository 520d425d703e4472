"""Holds the benchmark run of this process and the events that its listeners receive."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tmde_core.records.benchmark import BenchmarkResult, BenchmarkRun
from tmde_core.storage.events import MemoryLog
from tmde_core.storage.locks import FileLock


@dataclass
class ActiveRun:
    """The benchmark run of this process."""

    run: BenchmarkRun
    events: MemoryLog
    lock: FileLock
    done: int = 0
    answered: set[tuple[str, int]] = field(default_factory=set)
    """Question id and repeat of each answer."""
    score: float = 0.0
    scored: int = 0
    began: float = field(default_factory=time.monotonic)
    begun_with: int = 0
    task: asyncio.Task[None] | None = None
    closing: bool = False
    """True while the end of the run is being stored; nothing may cancel the task then."""

    def current(self) -> BenchmarkRun:
        """Return the run with its progress."""
        repeats = Counter(question_id for question_id, _ in self.answered)
        return msgspec.structs.replace(
            self.run,
            completed_answers=self.done,
            completed_questions=sum(found >= self.run.repeats for found in repeats.values()),
        )

    def cancel(self) -> None:
        """Cancel the task once; do nothing if the end of the run is already being stored."""
        if self.task is not None and not self.closing and not self.task.cancelling():
            self.task.cancel()


def count(live: ActiveRun, result: BenchmarkResult) -> None:
    """Add an answer's score to the running mean."""
    if result.quality_score is not None:
        live.score += result.quality_score
        live.scored += 1


def tell(live: ActiveRun, result: BenchmarkResult) -> None:
    """Append an event that reports an answer, the progress, and the estimated remaining time."""
    here = live.done - live.begun_with
    pace = (time.monotonic() - live.began) / here if here else None
    live.events.append(
        "progress",
        {
            "done": live.done,
            "total": live.run.answer_count,
            "questionId": result.question_id,
            "domain": result.domain,
            "score": result.quality_score,
            "meanScore": live.score / live.scored if live.scored else None,
            "etaSeconds": round(pace * (live.run.answer_count - live.done), 1) if pace is not None else None,
            "status": result.status,
        },
    )


def make_last_event(run: BenchmarkRun) -> tuple[str, dict[str, Any]]:
    """Return the type and the data of a run's last event."""
    if run.status == "completed":
        return "complete", {"runId": str(run.id), "metrics": msgspec.to_builtins(run.metrics)}
    if run.status == "cancelled":
        return "cancelled", {"runId": str(run.id)}
    return "error", {"runId": str(run.id), "status": run.status, "detail": run.error_message or "It was interrupted."}
