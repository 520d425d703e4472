"""Runs the gate: measures a new adapter before anybody has to trust the adapter.

After each fine-tuning run, the gate runs the quick benchmark for the new adapter. The benchmark runs in proposer mode
(the Proposer alone, without a debate) and asks each question three times. The adapter is not activated for the
measurement. The gate compares the result with the base model and with the active adapter:

- The adapter is worse than either of them, or significantly worse in one domain: the decision is `held-back`, with an
  alert. Activating the adapter then needs force.
- The adapter is better than the active adapter (or better than the base model if no adapter is active), and not worse
  than the base model: the decision is `proven`. The gate activates the adapter if `benchmark.auto_activate` is on.
- Otherwise the decision is `candidate`, with an offer to run the full benchmark.

The quick benchmark has two questions per domain. Two questions can never show that a single domain became worse. The
full benchmark can show this, and it detects smaller differences. Use `judge(…, full=True)` to decide again with the
full benchmark.

The gate reuses earlier runs of the base model and of the active adapter if these runs asked the same questions in the
same way. A scheduled benchmark measures the active adapter against the base model. If the active adapter has become
worse and `benchmark.auto_rollback` is on, the gate rolls the adapter back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import structlog

from tmde_core.benchmark.results.report import chance_words, p_words
from tmde_core.benchmark.results.statistics import adjust_holm, decide_outcome
from tmde_core.benchmark.service import BenchmarkService
from tmde_core.benchmark.store import BenchmarkStore
from tmde_core.errors import ConflictError, TmdeError, WorkerFailedError
from tmde_core.lora.service import LoraService
from tmde_core.notifications.service import NotificationService
from tmde_core.observers import Publish
from tmde_core.records.base import utc_now
from tmde_core.records.benchmark import BenchmarkPlan, BenchmarkRun, DomainComparison, GateDecision, RunComparison
from tmde_core.records.lora import full_name
from tmde_core.records.schedule import ScheduleOutcome
from tmde_core.sdk.events import BenchmarkDecided, Event, RunFinished
from tmde_core.settings import LiveSettings

log = structlog.get_logger(__name__)

PAGE = "/benchmark"
DecidedStatus = Literal["candidate", "proven", "held-back"]

REPEATS = 3
"""The number of times each of the ten quick questions is asked.

