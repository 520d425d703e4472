"""Starts, watches, cancels, resumes and compares benchmark runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast
from uuid import UUID

import msgspec
import structlog

from tmde_core.benchmark.questions.bank import QuestionBank
from tmde_core.benchmark.questions.imports import QuestionImport, SkippedEntry, read_entries
from tmde_core.benchmark.reading import BenchmarkReading
from tmde_core.benchmark.running.calibration import CalibrationReport, Rated, report
from tmde_core.benchmark.running.live import ActiveRun, count, make_last_event, tell
from tmde_core.benchmark.running.measuring import Measuring
from tmde_core.benchmark.running.planning import Planner, comparable_hash
from tmde_core.benchmark.running.runner import PARALLEL, JudgeSource, Runner, list_unanswered
from tmde_core.benchmark.running.scoring import AnswerScore, Scorer
from tmde_core.benchmark.store import BenchmarkStore
from tmde_core.debate.judging import Judges
from tmde_core.errors import ConflictError, InvalidInputError, TmdeError
from tmde_core.lora.service import LoraService
from tmde_core.observers import Publish
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import (
    BENCHMARK_ENDED,
    BenchmarkPlan,
    BenchmarkQuestion,
    BenchmarkResult,
    BenchmarkRun,
    BenchmarkTrigger,
)
from tmde_core.records.chat import AdapterRef
from tmde_core.records.judging import JudgeItem
from tmde_core.records.questions import Question
from tmde_core.sdk.events import BenchmarkEnded
from tmde_core.sdk.suites import SuiteDescriptor
from tmde_core.storage.durable import storage_errors
from tmde_core.storage.events import EndedLogs, MemoryLog
from tmde_core.storage.locks import FileLock
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

BENCHMARK_LOCK = "benchmark.lock"
"""The lock file that the process running a benchmark holds.

