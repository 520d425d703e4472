"""Benchmark runs: started, watched, cancelled, resumed, compared."""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any
from uuid import UUID

import msgspec
import structlog

from tmde_core.benchmark.calibration import CalibrationReport, Rated, report
from tmde_core.benchmark.export import ExportedRun
from tmde_core.benchmark.imports import QuestionImport, read_entries, summed
from tmde_core.benchmark.measuring import Measuring
from tmde_core.benchmark.planning import Planner, comparable_hash
from tmde_core.benchmark.questionbank import QuestionBank
from tmde_core.benchmark.records import (
    ENDED,
    ActivationMark,
    BenchmarkPlan,
    BenchmarkQuestion,
    BenchmarkResult,
    BenchmarkRun,
    Mode,
    RunComparison,
    RunStatus,
    RunType,
    Summary,
    Trigger,
)
from tmde_core.benchmark.runner import PARALLEL, JudgeSource, Runner, unanswered
from tmde_core.benchmark.scoring import Score, Scorer
from tmde_core.benchmark.store import BenchmarkStore, RunFilter
from tmde_core.debate.judging import WITHOUT_REFERENCE
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError, TmdeError
from tmde_core.lora.service import LoraService
from tmde_core.plugins import Plugins
from tmde_core.ports import AdapterRef, JudgeItem, Question
from tmde_core.record import utc_now
from tmde_core.runtimes import Runtimes
from tmde_core.settings import Settings
from tmde_core.storage.database import Database
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.events import MemoryLog
from tmde_core.templates.store import TemplateStore

log = structlog.get_logger(__name__)

LOCK_FILE = "benchmark.lock"
"""Held with `flock` by the process that runs a benchmark: one at a time, and a row without it is a dead one."""

LOGS_KEPT = 20
PAIRED = 50
"""Runs of each adapter that are looked through for a pair that can be compared."""

Runs = list[BenchmarkRun]
Questions = list[BenchmarkQuestion]


@dataclass
class _Live:
    """The run of this process."""

    run: BenchmarkRun
    events: MemoryLog
    lock: IO[str]
    done: int = 0
    score: float = 0.0
    scored: int = 0
    began: float = field(default_factory=time.monotonic)
    begun_with: int = 0
    task: asyncio.Task[None] | None = None


