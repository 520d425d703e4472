"""Asks the questions of a run, several at once, and has the answers scored.

Every model call is marked as background work, so that an arriving debate is served next. An answer is stored in the
database before it is counted. An interrupted run therefore continues with the questions that have no answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from uuid import UUID, uuid5

import msgspec
import structlog

from tmde_core.benchmark.running.scoring import Scorer, make_judge_item
from tmde_core.debate.context import Conversation
from tmde_core.debate.engine import Engine
from tmde_core.debate.judging import Judges
from tmde_core.debate.seats import JudgeSession, RoleSession, TokenCounter, merge_roles
from tmde_core.errors import (
    ContextOverflowError,
    EmptyAnswerError,
    OnlyThoughtError,
    RuntimePausedError,
    TmdeError,
    WorkerFailedError,
)
from tmde_core.prompts import proposer_opening
from tmde_core.records.base import to_json
from tmde_core.records.benchmark import BenchmarkResult, BenchmarkRun
from tmde_core.records.chat import AdapterRef
from tmde_core.records.debate import DebateConfig
from tmde_core.records.questions import Question
from tmde_core.runtimes import Runtimes, describe_lack_of_adapters, serves_adapters
from tmde_core.sdk.judges import JudgeModel
from tmde_core.sdk.runtimes import ModelRuntime
from tmde_core.settings import RoleSettings, Settings
from tmde_core.storage.events import MemoryLog
from tmde_core.workspace import Workspace

log = structlog.get_logger(__name__)

PARALLEL = 8
"""The number of questions asked at once.

The runtime processes as many at a time as it has slots; the others wait in its queue.
"""

TRIES = 3
"""The number of attempts: a failed question is asked two more times."""

FAILURES_IN_A_ROW = 4
"""After this many consecutive failed questions, the run stops and can be resumed.

So many failures mean that the model is unavailable. The same limit holds for consecutive answers that only the judge's
model can score, if this model cannot be asked.
"""

Keep = Callable[[BenchmarkResult, bytes | None], Awaitable[None]]


@dataclass
class JudgeSource:
    """Provides the Judge's model and starts the model once, at first use."""

    settings: Settings
    runtimes: Runtimes
    seed: int = 0
    _seat: JudgeSession | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def model(self) -> JudgeModel:
        """Return the Judge's model, with the panel's models if the settings name a panel.

        Raises:
            TmdeError: The model cannot be started.
        """
        async with self._lock:
            if self._seat is None:
                role = self.settings.roles.judge
                seats = [await self._sit(one) for one in (role, *panel_roles(role, self.settings.benchmark.panel))]
                self._seat = JudgeSession(seats[0], [JudgeSession(seat) for seat in seats] if len(seats) > 1 else ())
        return self._seat

    async def _sit(self, role: RoleSettings) -> RoleSession:
        runtime = await self.runtimes.get(role.runtime)
        return RoleSession("judge", role, runtime, TokenCounter(), seed=self.seed, background=True)


def panel_roles(judge: RoleSettings, names: Sequence[str]) -> list[RoleSettings]:
    """Return the Judge role's settings for each further panel member, with the member's runtime and model.

    Args:
        judge: The settings of the Judge role.
        names: The members, each written RUNTIME or RUNTIME:MODEL.
    """
    pairs = (name.partition(":") for name in names)
    return [msgspec.structs.replace(judge, runtime=runtime, model=model) for runtime, _, model in pairs]


@dataclass
class PendingAnswer:
    """One answer that the run still needs."""

    question: Question
    repeat: int