Only one benchmark runs at a time. If a run is marked as running but the file is not locked, its process has died.
"""

LOGS_KEPT = 20
"""The number of ended runs whose event logs stay in memory."""
Questions = list[BenchmarkQuestion]


class BenchmarkService(BenchmarkReading):
    """Runs and manages the benchmarks of one data directory."""

    def __init__(
        self,
        store: BenchmarkStore,
        bank: QuestionBank,
        workspace: Workspace,
        lora: LoraService,
        publish: Publish,
    ) -> None:
        super().__init__(store, Measuring(store, bank), lora)
        self._bank = bank
        self._workspace = workspace
        self._publish = publish
        self.parallel = PARALLEL
        """Questions asked at once."""
        self._planner = Planner(workspace, lora, bank)
        self._starting = asyncio.Lock()
        self._ended = EndedLogs(LOGS_KEPT)

    # ---------------------------------------------------------------------------------- starting

    async def start(self, plan: BenchmarkPlan, triggered_by: BenchmarkTrigger = "manual") -> BenchmarkRun:
        """Start a run and return at once.

        Raises:
            ConflictError: A benchmark is running, or the adapter belongs to another base model.
            NotFoundError: The suite, a question or the adapter does not exist.
            InvalidInputError: A custom run names no questions, or a run of another type names questions; or no judge
                has this name.
            AdapterInvalidError: The adapter's files are damaged.
            PluginUnavailableError: No plugin provides the runtime.
        """
        async with self._starting:
            lock = self._locked()
            try:
                run, questions, adapter = await self._planner.make_run(plan, triggered_by)
                await self._store.insert(run, questions, comparable_hash(run))
                return await self._begin(run, questions, adapter, lock, ())
            except BaseException:
                if self._live is None or self._live.lock is not lock:
                    lock.release()
                raise

    async def resume(self, run_id: UUID) -> BenchmarkRun:
        """Resume an interrupted, cancelled or failed run; ask only the questions without an answer.

        Raises:
            NotFoundError: The run does not exist.
            ConflictError: The run is completed, or a benchmark is running.
        """
        async with self._starting:
            run = await self.get(run_id)
            if run.status in ("completed", "running", "pending"):
                raise ConflictError(f"The benchmark {run_id} cannot be resumed: it is {run.status}.", status=run.status)
            lock = self._locked()
            try:
                questions = await self._store.questions(run_id)
                adapter = await self._planner.check_resume(run)
                run = msgspec.structs.replace(run, status="running", completed_at=None, error_message=None)
                await self._store.update(run)
                return await self._begin(run, questions, adapter, lock, await self._store.results(run_id))
            except BaseException:
                if self._live is None or self._live.lock is not lock:
                    lock.release()
                raise

    async def _begin(
        self,
        run: BenchmarkRun,
        questions: Sequence[Question],
        adapter: AdapterRef | None,
        lock: FileLock,
        earlier: Sequence[BenchmarkResult],
    ) -> BenchmarkRun:
        lease = await self._lora.acquire_lease(adapter)
        slots = list_unanswered(questions, run.repeats, earlier)
        done = run.answer_count - len(slots)
        live = self._live = ActiveRun(run, MemoryLog(), lock, done=done, begun_with=done)
        open_ = {(slot.question.id, slot.repeat) for slot in slots}
        live.answered = {(result.question_id, result.repeat) for result in earlier} - open_
        for result in earlier:
            count(live, result)

        async def keep(result: BenchmarkResult, trace: bytes | None) -> None:
            await self._store.add_result(result, trace)
            live.done += 1
            live.answered.add((result.question_id, result.repeat))
            count(live, result)
            tell(live, result)

        runner = Runner(run, self._workspace, adapter, keep, self.parallel)
        self._ended.forget(run.id)
        live.events.append("start", {"runId": str(run.id), "total": run.answer_count, "done": done})

        async def go() -> None:
            await runner.ask_all(slots)
            await self._measuring.measure(run, runner)

        live.task = asyncio.create_task(self._see_to_the_end(live, go()), name=f"benchmark {run.id}")
        live.task.add_done_callback(lambda _: lease.release())
        await asyncio.sleep(0)
        return live.current()

    async def find_reusable(self, plan: BenchmarkPlan, adapter_id: UUID | None) -> BenchmarkRun | None:
        """Return the newest completed run that matches the plan, or None.

        A matching run asked the same questions in the same way, of the same weights.
        """
        run, _, _ = await self._planner.make_run(plan, "post-finetune")
        found = await self._store.latest(comparable_hash(run), adapter_id=adapter_id)
        return found if found is not None and found.adapter_sha256 == run.adapter_sha256 else None

    # ----------------------------------------------------------------------------------- reading

    async def events(self, run_id: UUID) -> MemoryLog:
        """Return the event log of a run.

        The log has `start`, then `progress {done, total, questionId, domain, score, meanScore, etaSeconds, status}` for
        each answer, then `complete`, `error` or `cancelled`. For a run that ended long ago, only the last event is
        left.

        Raises:
            NotFoundError: The run does not exist.
            ConflictError: The run is in another process, whose events are not visible to this process.
        """
        if self._live is not None and self._live.run.id == run_id:
            return self._live.events
        if (ended := self._ended.get(run_id)) is not None:
            return ended
        run = await self.get(run_id)
        if run.status in ("pending", "running"):
            raise ConflictError("This benchmark runs in another TMDE process, so it cannot be watched from here.")
        events = MemoryLog(shortened=True)
        events.append(*make_last_event(run))
        return events

    def suites(self) -> Sequence[SuiteDescriptor]:
        """Return the suites of the plugins, the default suite first."""
        return self._bank.suites()

    async def questions(
        self, domain: str | None = None, difficulty: str | None = None, suite: str | None = None
    ) -> Questions:
        """Return the built-in questions and the user's own questions.

        Raises:
            InvalidInputError: The domain or the difficulty is unknown.
            NotFoundError: The suite does not exist.
        """
        return await self._bank.list(domain, difficulty, suite)

    async def add_question(self, question: Question) -> BenchmarkQuestion:
        """Store one of the user's own questions; `custom.question_from` has validated the question.

        Raises:
            ConflictError: The id is already used, or another question asks the same.
        """
        return await self._bank.add(question)

    async def replace_question(self, question: Question) -> BenchmarkQuestion:
        """Replace one of the user's own questions; `custom.question_from` has validated the new question.

        Runs that asked the earlier question keep the earlier question.

        Raises:
            NotFoundError: The question does not exist.
            ConflictError: The question is built in, or another question asks the same.
        """
        return await self._bank.replace(question)

    async def remove_question(self, question_id: str) -> None:
        """Remove one of the user's own questions; runs that asked the question keep it.

        Raises:
            NotFoundError: The question does not exist.
            ConflictError: The question is built in.
        """
        await self._bank.remove(question_id)

    async def import_questions(
        self,
        content: bytes | str,
        *,
        as_yaml: bool = False,
        domain: str = "reasoning",
        difficulty: str = "medium",
        whole: bool = False,
    ) -> QuestionImport:
        """Import questions from a file and report by its line each entry that cannot be imported.

        `benchmark.questions.imports` describes the file formats.

        Args:
            domain, difficulty: Used for entries that name none.
            whole: Import nothing if one entry cannot be imported.

        Raises:
            InvalidInputError: The file is too large, is not text, or has the wrong format.
        """
        entries = read_entries(content, as_yaml=as_yaml, domain=domain, difficulty=difficulty)
        read = await asyncio.to_thread(list, entries)  # YAML of 16 MiB takes its time
        clashes = iter(await self._bank.find_clashes([entry for _, entry in read if isinstance(entry, Question)]))
        if not read:
            raise InvalidInputError("The file holds no questions. Write one JSON object a line, or a list in YAML.")
        taken: list[Question] = []
        skipped: list[SkippedEntry] = []
        places: dict[str, int] = {}
        for line, entry in read:
            if isinstance(entry, str):
                skipped.append(SkippedEntry(line=line, reason=entry))
            elif clash := next(clashes):
                reason = _clash_in_file(entry, clash, places, "entry" if as_yaml else "line") or clash.detail
                skipped.append(SkippedEntry(line=line, reason=reason))
            else:
                taken.append(entry)
                places[entry.id] = line
        if skipped and whole:
            taken.clear()
        await self._bank.add_all(taken)
        return QuestionImport(imported=tuple(one.id for one in taken), skipped=tuple(skipped))

    async def calibrate(
        self, rated: Sequence[Rated], judge: str = "", told: Callable[[int], None] | None = None
    ) -> CalibrationReport:
        """Have a judge score answers that people rated, and compare the scores with the ratings.

        Args:
            judge: The judge's name; if empty, the judge that scores criteria without a check.
            told: Called with the number of answers scored so far.

        Raises:
            InvalidInputError: No judge has this name.
            TmdeError: The judge's model is unavailable.
        """
        judges = Judges(self._workspace)
        name = self._workspace.plugins.judges.choose(judge, "judge").name if judge else judges.default
        seat = JudgeSource(self._workspace.settings, self._workspace.runtimes)
        scorer = Scorer(judges, name, seat.model)
        scores = []
        for number, one in enumerate(rated, 1):
            verdict, problem = await scorer.ask(name, JudgeItem(question=one.question, answer=one.answer))
            if problem is not None and number == 1:
                raise problem
            scores.append(verdict.score)
            if told is not None:
                told(number)
        return await asyncio.to_thread(report, name, [one.rating for one in rated], scores)

    async def dry_run(self, question: Question, answer: str) -> AnswerScore:
        """Score an answer with the automatic checks alone, without a model; helps while writing a question."""

        async def nobody() -> None:
            return None

        judges = Judges(self._workspace)
        return await Scorer(judges, judges.checking, nobody).score(question, answer)

    # -------------------------------------------------------------------------- ending, settling

    async def wait(self, run_id: UUID) -> BenchmarkRun:
        """Wait until the run has ended, if the run is in this process, and return the run.

        Raises:
            NotFoundError: The run does not exist.
        """
        live = self._live
        if live is not None and live.run.id == run_id and live.task is not None:
            await asyncio.wait([live.task])
        return await self.get(run_id)

    async def cancel(self, run_id: UUID) -> BenchmarkRun:
        """Cancel a run; its answers so far are kept, and the run can be resumed.

        Raises:
            NotFoundError: The run does not exist.
            ConflictError: The run has ended, or is in another process.
        """
        live = self._live
        if live is not None and live.run.id == run_id and live.task is not None and live.closing:
            await asyncio.wait([live.task])
            live = self._live
        if live is None or live.run.id != run_id or live.task is None:
            run = await self.get(run_id)
            if run.status in ("pending", "running"):
                raise ConflictError("This benchmark runs in another TMDE process and can only be cancelled there.")
            raise ConflictError(f"This benchmark has ended already: it is {run.status}.", status=run.status)
        live.cancel()
        await asyncio.wait([live.task])
        return await self.get(run_id)

    async def delete(self, run_id: UUID) -> None:
        """Delete an ended run with its answers.

        Raises:
            NotFoundError: The run does not exist.
            ConflictError: The run is in progress.
        """
        run = await self.get(run_id)
        if run.status in ("pending", "running"):
            raise ConflictError("This benchmark is running. Cancel it first.", status=run.status)
        await self._store.delete(run_id)
        self._ended.forget(run_id)

    async def settle(self, serving: bool = False) -> None:
        """Mark runs that a crash left running as interrupted; the server then resumes the newest interrupted run."""
        unfinished = await self._store.unfinished()
        if unfinished:
            try:
                lock = self._locked()
            except ConflictError:
                return  # another process is running a benchmark
            for run in unfinished:
                await self._store.update(
                    msgspec.structs.replace(
                        run, status="interrupted", error_message="TMDE ended in the middle. Resume it to ask the rest."
                    )
                )
            lock.release()
        if serving:
            interrupted = await self._store.interrupted()
            if interrupted:
                try:
                    await self.resume(interrupted[-1].id)
                except TmdeError as error:
                    log.warning("benchmark.not_resumed", run=str(interrupted[-1].id), error=error.detail)

    async def stop(self) -> None:
        """Interrupt the run of this process; the next server resumes the run."""
        live = self._live
        if live is not None and live.task is not None:
            live.run = msgspec.structs.replace(live.run, status="interrupted")
            live.cancel()
            await asyncio.wait([live.task])

    # ------------------------------------------------------------------------------------- inside

    async def _see_to_the_end(self, live: ActiveRun, work: Any) -> None:
        """Await the work of one run and store how the run ended.

        This method never raises: the database row and the log record how the run ended.
        """
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
        live.closing = True
        try:
            run = await self._closed(live, ended)
        except Exception as error:  # for example a full disk; the next start finds the row "running" and the lock free
            log.warning("benchmark.end_not_stored", run=str(live.run.id), error=repr(error))
            run = msgspec.structs.replace(live.run, status="failed", error_message="Its end could not be stored.")
        self._ended.keep(run.id, live.events)
        self._live = None
        live.lock.release()
        live.events.append(*make_last_event(run))
        if run.status in BENCHMARK_ENDED:  # an interrupted run continues at the next start
            self._publish(_ended(run))

    async def _closed(self, live: ActiveRun, ended: dict[str, Any]) -> BenchmarkRun:
        run = await self._store.get(live.run.id) or live.run
        now = live.current()
        run = msgspec.structs.replace(
            run,
            completed_at=utc_now(),
            completed_answers=now.completed_answers,
            completed_questions=now.completed_questions,
            **ended,
        )
        if run.status == "completed":
            run = await self._measuring.set_outcomes(run)
        await self._store.update(run)
        return run

    def _locked(self) -> FileLock:
        """Acquire and return the lock that allows this process to run a benchmark.

        Raises:
            ConflictError: Another benchmark run holds the lock.
        """
        path = self._workspace.settings.data_path / BENCHMARK_LOCK
        with storage_errors(path.parent):
            lock = FileLock.try_acquire(path)
        if lock is None:
            live = self._live
            raise ConflictError(
                "A benchmark is running. Wait for its end, or cancel it.",
                **({"runId": str(live.run.id)} if live else {}),
            )
        return lock


def _ended(run: BenchmarkRun) -> BenchmarkEnded:
    """Return the event that reports the end of a run."""
    return BenchmarkEnded(
        run_id=run.id,
        status=cast("Literal['completed', 'failed', 'cancelled']", run.status),
        adapter_id=run.adapter_id,
        tmde_score=run.metrics.tmde_score if run.metrics else None,
    )


__all__ = ["BENCHMARK_ENDED", "BenchmarkService", "comparable_hash"]


def _clash_in_file(question: Question, clash: ConflictError, places: Mapping[str, int], unit: str) -> str:
    """Return that an earlier question of the same file clashes, or nothing if the file is not the reason.

    The earlier question is named by its place, because a person does not know the id that an import has just made.
    """
    earlier = str(clash.context["questionId"])
    if earlier not in places:
        return ""
    what = "has the same id" if question.id == earlier else "asks the same"
    return f"The question of {unit} {places[earlier]} {what}."
