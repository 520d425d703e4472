"""Reads measured data: runs, their answers, and comparisons of runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from tmde_core.benchmark.results.export import ExportedRun
from tmde_core.benchmark.running.live import ActiveRun
from tmde_core.benchmark.running.measuring import Measuring
from tmde_core.benchmark.running.planning import comparable_hash
from tmde_core.benchmark.store import BenchmarkStore, RunFilter
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.lora.service import LoraService
from tmde_core.records.benchmark import (
    ActivationMark,
    BenchmarkMode,
    BenchmarkResult,
    BenchmarkRun,
    BenchmarkRunStatus,
    BenchmarkSummary,
    RunComparison,
    RunType,
)
from tmde_core.records.questions import Question

PAIRED = 50
"""How many runs of each adapter are searched for a pair that can be compared."""

Runs = list[BenchmarkRun]
"""An alias of a `list` type, because the class below has a method called `list` that would hide the type."""


class BenchmarkReading:
    """The part of `BenchmarkService` that only reads."""

    def __init__(self, store: BenchmarkStore, measuring: Measuring, lora: LoraService) -> None:
        self._store = store
        self._measuring = measuring
        self._lora = lora
        self._live: ActiveRun | None = None

    def get_running(self) -> BenchmarkRun | None:
        """Return the benchmark run of this process, or None if this process runs none."""
        live = self._live
        return live.current() if live else None

    async def get(self, run_id: UUID) -> BenchmarkRun:
        """Return one run in its current state.

        Raises:
            NotFoundError: No run has this id.
        """
        run = await self._store.get(run_id)
        if run is None:
            raise NotFoundError(f"There is no benchmark run with the id {run_id}.")
        return await self._counted(run)

    async def _counted(self, run: BenchmarkRun) -> BenchmarkRun:
        if run.status == "completed":
            return run
        live = self._live
        if live is not None and live.run.id == run.id:
            now = live.current()
            answers, questions = now.completed_answers, now.completed_questions
        else:
            answers, questions = await self._store.count_answers(run.id, run.repeats)
        return msgspec.structs.replace(
            run,
            completed_answers=min(answers, run.answer_count),
            completed_questions=min(questions, run.question_count),
        )

    async def list(
        self,
        limit: int = 50,
        offset: int = 0,
        start: datetime | None = None,
        end: datetime | None = None,
        adapter_id: UUID | None = None,
        type: RunType | None = None,  # noqa: A002 - the field's name
        status: BenchmarkRunStatus | None = None,
        mode: BenchmarkMode | None = None,
    ) -> tuple[Runs, int]:
        """Return a page of runs, newest first, and the total number of matching runs.

        Raises:
            InvalidInputError: The start date lies after the end date.
        """
        wanted = _wanted(start, end, adapter_id, type, status, mode)
        runs, total = await self._store.page(wanted, limit, offset)
        return [await self._counted(run) for run in runs], total

    async def results(self, run_id: UUID, limit: int = 200, offset: int = 0) -> tuple[Sequence[BenchmarkResult], int]:
        """Return a page of a run's answers, ordered by question, and the total number of its answers.

        Raises:
            NotFoundError: The run does not exist.
        """
        await self.get(run_id)
        found = await self._store.results(run_id)
        return found[offset : offset + limit], len(found)

    async def list_asked_questions(self, run_id: UUID) -> Sequence[Question]:
        """Return the questions of a run, as they were when the run asked them.

        Raises:
            NotFoundError: The run does not exist.
        """
        await self.get(run_id)
        return await self._store.questions(run_id)

    async def result(self, run_id: UUID, question_id: str) -> tuple[BenchmarkResult, ...]:
        """Return every answer to one question of a run.

        Raises:
            NotFoundError: The run does not exist, or has no answer to this question.
        """
        await self.get(run_id)
        found = tuple(await self._store.results(run_id, question_id))
        if not found:
            raise NotFoundError(f"The benchmark {run_id} has no answer to a question called {question_id[:60]!r}.")
        return found

    async def trace(self, run_id: UUID, question_id: str, repeat: int = 0) -> dict[str, Any] | None:
        """Return the debate behind an answer as a trace in wire form, or None in proposer mode."""
        return await self._store.trace(run_id, question_id, repeat)

    async def summarise(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        adapter_id: UUID | None = None,
        mode: BenchmarkMode | None = None,
        type: RunType | None = None,  # noqa: A002 - the field's name
    ) -> BenchmarkSummary:
        """Return the dashboard's data; the cost does not grow with the number of answers.

        Raises:
            InvalidInputError: The start date lies after the end date.
        """
        wanted = _wanted(start, end, adapter_id, type, None, mode)
        series = await self._store.series(wanted)
        active = self._lora.get_answering_ref()
        answering = UUID(active.id) if active else None
        if not series:
            return BenchmarkSummary(total=0, answering=answering)
        spoken_of = answering if adapter_id is None else adapter_id
        newest = next((point for point in reversed(series) if point.adapter_id == spoken_of), series[-1])
        current = await self.get(newest.run_id)
        previous = await self._store.get(current.previous_run_id) if current.previous_run_id else None
        baseline = await self._store.get(current.baseline_run_id) if current.baseline_run_id else None
        return BenchmarkSummary(
            total=len(series),
            series=tuple(series),
            activations=await self._activations(series[0].at),
            answering=answering,
            current=current,
            previous=previous,
            baseline=baseline,
            vs_previous=await self._store.comparison(previous.id, current.id) if previous else None,
            vs_baseline=await self._store.comparison(baseline.id, current.id) if baseline else None,
        )

    async def _activations(self, first: datetime) -> tuple[ActivationMark, ...]:
        events = await self._lora.list_events(limit=200)
        names = {one.id: one.name for one in await self._lora.list()}
        return tuple(
            ActivationMark(
                at=event.timestamp,
                adapter_id=event.adapter_id,
                adapter_name=names.get(event.adapter_id, "") if event.adapter_id else "",
            )
            for event in reversed(events)
            if event.success and event.operation in ("activate", "rollback", "deactivate")
            if first <= event.timestamp
        )

    async def compare(self, a: UUID, b: UUID) -> RunComparison:
        """Compare run B with run A.

        Raises:
            NotFoundError: One of the runs does not exist.
            ConflictError: One of the runs is not completed.
        """
        runs = [await self.get(a), await self.get(b)]
        for run in runs:
            if run.status != "completed":
                raise ConflictError(
                    f"The benchmark {run.id} is {run.status}; only completed ones can be compared.", status=run.status
                )
        return await self._measuring.compare(*runs)

    async def compare_adapters(self, a: UUID, b: UUID) -> RunComparison | None:
        """Compare the newest matching completed runs of adapter B and adapter A.

        Two runs match if they asked the same questions in the same way.

        Returns:
            B's newest run compared with A's newest matching run, or None if there is no such pair.
        """
        runs_a, runs_b = [
            (await self._store.page(RunFilter(adapter_id=one, status="completed"), PAIRED, 0))[0] for one in (a, b)
        ]
        of_a: dict[str, BenchmarkRun] = {}
        for run in runs_a:
            of_a.setdefault(comparable_hash(run), run)
        for run in runs_b:
            if (other := of_a.get(comparable_hash(run))) is not None:
                return await self._measuring.compare(other, run)
        return None

    async def export_runs(self, start: datetime | None = None, end: datetime | None = None) -> Sequence[ExportedRun]:
        """Return every run of a period with its answers, oldest first.

        Raises:
            InvalidInputError: The start date lies after the end date.
        """
        runs, _ = await self.list(100_000, 0, start, end)
        return [ExportedRun(run=run, results=tuple(await self._store.results(run.id))) for run in reversed(runs)]


def _wanted(
    start: datetime | None,
    end: datetime | None,
    adapter_id: UUID | None,
    type_: RunType | None,
    status: BenchmarkRunStatus | None,
    mode: BenchmarkMode | None,
) -> RunFilter:
    if start is not None and end is not None and start > end:
        raise InvalidInputError("from: lies after `to`. Exchange the two dates.", field="from")
    return RunFilter(start=start, end=end, adapter_id=adapter_id, type=type_, status=status, mode=mode)