@dataclass
class Runner:
    """Runs one benchmark run in this process."""

    run: BenchmarkRun
    workspace: Workspace
    adapter: AdapterRef | None
    keep: Keep
    """Stores an answer, and its debate as JSON, in the database."""
    parallel: int = PARALLEL
    settings: Settings = field(init=False)
    """The settings when the run started or resumed in this process.

    The live settings may change during the run.
    """
    _failed_in_a_row: int = 0
    _unjudged_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.settings = self.workspace.settings
        judge = JudgeSource(self.settings, self.workspace.runtimes, self.run.seed)
        self._scorer = Scorer(Judges(self.workspace), self.run.judge, judge.model)

    async def ask_all(self, slots: Sequence[PendingAnswer]) -> None:
        """Ask all questions; return when each slot has its answer or its failure.

        Raises:
            WorkerFailedError: The model no longer answers, or neither does a judge that is needed for every score.
                Answers so far are kept.
        """
        waiting = iter(slots)

        async def work() -> None:
            for slot in waiting:
                await self._one(slot)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.parallel, len(slots))):
                    group.create_task(work())
        except* TmdeError as found:
            failure: BaseException = found
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
        else:
            return
        raise failure

    async def _one(self, slot: PendingAnswer) -> None:
        """Ask one question, with up to three attempts."""
        problem: TmdeError | None = None
        for number in range(1, TRIES + 1):
            try:
                result, trace = await self._answer(slot)
            except RuntimePausedError:
                # No further question can be asked now. The benchmark can be resumed after the training run.
                raise
            except ContextOverflowError as error:  # asking again changes nothing
                problem = error
                break
            except TmdeError as error:
                problem = error
                log.warning("benchmark.try_failed", question=slot.question.id, number=number, error=error.detail)
                if isinstance(error, OnlyThoughtError):
                    break  # it was asked twice already, and would think as long again
            except Exception as error:  # a plugin's defect on one question must not stop the other questions
                last = number == TRIES
                log.warning("benchmark.try_failed", question=slot.question.id, error=repr(error), exc_info=last)
                problem = WorkerFailedError(f"An unexpected {type(error).__name__}; the log has it.")
            else:
                if not result.final_answer.strip() and number < TRIES:
                    continue
                self._failed_in_a_row = 0
                await self.keep(msgspec.structs.replace(result, tries=number), trace)
                self._mind_the_judge(result)
                return
        assert problem is not None
        self._failed_in_a_row += 1
        await self.keep(self._blank(slot, status="failed", tries=number, error=problem.detail), None)
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            raise WorkerFailedError(
                f"{FAILURES_IN_A_ROW} questions in a row could not be answered: {problem.detail} "
                "Put that right, then resume the benchmark; what was answered is kept."
            )

    async def _answer(self, slot: PendingAnswer) -> tuple[BenchmarkResult, bytes | None]:
        asked = self._by_debate if self.run.mode == "debate" else self._by_proposer
        result, trace = await asked(slot)
        if not result.final_answer.strip():
            return self._nothing_said(slot, result), trace
        score = await self._scorer.score(slot.question, result.final_answer)
        return (
            msgspec.structs.replace(
                result,
                status="unscored" if score.score is None else "scored",
                quality_score=score.score,
                criteria=score.criteria,
                reasons=score.reasons,
                error=score.judge_error,
            ),
            trace,
        )

    def _nothing_said(self, slot: PendingAnswer, result: BenchmarkResult) -> BenchmarkResult:
        """Return the result for an empty answer: a score of 0.

        An empty answer counts as an answer. Otherwise an adapter that silences the model would appear as an adapter
        that could not be measured.
        """
        return msgspec.structs.replace(
            result,
            status="scored",
            quality_score=0.0,
            criteria={criterion.name: 0.0 for criterion in slot.question.criteria},
            reasons=("The model gave an empty answer.",),
        )

    def _mind_the_judge(self, result: BenchmarkResult) -> None:
        """Stop the run after several consecutive answers without verdict because the judge's model is unavailable.

        The run can be resumed when the judge's model is available again.

        Raises:
            WorkerFailedError: The judge could not be asked about too many consecutive answers.
        """
        if result.quality_score is not None:
            self._unjudged_in_a_row = 0
            return
        self._unjudged_in_a_row = self._unjudged_in_a_row + 1 if result.error else 0
        if self._unjudged_in_a_row >= FAILURES_IN_A_ROW:
            raise WorkerFailedError(
                f"The judge could not be asked about {FAILURES_IN_A_ROW} answers in a row: {result.error} "
                "Put that right, then resume the benchmark; what was scored is kept."
            )

    async def _by_debate(self, slot: PendingAnswer) -> tuple[BenchmarkResult, bytes | None]:
        identity = self._identity(slot)
        engine = Engine(
            debate_id=identity,
            trace_id=identity,
            query=slot.question.query,
            config=DebateConfig(judge="none", seed=self._seed(slot)),
            source="benchmark",
            workspace=self.workspace,
            adapter=self.adapter,
            log=MemoryLog(),
            background=True,
            settings=self.settings,
        )
        began = time.perf_counter()
        try:
            trace = await engine.run()
        except EmptyAnswerError:  # an empty answer counts as an answer, as in proposer mode
            ms = round((time.perf_counter() - began) * 1000, 3)
            return self._blank(
                slot, response_time_ms=ms, tokens=engine.tally.completion, debate_rounds=len(engine.rounds)
            ), None
        if self.adapter is not None and engine.adapter is None:
            raise WorkerFailedError(f"The adapter {self.adapter.id} could not take part in the debate.")
        seconds = trace.timings.total_ms / 1000
        return (
            self._blank(
                slot,
                final_answer=trace.final_answer,
                response_time_ms=trace.timings.total_ms,
                tokens=trace.tokens.completion,
                tokens_per_second=trace.tokens.completion / seconds if seconds else None,
                debate_rounds=len(trace.rounds),
                early_stopped=trace.early_stopped,
                finish_reason=trace.finish_reason,
                trace_id=identity,
            ),
            to_json(trace),
        )

    async def _by_proposer(self, slot: PendingAnswer) -> tuple[BenchmarkResult, bytes | None]:
        # A single answer is greedy, so that sampling adds no noise to the comparison. Repeated answers must differ.
        role = merge_roles(
            self.settings.roles, DebateConfig(temperature=0.0 if self.run.repeats == 1 else None)
        ).proposer
        runtime = await self.workspace.runtimes.get(role.runtime)
        await self._load(runtime, role.model)
        tally = TokenCounter()
        seat = RoleSession(
            "proposer", role, runtime, tally, seed=self._seed(slot), adapter=self.adapter, background=True
        )
        began = time.perf_counter()
        conversation = Conversation(proposer_opening(slot.question.query, ""))
        spoken = await seat.speak(conversation, 1, lambda _: None)
        seconds = time.perf_counter() - began
        return (
            self._blank(
                slot,
                final_answer=spoken.text.encode("utf-8", "replace").decode(),  # half a surrogate pair cannot be stored
                response_time_ms=round(seconds * 1000, 3),
                tokens=tally.completion,
                tokens_per_second=tally.completion / seconds if tally.completion else None,
                debate_rounds=1,
                finish_reason=spoken.finish_reason,
            ),
            None,
        )

    async def _load(self, runtime: ModelRuntime, model: str) -> None:
        if self.adapter is None:
            return
        if not await serves_adapters(runtime):
            name = self.workspace.settings.roles.proposer.runtime
            raise WorkerFailedError(describe_lack_of_adapters(name, runtime, "so this one cannot be measured"))
        await runtime.load_adapter(self.adapter, model)

    def _seed(self, slot: PendingAnswer) -> int:
        """Return the seed of one answer, which is the same for every adapter.

        The same seeds give the compared runs the same random choices.
        """
        digest = hashlib.sha256(f"{self.run.seed}:{slot.question.id}:{slot.repeat}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    def _identity(self, slot: PendingAnswer) -> UUID:
        """Return the id of an answer, which is also the id of its debate and trace. A resumed run gives the same id."""
        return uuid5(self.run.id, f"{slot.question.id} {slot.repeat}")

    def _blank(self, slot: PendingAnswer, **fields: object) -> BenchmarkResult:
        values: dict[str, object] = {
            "id": self._identity(slot),
            "run_id": self.run.id,
            "question_id": slot.question.id,
            "repeat": slot.repeat,
            "status": "unscored",
            "domain": slot.question.domain,
            "difficulty": slot.question.difficulty,
            "query": slot.question.query,
        }
        return BenchmarkResult(**{**values, **fields})  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------ the judge's constancy

    async def anchor_scores(self, anchors: Sequence[tuple[str, Question, str]]) -> dict[str, float]:
        """Return the judge's current scores of the frozen answers; answers without verdict are left out.

        Args:
            anchors: The id, question and answer of each frozen answer.
        """
        name = self._scorer.model_judge
        if name is None:
            return {}
        found: dict[str, float] = {}
        for identity, question, answer in anchors:
            verdict, _ = await self._scorer.ask(name, make_judge_item(question, answer))
            if verdict.score is not None:
                found[identity] = verdict.score
            elif not found:
                break  # a judge without a verdict on the first answer will have none on the others
        return found


def measure_drift(first: dict[str, float], now: dict[str, float]) -> float | None:
    """Return the mean absolute change of the scores that both sets share, 0–10, or None if they share none."""
    shared = [abs(now[name] - first[name]) for name in now if name in first]
    return round(fmean(shared), 3) if shared else None


def list_unanswered(
    questions: Sequence[Question], repeats: int, results: Sequence[BenchmarkResult]
) -> list[PendingAnswer]:
    """Return the answers that the run still needs: all questions once, then all questions a second time.

    Failed answers are asked again, and so are answers without verdict because the judge was unavailable.
    """
    done = {
        (result.question_id, result.repeat)
        for result in results
        if result.status != "failed" and (result.quality_score is not None or not result.error)
    }
    return [
        PendingAnswer(question, repeat)
        for repeat in range(repeats)
        for question in questions
        if (question.id, repeat) not in done
    ]


def make_adapter_ref(adapter_id: UUID, path: str) -> AdapterRef:
    """Return the reference under which runtimes load an adapter."""
    return AdapterRef(id=str(adapter_id), directory=path)
