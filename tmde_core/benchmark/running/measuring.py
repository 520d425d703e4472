"""Computes a run's figures and outcomes after its questions are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from tmde_core.benchmark.questions.bank import QuestionBank
from tmde_core.benchmark.results import comparison
from tmde_core.benchmark.results.metrics import measure, percent_change
from tmde_core.benchmark.running.planning import comparable_hash
from tmde_core.benchmark.running.runner import Runner, measure_drift
from tmde_core.benchmark.store import BenchmarkStore
from tmde_core.records.benchmark import BenchmarkRun, RunComparison

UNSCORED_WARNING = "More than 10 % of the answers have no verdict, so this run decides nothing."
DRIFT_LIMIT = 1.0
"""The largest change of the judge's scores of the frozen answers, in points of 10; a larger change adds a warning."""


class Measuring:
    """Computes figures of runs and compares runs with each other."""

    def __init__(self, store: BenchmarkStore, bank: QuestionBank) -> None:
        self._store = store
        self._bank = bank

    async def compare(self, a: BenchmarkRun, b: BenchmarkRun) -> RunComparison:
        """Compare run B with run A and store the comparison."""
        found = await asyncio.to_thread(
            comparison.compare,
            a,
            b,
            await self._store.results(a.id),
            await self._store.results(b.id),
            await self._store.questions(b.id),
        )
        await self._store.keep_comparison(found)
        return found

    async def measure(self, run: BenchmarkRun, runner: Runner) -> None:
        """Compute and store the run's figures, measured against its baseline's reference, and its warnings.

        The frozen answers are scored again to measure how far the judge's scores have drifted.
        """
        baseline = await self._store.latest(comparable_hash(run), before=run.started_at, without=run.id)
        results = await self._store.results(run.id)
        moved = await self._judge_drift(runner)
        metrics = await asyncio.to_thread(
            measure,
            results,
            run.mode,
            runner.settings.benchmark.quality_weight,
            baseline.metrics.reference if baseline and baseline.metrics else None,
            moved,
        )
        warnings = list(run.warnings)
        if not metrics.conclusive:
            warnings.append(UNSCORED_WARNING)
        unheard = [result.error for result in results if result.error and result.status != "failed"]
        if unheard:
            warnings.append(
                f"The judge could not be asked about {len(unheard)} of {len(results)} answers ({unheard[0]}) "
                "There only the machine's checks count."
            )
        if moved is not None and moved > DRIFT_LIMIT:
            warnings.append(
                f"The judge has moved: it scores ten frozen answers {moved:.1f} points of 10 otherwise than at first. "
                "Earlier runs cannot be trusted to compare."
            )
        await self._store.update(msgspec.structs.replace(run, metrics=metrics, warnings=tuple(warnings)))

    async def _judge_drift(self, runner: Runner) -> float | None:
        anchors = self._bank.anchors()
        now = await runner.anchor_scores(anchors) if anchors else {}
        if not now:
            return None
        role = runner.settings.roles.judge
        judge = f"{runner.run.judge} {role.runtime} {role.model}"
        first = await self._store.anchors(judge)
        await self._store.keep_anchors(judge, now)
        return measure_drift(first or now, now)

    async def set_outcomes(self, run: BenchmarkRun) -> BenchmarkRun:
        """Return the run with its outcomes against the previous run and against the base model."""
        comparable = comparable_hash(run)
        baseline = await self._store.latest(comparable, before=run.started_at, without=run.id)
        previous = await self._store.latest(comparable, any_adapter=True, before=run.started_at, without=run.id)
        verdicts: dict[str, Any] = {}
        changes: dict[str, float | None] = {}
        for name, other in (("baseline", baseline), ("previous", previous)):
            if other is None:
                continue
            found = await self.compare(other, run)
            verdicts[f"verdict_vs_{name}"] = found.quality.outcome
            verdicts[f"{name}_run_id"] = other.id
            if run.metrics is not None and other.metrics is not None:
                changes[f"vs_{name}"] = percent_change(other.metrics.tmde_score, run.metrics.tmde_score)
        if run.metrics is not None:
            verdicts["metrics"] = msgspec.structs.replace(run.metrics, **changes)
        return msgspec.structs.replace(run, **verdicts)
