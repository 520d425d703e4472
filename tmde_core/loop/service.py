"""Runs the loop: ask the held-out questions, practise, train on right answers, activate, ask again, compare.

Every finished answer, debate and step is written to the journal before the next one begins, so an interrupted loop
resumes where it stopped. Only the Proposer answers held-out questions, with greedy decoding. So the comparison shows
the effect of training on the model's own answers, without sampling noise and without the help of the other roles.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from tmde_core.benchmark.results.statistics import paired_difference
from tmde_core.debate.context import Conversation
from tmde_core.debate.judging import Judges
from tmde_core.debate.seats import RoleSession, TokenCounter
from tmde_core.debate.service import DebateService
from tmde_core.errors import (
    AdapterInvalidError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OnlyThoughtError,
    TmdeError,
    WorkerFailedError,
)
from tmde_core.finetune.dataset.same_question import normalise_question
from tmde_core.finetune.service import FineTuneService
from tmde_core.loop.journal import Journal
from tmde_core.loop.records import (
    HELD_OUT,
    PRACTICE,
    Activated,
    Asked,
    DomainRow,
    Finished,
    LoopPhase,
    LoopPlan,
    LoopReport,
    Practised,
    Started,
    Trained,
)
from tmde_core.loop.watcher import LoopProgress
from tmde_core.lora.service import LoraService
from tmde_core.prompts import proposer_opening
from tmde_core.records.chat import AdapterRef
from tmde_core.records.debate import Debate, DebateConfig
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun
from tmde_core.records.judging import JudgeItem
from tmde_core.records.questions import Question
from tmde_core.records.traces import TraceSource
from tmde_core.runtimes import describe_lack_of_adapters, serves_adapters
from tmde_core.sdk.hooks import AUTO
from tmde_core.traces.service import TraceService
from tmde_core.workspace import Workspace

RIGHT = 8.0
"""The lowest score of a right answer. The verifier gives 10 or 0; a rubric judge's 8 is good enough for training."""

FAILURES_IN_A_ROW = 5
"""The loop stops after this many failed debates in a row, because further practice would fail too."""

BATCH_SIZE = 8
"""Eight short examples give a training step of reasonable size without gradient accumulation."""