class BenchmarkService:
    """The benchmark runs of one data directory."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        plugins: Plugins,
        runtimes: Runtimes,
        templates: TemplateStore,
        lora: LoraService,
    ) -> None:
        self.store = BenchmarkStore(database)
        self.bank = QuestionBank(database, plugins)
        self._settings = settings
        self._plugins = plugins
        self._runtimes = runtimes
        self._templates = templates
        self._lora = lora
        self.parallel = PARALLEL
        """Questions asked at once."""
        self._planner = Planner(settings, plugins, runtimes, lora, self.bank)
        self._measuring = Measuring(self.store, self.bank, settings)
        self._live: _Live | None = None
        self._starting = asyncio.Lock()
        self._ended: OrderedDict[UUID, MemoryLog] = OrderedDict()

    # ---------------------------------------------------------------------------------- starting

    async def start(self, plan: BenchmarkPlan, triggered_by: Trigger = "user") -> BenchmarkRun:
        """Begin a run and return at once.

        Raises:
            ConflictError: a benchmark is running, or the adapter belongs to another base model.
            NotFoundError: no such suite, question or adapter.
            InvalidInputError: a custom run without questions, or questions with another type.
            AdapterInvalidError: the adapter's files are damaged.
            PluginUnavailableError: no such judge or runtime.
        """
        async with self._starting:
            lock = self._locked()
            try:
                run, questions, adapter = await self._planner.run_of(plan, triggered_by)
                await self.store.insert(run, questions, comparable_hash(run))
                return await self._begin(run, questions, adapter, lock, ())
            except BaseException:
                if self._live is None or self._live.lock is not lock:
                    lock.close()
                raise

    async def resume(self, run_id: UUID) -> BenchmarkRun:
        """Go on with a run that was cut off, cancelled or failed: only the questions without an answer are asked.

        Raises:
            NotFoundError: no such run.
            ConflictError: it is completed, or a benchmark is running.
        """
        async with self._starting:
            run = await self.get(run_id)
            if run.status in ("completed", "running", "pending"):
                raise ConflictError(f"The benchmark {run_id} cannot be resumed: it is {run.status}.", status=run.status)
            lock = self._locked()
            try:
                questions = await self.store.questions(run_id)
                adapter = await self._planner.resumed(run)
                run = msgspec.structs.replace(run, status="running", completed_at=None, error_message=None)
                await self.store.update(run)
                return await self._begin(run, questions, adapter, lock, await self.store.results(run_id))
            except BaseException:
                if self._live is None or self._live.lock is not lock:
                    lock.close()
                raise

    async def _begin(
        self,
        run: BenchmarkRun,
        questions: Sequence[Question],
        adapter: AdapterRef | None,
        lock: IO[str],
        earlier: Sequence[BenchmarkResult],
    ) -> BenchmarkRun:
        slots = unanswered(questions, run.repeats, earlier)
        done = run.questions_total - len(slots)
        live = self._live = _Live(run, MemoryLog(), lock, done=done, begun_with=done)
        for result in earlier:
            _count(live, result)

        async def keep(result: BenchmarkResult, trace: bytes | None) -> None:
            await self.store.add_result(result, trace)
            live.done += 1
            _count(live, result)
            _tell(live, result)

        runner = Runner(
            run, self._settings, self._plugins, self._runtimes, self._templates, adapter, keep, self.parallel
        )
        self._ended.pop(run.id, None)
        live.events.append("start", {"runId": str(run.id), "total": run.questions_total, "done": done})

        async def go() -> None:
            await runner.ask_all(slots)
            await self._measuring.measured(run, runner)

        live.task = asyncio.create_task(self._see_to_the_end(live, go()), name=f"benchmark {run.id}")
        await asyncio.sleep(0)
        return msgspec.structs.replace(run, questions_done=done)

    async def reusable(self, plan: BenchmarkPlan, adapter_id: UUID | None) -> BenchmarkRun | None:
        """The newest completed run that asked what this plan would, in the same way, of the same weights."""
        run, _, _ = await self._planner.run_of(plan, "gate")
        found = await self.store.latest(comparable_hash(run), adapter_id=adapter_id)
        return found if found is not None and found.adapter_sha256 == run.adapter_sha256 else None

    # ----------------------------------------------------------------------------------- reading

    async def get(self, run_id: UUID) -> BenchmarkRun:
        """One run, as it stands.

        Raises:
            NotFoundError: there is none with that id.
        """
        run = await self.store.get(run_id)
        if run is None:
            raise NotFoundError(f"There is no benchmark run with the id {run_id}.")
        return await self._counted(run)

    async def _counted(self, run: BenchmarkRun) -> BenchmarkRun:
        if run.status == "completed":
            return run
        live = self._live
        done = live.done if live is not None and live.run.id == run.id else len(await self.store.results(run.id))
        return msgspec.structs.replace(run, questions_done=min(done, run.questions_total))

    async def list(
        self,
        limit: int = 50,
        offset: int = 0,
        start: datetime | None = None,
        end: datetime | None = None,
        adapter_id: UUID | None = None,
        type: RunType | None = None,  # noqa: A002 - the field's name
        status: RunStatus | None = None,
        mode: Mode | None = None,
    ) -> tuple[Runs, int]:
        """Runs, newest first, and how many there are in all.

        Raises:
            InvalidInputError: the dates are the wrong way round.
        """
        wanted = _wanted(start, end, adapter_id, type, status, mode)
        runs, total = await self.store.page(wanted, limit, offset)
        return [await self._counted(run) for run in runs], total

    async def results(self, run_id: UUID, limit: int = 200, offset: int = 0) -> tuple[Sequence[BenchmarkResult], int]:
        """The answers of a run, by question.

        Raises:
            NotFoundError: no such run.
        """
        await self.get(run_id)
        found = await self.store.results(run_id)
        return found[offset : offset + limit], len(found)

    async def asked(self, run_id: UUID) -> Sequence[Question]:
        """The questions of a run, as they were when it asked them.

        Raises:
            NotFoundError: no such run.
        """
        await self.get(run_id)
        return await self.store.questions(run_id)

    async def result(self, run_id: UUID, question_id: str) -> tuple[BenchmarkResult, ...]:
        """Every answer to one question of a run.

        Raises:
            NotFoundError: no such run, or it has no answer to that question.
        """
        await self.get(run_id)
        found = tuple(await self.store.results(run_id, question_id))
        if not found:
            raise NotFoundError(f"The benchmark {run_id} has no answer to a question called {question_id[:60]!r}.")
        return found

    async def trace(self, run_id: UUID, question_id: str, repeat: int = 0) -> dict[str, Any] | None:
        """The debate behind an answer, as a trace on the wire; None in proposer mode."""
        return await self.store.trace(run_id, question_id, repeat)

    async def events(self, run_id: UUID) -> MemoryLog:
        """`start`, `progress {done, total, questionId, domain, score, meanScore, etaSeconds, status}` for each answer, then
        `complete`, `error` or `cancelled`. Of a run that ended long ago only the last is left.

        Raises:
            NotFoundError: no such run.
            ConflictError: it runs in another process, whose events cannot be seen from here.
        """
        if self._live is not None and self._live.run.id == run_id:
            return self._live.events
        if run_id in self._ended:
            return self._ended[run_id]
        run = await self.get(run_id)
        if run.status in ("pending", "running"):
            raise ConflictError("This benchmark runs in another TMDE process, so it cannot be watched from here.")
        events = MemoryLog()
        events.append(*_ending(run))
        return events

    def running(self) -> BenchmarkRun | None:
        """The run of this process."""
        live = self._live
        return msgspec.structs.replace(live.run, questions_done=live.done) if live else None

    async def summary(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        adapter_id: UUID | None = None,
        mode: Mode | None = None,
        type: RunType | None = None,  # noqa: A002 - the field's name
    ) -> Summary:
        """The dashboard's data; reads nothing that grows with the answers.

        Raises:
            InvalidInputError: the dates are the wrong way round.
        """
        wanted = _wanted(start, end, adapter_id, type, None, mode)
        series = await self.store.series(wanted)
        if not series:
            return Summary(total=0)
        current = await self.get(series[-1].run_id)
        previous = await self.store.get(current.previous_run_id) if current.previous_run_id else None
        baseline = await self.store.get(current.baseline_run_id) if current.baseline_run_id else None
        return Summary(
            total=len(series),
            series=tuple(series),
            activations=await self._activations(series[0].at),
            current=current,
            previous=previous,
            baseline=baseline,
            vs_previous=await self.store.comparison(previous.id, current.id) if previous else None,
            vs_baseline=await self.store.comparison(baseline.id, current.id) if baseline else None,
        )

    async def _activations(self, first: datetime) -> tuple[ActivationMark, ...]:
        events = await self._lora.events(limit=200)
        return tuple(
            ActivationMark(at=event.timestamp, adapter_id=event.adapter_id)
            for event in reversed(events)
            if event.success and event.operation in ("activate", "rollback", "deactivate")
            if first <= event.timestamp
        )

    async def compare(self, a: UUID, b: UUID) -> RunComparison:
        """B against A.

        Raises:
            NotFoundError: no such run.
            ConflictError: one of them has not been completed.
        """
        runs = [await self.get(a), await self.get(b)]
        for run in runs:
            if run.status != "completed":
                raise ConflictError(
                    f"The benchmark {run.id} is {run.status}; only completed ones can be compared.", status=run.status
                )
        return await self._measuring.compared(*runs)

    async def of_adapters(self, a: UUID, b: UUID) -> RunComparison | None:
        """B's newest completed run against A's newest that asked the same in the same way; None when there is no such pair."""
        runs_a, runs_b = [
            (await self.store.page(RunFilter(adapter_id=one, status="completed"), PAIRED, 0))[0] for one in (a, b)
        ]
        of_a: dict[str, BenchmarkRun] = {}
        for run in runs_a:
            of_a.setdefault(comparable_hash(run), run)
        for run in runs_b:
            if (other := of_a.get(comparable_hash(run))) is not None:
                return await self._measuring.compared(other, run)
        return None

    async def questions(
        self, domain: str | None = None, difficulty: str | None = None, suite: str | None = None
    ) -> Questions:
        """Built-in questions and one's own.

        Raises:
            InvalidInputError: no such domain or difficulty.
            NotFoundError: no such suite.
        """
        return await self.bank.list(domain, difficulty, suite)

    async def add_question(self, question: Question) -> BenchmarkQuestion:
        """Keep a question of one's own, which `custom.question_from` has checked.

        Raises:
            ConflictError: the id is taken, or another question asks the same.
        """
        return await self.bank.add(question)

    async def remove_question(self, question_id: str) -> None:
        """Remove a question of one's own; runs that asked it keep it.

        Raises:
            NotFoundError: no such question.
            ConflictError: it is built in.
        """
        await self.bank.remove(question_id)

    async def import_questions(
        self, content: bytes, *, as_yaml: bool = False, domain: str = "reasoning", difficulty: str = "medium"
    ) -> QuestionImport:
        """Take in questions from a file (see `benchmark.imports`); an entry that cannot be taken is reported by its line.

        Raises:
            InvalidInputError: the file is too large, or not what it should be.
        """
        done: list[tuple[int, str, bool]] = []
        for line, entry in read_entries(content, as_yaml=as_yaml, domain=domain, difficulty=difficulty):
            if isinstance(entry, str):
                done.append((line, entry, False))
                continue
            try:
                await self.bank.add(entry)
            except ConflictError as error:
                done.append((line, error.detail, False))
            else:
                done.append((line, entry.id, True))
        return summed(done)

    async def calibrate(
        self, rated: Sequence[Rated], judge: str = "", told: Callable[[int], None] | None = None
    ) -> CalibrationReport:
        """Have a judge score answers that people rated, and compare.

        Args:
            judge: its name; empty: the one that scores what no check can.
            told: told how many are done.

        Raises:
            PluginUnavailableError: no such judge.
            TmdeError: its model is away.
        """
        name = self._plugins.judges.get(judge).name if judge else WITHOUT_REFERENCE
        seat = JudgeSource(self._settings, self._runtimes)
        scorer = Scorer(self._plugins, name, seat.model)
        scores = []
        for number, one in enumerate(rated, 1):
            verdict, problem = await scorer.ask(name, JudgeItem(question=one.question, answer=one.answer))
            if problem is not None and number == 1:
                raise problem
            scores.append(verdict.score)
            if told is not None:
                told(number)
        return await asyncio.to_thread(report, name, [one.rating for one in rated], scores)

    async def exported(self, start: datetime | None = None, end: datetime | None = None) -> Sequence[ExportedRun]:
        """Every run of a time with its answers, oldest first.

        Raises:
            InvalidInputError: the dates are the wrong way round.
        """
        runs, _ = await self.list(100_000, 0, start, end)
        return [ExportedRun(run=run, results=tuple(await self.store.results(run.id))) for run in reversed(runs)]

    async def dry_run(self, question: Question, answer: str) -> Score:
        """What the machine's checks say of an answer, without a model: for whoever writes a question."""

        async def nobody() -> None:
            return None

        return await Scorer(self._plugins, "verifier", nobody).score(question, answer)

    # -------------------------------------------------------------------------- ending, settling

    async def wait(self, run_id: UUID) -> BenchmarkRun:
        """Wait until the run has ended, if it runs here.

        Raises:
            NotFoundError: no such run.
        """
        live = self._live
        if live is not None and live.run.id == run_id and live.task is not None:
            await asyncio.wait([live.task])
        return await self.get(run_id)

    async def cancel(self, run_id: UUID) -> BenchmarkRun:
        """Stop a run; what was answered is kept, and it can be resumed.

        Raises:
            NotFoundError: no such run.
            ConflictError: it has ended, or runs in another process.
        """
        live = self._live
        if live is None or live.run.id != run_id or live.task is None:
            run = await self.get(run_id)
            if run.status in ("pending", "running"):
                raise ConflictError("This benchmark runs in another TMDE process and can only be cancelled there.")
            raise ConflictError(f"This benchmark has ended already: it is {run.status}.", status=run.status)
        live.task.cancel()
        await asyncio.wait([live.task])
        return await self.get(run_id)

    async def delete(self, run_id: UUID) -> None:
        """Remove an ended run with its answers.

        Raises:
            NotFoundError: no such run.
            ConflictError: it is running.
        """
        run = await self.get(run_id)
        if run.status in ("pending", "running"):
            raise ConflictError("This benchmark is running. Cancel it first.", status=run.status)
        await self.store.delete(run_id)
        self._ended.pop(run_id, None)

    async def settle(self, serving: bool = False) -> None:
        """Mark what a crash left running as interrupted; the server goes on with the newest."""
        unfinished = await self.store.unfinished()
        if unfinished:
            try:
                lock = self._locked()
            except ConflictError:
                return  # another process is at it
            for run in unfinished:
                await self.store.update(
                    msgspec.structs.replace(
                        run, status="interrupted", error_message="TMDE ended in the middle. Resume it to ask the rest."
                    )
                )
            lock.close()
        if serving:
            interrupted = await self.store.interrupted()
            if interrupted:
                try:
                    await self.resume(interrupted[-1].id)
                except TmdeError as error:
                    log.warning("benchmark.not_resumed", run=str(interrupted[-1].id), error=error.detail)

    async def stop(self) -> None:
        """Interrupt the run of this process; the next server goes on with it."""
        live = self._live
        if live is not None and live.task is not None:
            live.run = msgspec.structs.replace(live.run, status="interrupted")
            live.task.cancel()
            await asyncio.wait([live.task])

    # ------------------------------------------------------------------------------------- inside

    async def _see_to_the_end(self, live: _Live, work: Any) -> None:
        """The task of one run. It never raises: how it ended is in the row and in the log."""
        ended: dict[str, Any]
        try:
            await work
            ended = {"status": "completed"}
        except asyncio.CancelledError:
            stopping = live.run.status == "interrupted"
            ended = {"status": "interrupted" if stopping else "cancelled"}
        except TmdeError as error:
            ended = {"status": "failed", "error_message": error.detail}
        except Exception as error:
            log.exception("benchmark.failed", run=str(live.run.id))
            ended = {"status": "failed", "error_message": f"An unexpected {type(error).__name__}; the log has it."}
        try:
            run = await asyncio.shield(self._closed(live, ended))
        except Exception as error:  # the disk is full, say: the next start finds the row running and its lock free
            log.warning("benchmark.end_not_stored", run=str(live.run.id), error=repr(error))
            run = msgspec.structs.replace(live.run, status="failed", error_message="Its end could not be stored.")
        self._ended[run.id] = live.events
        while len(self._ended) > LOGS_KEPT:
            self._ended.popitem(last=False)
        self._live = None
        live.lock.close()
        live.events.append(*_ending(run))

    async def _closed(self, live: _Live, ended: dict[str, Any]) -> BenchmarkRun:
        run = await self.store.get(live.run.id) or live.run
        run = msgspec.structs.replace(run, completed_at=utc_now(), questions_done=live.done, **ended)
        if run.status == "completed":
            run = await self._measuring.judged(run)
        await self.store.update(run)
        return run

    def _locked(self) -> IO[str]:
        """The lock on running a benchmark.

        Raises:
            ConflictError: somebody else holds it.
        """
        path = self._settings.data_path / LOCK_FILE
        with storage_errors(path.parent):
            file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            live = self._live
            raise ConflictError(
                "A benchmark is running. Wait for its end, or cancel it.",
                **({"runId": str(live.run.id)} if live else {}),
            ) from None
        return file