With one answer per question, one lucky answer of a harmful adapter can outweigh three answers that became worse.
"""


class GateService:
    """Measures new adapters and prevents a worse adapter from answering unnoticed."""

    def __init__(
        self,
        settings: LiveSettings,
        benchmark: BenchmarkService,
        lora: LoraService,
        notifications: NotificationService,
        store: BenchmarkStore,
        publish: Publish,
    ) -> None:
        self._settings = settings
        self._benchmark = benchmark
        self._lora = lora
        self._notifications = notifications
        self._store = store
        self._publish = publish
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard: set[UUID] = set()
        """The runs whose adapters were measured. Two programs may tell the server about the end of the same one."""
        self._one = asyncio.Lock()
        self._serving = False

    async def decisions(self, limit: int = 20, adapter_id: UUID | None = None) -> list[GateDecision]:
        """Return the gate's decisions, newest first."""
        return await self._store.decisions(limit, adapter_id)

    async def hear(self, event: Event) -> None:
        """Measure the adapter of a completed training run in the background.

        Only the server does this: a short-lived command would end before the measurement does.
        """
        if not isinstance(event, RunFinished) or event.status != "completed" or event.run_id in self._heard:
            return
        if self._serving and self._wanted():
            self._heard.add(event.run_id)
            self._spawn(event.run_id)

    async def start(self) -> None:
        """Measure the newest adapter if the gate has not decided about it yet.

        Such an adapter was trained while no server was running, or its measurement was interrupted.
        """
        self._serving = True
        if not self._wanted():
            return
        adapters = await self._lora.list(valid=True)
        newest = next((one for one in adapters if one.gate == "candidate"), None)
        if newest is not None and not await self.decisions(1, newest.id):
            self._spawn(newest.id)

    async def stop(self) -> None:
        """Cancel the measurements in progress; the next start repeats them."""
        self._serving = False
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wanted(self) -> bool:
        return self._settings.current.benchmark.after_training and bool(self._benchmark.suites())

    def _spawn(self, adapter_id: UUID, full: bool = False) -> None:
        task = asyncio.create_task(self._measured(adapter_id, full), name=f"gate {adapter_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _measured(self, adapter_id: UUID, full: bool) -> None:
        try:
            await self.evaluate(adapter_id, full=full)
        except TmdeError as error:
            log.warning("gate.not_measured", adapter=str(adapter_id), error=error.detail)
            problem = error.detail
        except Exception as error:  # a user who waits for the gate must be notified
            log.exception("gate.not_measured", adapter=str(adapter_id))
            problem = f"An unexpected {type(error).__name__}; the log has it. Measure the adapter again."
        else:
            return
        await self._notifications.notify(
            "benchmark.gate_failed",
            "warning",
            f"Adapter {await self._lora.find_full_name(adapter_id)} could not be measured",
            problem,
            PAGE,
            adapter_id,
        )

    # ------------------------------------------------------------------------------------ deciding

    async def begin(self, adapter_id: UUID, full: bool = False) -> None:
        """Measure an adapter and decide about it, in the background; a notification reports the result.

        Raises:
            NotFoundError: The adapter does not exist.
        """
        await self._lora.get(adapter_id)
        self._spawn(adapter_id, full)

    async def evaluate(
        self, adapter_id: UUID, by: Callable[[BenchmarkRun], None] | None = None, full: bool = False
    ) -> GateDecision:
        """Measure an adapter and decide about it, without activating the adapter for the measurement.

        Args:
            by: Called with each benchmark run that is started, so that the caller can show progress.
            full: Run the full benchmark (all questions, twice) instead of the ten quick questions.

        Raises:
            NotFoundError: The adapter does not exist.
            ConflictError: The adapter's base model is not the Proposer's base model.
            AdapterInvalidError: The adapter's files are damaged.
            WorkerFailedError: A benchmark failed or was cancelled.
        """
        async with self._one:
            active = self._lora.get_active_ref()
            base = await self._run(make_plan(full, base=True), None, by)
            now: BenchmarkRun | None = None
            if active is not None and active.id != str(adapter_id):
                now = await self._run(make_plan(full, adapter_id=UUID(active.id)), UUID(active.id), by)
            new = await self._run(make_plan(full, adapter_id=adapter_id), adapter_id, by)
            against_base = await self._benchmark.compare(base.id, new.id)
            against_active = await self._benchmark.compare(now.id, new.id) if now else None
            gate, reason = decide(against_base, against_active)
            decision = GateDecision(
                adapter_id=adapter_id,
                at=utc_now(),
                gate=gate,
                reason=reason,
                run_id=new.id,
                base_run_id=base.id,
                active_run_id=now.id if now else None,
                activated=await self._act(adapter_id, gate, reason),
            )
            await self._store.add_decision(decision)
        await self._publish(
            BenchmarkDecided(adapter_id=adapter_id, gate=gate, reason=reason, activated=decision.activated)
        )
        return decision

    async def _run(
        self, plan: BenchmarkPlan, adapter_id: UUID | None, by: Callable[[BenchmarkRun], None] | None
    ) -> BenchmarkRun:
        """Return a completed run of the plan: an earlier run that asked the same in the same way, or a new run."""
        run = await self._begin(plan, adapter_id)
        if run.status == "completed":
            return run
        if by is not None:
            by(run)
        run = await self._benchmark.wait(run.id)
        if run.status != "completed":
            raise WorkerFailedError(
                f"The benchmark {run.id} of the gate was not completed: {run.error_message or run.status}. "
                "Measure the adapter again."
            )
        return run

    async def _begin(self, plan: BenchmarkPlan, adapter_id: UUID | None) -> BenchmarkRun:
        """Return an earlier matching run, or start a new run once no other benchmark is running in this process.

        The loop checks for an earlier run again after each wait, because the other benchmark can be the matching run,
        resumed.
        """
        while True:
            if (earlier := await self._benchmark.find_reusable(plan, adapter_id)) is not None:
                return earlier
            try:
                return await self._benchmark.start(plan, triggered_by="post-finetune")
            except ConflictError:
                other = self._benchmark.get_running()
                if other is None:
                    raise
                await self._benchmark.wait(other.id)

    async def _act(self, adapter_id: UUID, gate: DecidedStatus, reason: str) -> bool:
        await self._lora.set_gate(adapter_id, gate, reason)
        if gate != "proven" or not self._settings.current.benchmark.auto_activate:
            return False
        try:
            await self._lora.activate(adapter_id, by="gate")
        except TmdeError as error:  # the measurement and the decision are still valid
            log.warning("gate.not_activated", adapter=str(adapter_id), error=error.detail)
            await self._notifications.notify(
                "benchmark.not_activated",
                "warning",
                "A proven adapter could not be activated",
                error.detail,
                PAGE,
                adapter_id,
            )
            return False
        return True

    # ------------------------------------------------------------------------------------ schedule

    async def run_scheduled(self, due: datetime) -> ScheduleOutcome:
        """Start a benchmark of the active model in the background; `after_schedule` acts on the result."""
        if (other := self._benchmark.get_running()) is not None:
            return ScheduleOutcome("skipped", f"A benchmark is running ({other.id}).")
        run = await self._benchmark.start(make_plan(), triggered_by="scheduled")
        task = asyncio.create_task(self._watched(run), name=f"scheduled benchmark {run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        started = f"The quick benchmark of {due:%Y-%m-%d %H:%M} UTC was started."
        return ScheduleOutcome("started", started, str(run.id))

    async def _watched(self, run: BenchmarkRun) -> None:
        try:
            await self.after_schedule(await self._benchmark.wait(run.id))
        except TmdeError as error:
            log.warning("gate.schedule_not_judged", run=str(run.id), error=error.detail)

    async def after_schedule(self, run: BenchmarkRun) -> None:
        """Roll back the active adapter if it is significantly worse than the base model, and report a failed run.

        If `benchmark.auto_rollback` is off, only a notification reports that the active adapter is worse.
        """
        if run.status == "failed":
            why = run.error_message or "The log has the reason."
            title = "The scheduled benchmark was not completed"
            await self._notifications.notify(
                "benchmark.schedule_failed", "warning", title, why, f"{PAGE}/{run.id}", run.id
            )
        if run.status != "completed" or run.adapter_id is None:
            return
        base = await self._run(make_plan(base=True), None, None)
        found = await self._benchmark.compare(base.id, run.id)
        gate, reason = decide(found, None)
        active = self._lora.get_active_ref()
        if gate != "held-back" or active is None or active.id != str(run.adapter_id):
            return
        name = await self._lora.find_full_name(run.adapter_id)
        await self._lora.set_gate(run.adapter_id, "held-back", reason)
        if not self._settings.current.benchmark.auto_rollback:
            await self._notifications.notify(
                "benchmark.active_worse",
                "error",
                f"The active adapter {name} is worse",
                f"{reason} Roll it back.",
                PAGE,
                run.adapter_id,
            )
            return
        back = await self._lora.rollback(by="gate")
        where = f"adapter {full_name(back.id, back.name)}" if back else "the base model"
        await self._notifications.notify(
            "benchmark.rolled_back", "error", f"Adapter {name} was rolled back to {where}", reason, PAGE, run.adapter_id
        )


def make_plan(full: bool = False, **whom: Any) -> BenchmarkPlan:
    """Return the gate's benchmark plan, which asks the Proposer alone.

    Args:
        full: Plan the full benchmark instead of the quick one.
        **whom: The fields of `BenchmarkPlan` that select the adapter or the base model.
    """
    return BenchmarkPlan(type="full" if full else "quick", mode="proposer", repeats=None if full else REPEATS, **whom)


def decide(against_base: RunComparison, against_active: RunComparison | None) -> tuple[DecidedStatus, str]:
    """Return the gate's decision about an adapter and the reason in one sentence."""
    rivals = [("the base model", against_base)]
    if against_active is not None:
        rivals.append(("the active adapter", against_active))
    for name, found in rivals:
        if found.quality.outcome == "worse":
            return "held-back", f"It is worse than {name}: {_words(found)}."
    for name, domain, p in _fallen(rivals):
        change = domain.quality.difference or 0.0
        where = f"in {domain.domain} ({change:+.1f} points of 10, {p_words(p)})"
        return "held-back", f"It is significantly worse than {name} {where}."
    name, rival = rivals[-1]
    if rival.quality.outcome == "better":
        return "proven", f"It is better than {name}: {_words(rival)}."
    return "candidate", f"It cannot be told from {name} yet: {_words(rival)}."


def _fallen(rivals: Sequence[tuple[str, RunComparison]]) -> Iterator[tuple[str, DomainComparison, float]]:
    """Yield each domain that became worse against a rival, with the adjusted p-value.

    Holm's method adjusts the p-values for the number of domains and rivals that are compared.
    """
    looks = [(name, domain) for name, found in rivals for domain in found.domains if domain.quality.p is not None]
    adjusted = adjust_holm([domain.quality.p for _, domain in looks if domain.quality.p is not None])
    for (name, domain), p in zip(looks, adjusted, strict=True):
        told = domain.quality
        if told.outcome == "worse" == decide_outcome(told.low, told.high, p):
            yield name, domain, p


def _words(found: RunComparison) -> str:
    quality = found.quality
    if quality.difference is None:
        return "no question has a verdict in both runs"
    if quality.difference == quality.low == quality.high == 0:
        return f"no difference in any of {quality.n} questions"
    interval = f", 95 % interval {quality.low:+.1f} to {quality.high:+.1f}" if quality.low is not None else ""
    return f"{quality.difference:+.1f} points of 10 over {quality.n} questions{interval}{chance_words(quality)}"