@dataclass
class Loop:
    """Runs one loop over one file of questions."""

    workspace: Workspace
    debates: DebateService
    traces: TraceService
    finetune: FineTuneService
    lora: LoraService
    questions: Sequence[Question]
    plan: LoopPlan
    journal: Journal
    watcher: LoopProgress = field(default_factory=LoopProgress)

    def __post_init__(self) -> None:
        self.practice = [question for question in self.questions if question.split == PRACTICE]
        self.held_out = [question for question in self.questions if question.split == HELD_OUT]
        if not self.practice or not self.held_out:
            raise InvalidInputError(
                f"A loop needs questions to practise on and others to be measured by: this file has {len(self.practice)} "
                f'with "split": "{PRACTICE}" and {len(self.held_out)} with "split": "{HELD_OUT}".'
            )
        asked = {normalise_question(question.query) for question in self.held_out}
        if both := [question.id for question in self.practice if normalise_question(question.query) in asked]:
            raise InvalidInputError(
                f"The practice question {both[0]!r} is also a held-out one; then the comparison would mean nothing. "
                "Remove it from one of the two."
            )

    async def run(self) -> LoopReport:
        """Do the work that is not in the journal yet, and return the report.

        Raises:
            ConflictError: another process runs this loop, a training run is in progress, or a held-out question would
                be trained on.
            AdapterInvalidError: the Proposer's runtime cannot serve adapters.
            InsufficientTracesError: too few debates gave a right answer to train on.
            WorkerFailedError: the model or the training failed.
        """
        with self.journal.held():
            if self.journal.last(Finished) is None:
                await self._go()
            return self.report()

    async def _go(self) -> None:
        started = self.journal.last(Started)
        if started is None:
            ref = self.lora.get_answering_ref()
            started = Started(adapter_id=ref.id if ref else None)
            self.journal.append(started)
        await self._refuse_leaks()
        await self._require_adapters()
        if self.journal.last(Trained) is None:
            await self.finetune.require_trainable(self._training_config())
        before = await self._adapter(started.adapter_id)
        await self._ask_all("before", before)
        if self.journal.last(Trained) is None:
            await self._practise_all()
        adapter_id = await self._train()
        if self.journal.last(Activated) is None:
            await self.lora.activate(adapter_id, by="user")
            self.journal.append(Activated(adapter_id=str(adapter_id)))
        await self._ask_all("after", await self._adapter(str(adapter_id)))
        await self._finish()

    async def _adapter(self, adapter_id: str | None) -> AdapterRef | None:
        if adapter_id is None:
            return None
        adapter = await self.lora.get(UUID(adapter_id))
        return AdapterRef(id=str(adapter.id), directory=adapter.path)

    async def _require_adapters(self) -> None:
        """Raise an AdapterInvalidError if the Proposer's runtime cannot serve what the loop will train."""
        name = self.workspace.settings.roles.proposer.runtime
        runtime = await self.workspace.runtimes.get(name)
        if not await serves_adapters(runtime):
            so = "so a loop could not use what it trains"
            raise AdapterInvalidError(describe_lack_of_adapters(name, runtime, so))

    async def _refuse_leaks(self) -> None:
        """Raise a ConflictError if a held-out question is among the training traces.

        Training on a held-out question makes the comparison meaningless.
        """
        asked = {normalise_question(question.query): question.id for question in self.held_out}
        for trace in await self.traces.list_eligible(self.finetune.config().eligibility):
            if normalise_question(trace.query) in asked:
                raise ConflictError(
                    f"The trace {trace.id} holds the held-out question {asked[normalise_question(trace.query)]!r} and would be trained "
                    f"on. Withdraw it (tmde traces withdraw {trace.id}), or use a fresh --data-dir."
                )

    # ------------------------------------------------------------------------------------ the steps

    async def _ask_all(self, phase: LoopPhase, adapter: AdapterRef | None) -> None:
        done = {asked.question_id for asked in self.journal.all(Asked) if asked.phase == phase}
        self.watcher.step(f"Held-out questions {phase} training", len(self.held_out), len(done))

        async def one(question: Question) -> None:
            try:
                answer = await self._ask(question, adapter)
            except OnlyThoughtError:
                # There is no answer to check, so there is no score either.
                self.journal.append(Asked(phase=phase, question_id=question.id, answer="", score=None))
                self.watcher.piece(None)
                return
            judges = Judges(self.workspace)
            verdict = await judges.judge(
                judges.choose(AUTO, question.reference),
                JudgeItem(question=question.query, answer=answer, reference=question.reference, check=question.check),
                None,
            )
            self.journal.append(Asked(phase=phase, question_id=question.id, answer=answer, score=verdict.score))
            self.watcher.piece(None if verdict.score is None else verdict.score >= RIGHT)

        with await self.lora.acquire_lease(adapter):
            await self._each([question for question in self.held_out if question.id not in done], one)

    async def _ask(self, question: Question, adapter: AdapterRef | None) -> str:
        """Return the Proposer's own answer, with greedy decoding.

        Raises:
            OnlyThoughtError: the model thought and gave no answer.
        """
        role = msgspec.structs.replace(
            self.workspace.settings.roles.proposer, temperature=0.0, max_tokens=self.plan.max_tokens
        )
        runtime = await self.workspace.runtimes.get(role.runtime)
        seat = RoleSession("proposer", role, runtime, TokenCounter(), adapter=adapter)
        return (await seat.speak(Conversation(proposer_opening(question.query)), 1, lambda _: None)).text

    async def _practise_all(self) -> None:
        attempts: dict[str, list[Practised]] = defaultdict(list)
        for entry in self.journal.all(Practised):
            attempts[entry.question_id].append(entry)
        open_ = [question for question in self.practice if not self._settled(attempts[question.id])]
        self.watcher.step("Practice questions debated", len(self.practice), len(self.practice) - len(open_))
        failures = 0

        async def one(question: Question) -> None:
            nonlocal failures
            solved = False
            for attempt in range(len(attempts[question.id]) + 1, self.plan.tries + 1):
                practised, failure = await self._practise(question, attempt)
                failures = 0 if failure is None else failures + 1
                if failure is not None and failures >= FAILURES_IN_A_ROW:
                    raise WorkerFailedError(f"{failures} debates failed in a row, the last one so: {failure}")
                self.journal.append(practised)
                solved = practised.score is not None and practised.score >= RIGHT
                if solved:
                    break
            self.watcher.piece(solved)

        await self._each(open_, one)

    def _settled(self, attempts: Sequence[Practised]) -> bool:
        return len(attempts) >= self.plan.tries or any(one.score is not None and one.score >= RIGHT for one in attempts)

    async def _practise(self, question: Question, attempt: int) -> tuple[Practised, str | None]:
        """Run one practice debate, and return its journal entry and the reason if the debate failed."""
        config = DebateConfig(
            min_rounds=1,
            max_rounds=self.plan.rounds,
            templates=0,
            synthesis="never",
            reference=question.reference,
            check=question.check,  # type: ignore[arg-type]  # checked when the debate starts
            domain=question.domain,
            seed=_seed(self.plan.seed, question.id, attempt),
            max_tokens=self.plan.max_tokens,
            temperature=self.plan.temperature,
        )
        debate = await self._debated(question.query, config)
        if debate.trace_id is None:
            entry = Practised(question_id=question.id, attempt=attempt, trace_id=None, score=None)
            return entry, debate.error_message or f"it was {debate.status}"
        trace = await self.traces.get(debate.trace_id)
        entry = Practised(question_id=question.id, attempt=attempt, trace_id=str(trace.id), score=trace.auto_score)
        return entry, None

    async def _debated(self, query: str, config: DebateConfig, source: TraceSource = "loop") -> Debate:
        """Run a debate to its end. If this task is cancelled, cancel the debate too."""
        debate = await self.debates.start(query, config, source=source)
        try:
            return await self.debates.wait(debate.id)
        except asyncio.CancelledError:
            with contextlib.suppress(TmdeError):  # the debate may have ended in the meantime
                await self.debates.cancel(debate.id)
            raise

    async def _train(self) -> UUID:
        """Return the adapter of this loop's training run.

        Wait for the run in the journal; start a new one if there is none, or if that run failed or was cancelled.
        """
        trained = self.journal.last(Trained)
        run = await self._known_run(trained)
        if run is None or run.status in {"failed", "cancelled"}:
            run = await self.finetune.start(self._training_config(), triggered_by="manual")
            self.journal.append(Trained(run_id=str(run.id)))
        waiting = f". {run.notice}" if run.queued else ""
        self.watcher.step(f"Training on {run.train_examples} examples{waiting}", 1, 0)
        if run.status != "completed":
            watching = asyncio.create_task(self._watch(run.id))
            try:
                run = await self.finetune.wait(run.id)
            finally:
                watching.cancel()
        if run.status != "completed":
            raise WorkerFailedError(
                f"The training run {run.id} {run.status}: {run.error_message or 'no reason was given'}"
            )
        self.watcher.piece(None)
        return run.id

    async def _known_run(self, trained: Trained | None) -> FineTuneRun | None:
        if trained is None:
            return None
        try:
            return await self.finetune.get(UUID(trained.run_id))
        except NotFoundError:
            return None

    def _training_config(self) -> FineTuneConfig:
        return msgspec.structs.replace(
            self.finetune.config(),
            epochs=self.plan.epochs,
            learning_rate=self.plan.learning_rate,
            batch_size=BATCH_SIZE,
            gradient_accumulation_steps=1,
            max_seq_length=512,
            min_quality_score=RIGHT,
            min_traces=self.plan.min_traces,
            seed=self.plan.seed,
        )

    async def _watch(self, run_id: UUID) -> None:
        async for event in self.finetune.events(run_id).follow():
            if event.type == "progress":
                data = event.data
                self.watcher.training(
                    int(data.get("step") or 0),
                    int(data.get("totalSteps") or 0),
                    data.get("loss"),
                    data.get("etaSeconds"),
                )

    async def _finish(self) -> None:
        """Run one whole debate with the new adapter, and record the answer as the end of the loop."""
        question = self.held_out[0]
        self.watcher.step("A debate with the new adapter", 1, 0)
        # The source "benchmark" excludes this held-out question from training, whatever its rating.
        config = DebateConfig(max_rounds=1, templates=0, synthesis="never", judge="none")
        debate = await self._debated(question.query, config, "benchmark")
        if debate.trace_id is None:
            raise WorkerFailedError(f"The last debate failed: {debate.error_message}")
        trace = await self.traces.get(debate.trace_id)
        self.journal.append(
            Finished(query=trace.query, answer=trace.final_answer, trace_id=str(trace.id), adapter_id=trace.adapter_id)
        )
        self.watcher.piece(None)

    async def _each(self, questions: Iterable[Question], work: Callable[[Question], Awaitable[None]]) -> None:
        """Run `work` for every question, `plan.parallel` at the same time. Stop at the first failure and raise it."""
        gate = asyncio.Semaphore(self.plan.parallel)

        async def gated(question: Question) -> None:
            async with gate:
                await work(question)

        try:
            async with asyncio.TaskGroup() as group:
                for question in questions:
                    group.create_task(gated(question))
        except BaseExceptionGroup as failures:
            # Callers expect a single error, not an exception group. The first error has stopped the other tasks.
            first = _first(failures)
        else:
            return
        raise first

    # -------------------------------------------------------------------------------------- report

    def report(self) -> LoopReport:
        """Return the report, computed from the journal alone.

        Raises:
            ConflictError: the loop has not finished.
        """
        started, trained = self.journal.last(Started), self.journal.last(Trained)
        activated, last = self.journal.last(Activated), self.journal.last(Finished)
        if started is None or trained is None or activated is None or last is None:
            raise ConflictError("This loop has not finished. Start it again; it resumes where it stopped.")
        scores: dict[str, dict[str, float | None]] = {"before": {}, "after": {}}
        for asked in self.journal.all(Asked):
            scores[asked.phase][asked.question_id] = asked.score
        pairs: list[tuple[Question, float, float]] = []
        for question in self.held_out:
            before, after = scores["before"].get(question.id), scores["after"].get(question.id)
            if before is not None and after is not None:
                pairs.append((question, float(before >= RIGHT), float(after >= RIGHT)))
        overall = paired_difference([before for _, before, _ in pairs], [after for _, _, after in pairs])
        practised = self.journal.all(Practised)
        return LoopReport(
            held_out=len(self.held_out),
            practice_questions=len(self.practice),
            practice_debates=len(practised),
            practice_solved=len({one.question_id for one in practised if one.score is not None and one.score >= RIGHT}),
            unscored=len(self.held_out) - len(pairs),
            before_adapter=started.adapter_id,
            adapter_id=activated.adapter_id,
            run_id=trained.run_id,
            domains=tuple(_domains(pairs)),
            overall=overall,
            outcome=overall.outcome,
            last=last,
        )


def _domains(pairs: Sequence[tuple[Question, float, float]]) -> Iterable[DomainRow]:
    grouped: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for question, before, after in pairs:
        grouped[question.domain].append((before, after))
    for domain, scores in sorted(grouped.items()):
        yield DomainRow(
            domain=domain,
            questions=len(scores),
            before=sum(before for before, _ in scores) / len(scores),
            after=sum(after for _, after in scores) / len(scores),
        )


def _first(failures: BaseExceptionGroup) -> BaseException:
    """Return the first exception in a group, or in its nested groups, that is not itself a group."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _seed(seed: int, question_id: str, attempt: int) -> int:
    """Return a seed that differs for every debate and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {question_id} {attempt}".encode()).digest()[:4], "big") & 0x7FFFFFFF