def _wanted(
    start: datetime | None,
    end: datetime | None,
    adapter_id: UUID | None,
    type_: RunType | None,
    status: RunStatus | None,
    mode: Mode | None,
) -> RunFilter:
    if start is not None and end is not None and start > end:
        raise InvalidInputError("from: lies after `to`. Exchange the two dates.", field="from")
    return RunFilter(start=start, end=end, adapter_id=adapter_id, type=type_, status=status, mode=mode)


def _count(live: _Live, result: BenchmarkResult) -> None:
    if result.quality_score is not None:
        live.score += result.quality_score
        live.scored += 1


def _tell(live: _Live, result: BenchmarkResult) -> None:
    here = live.done - live.begun_with
    pace = (time.monotonic() - live.began) / here if here else None
    live.events.append(
        "progress",
        {
            "done": live.done,
            "total": live.run.questions_total,
            "questionId": result.question_id,
            "domain": result.domain,
            "score": result.quality_score,
            "meanScore": live.score / live.scored if live.scored else None,
            "etaSeconds": round(pace * (live.run.questions_total - live.done), 1) if pace is not None else None,
            "status": result.status,
        },
    )


def _ending(run: BenchmarkRun) -> tuple[str, dict[str, Any]]:
    if run.status == "completed":
        return "complete", {"runId": str(run.id), "metrics": msgspec.to_builtins(run.metrics)}
    if run.status == "cancelled":
        return "cancelled", {"runId": str(run.id)}
    return "error", {"runId": str(run.id), "status": run.status, "detail": run.error_message or "It was interrupted."}


__all__ = ["ENDED", "BenchmarkService", "comparable_hash"]
