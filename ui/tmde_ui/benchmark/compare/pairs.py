"""Which two runs a person may want side by side. Nothing here draws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from tmde_core.benchmark.service import BenchmarkService
from tmde_core.records.base import Record
from tmde_core.records.benchmark import BenchmarkRun, RunComparison, SeriesPoint
from tmde_core.records.lora import LoRAActivationEvent
from tmde_ui.benchmark.words import answerer

KEPT = 32
"""Comparisons that are remembered; each takes half a second of one core."""

SWITCHES = ("activate", "rollback", "deactivate")


class Pair(Record):
    """Run B beside run A."""

    key: str
    title: str
    b: UUID
    a: UUID | None = None
    """None: B alone."""


class Comparisons:
    """Comparisons of ended runs, remembered for every open page: they never change."""

    def __init__(self, benchmark: BenchmarkService) -> None:
        self._benchmark = benchmark
        self._found: OrderedDict[tuple[UUID, UUID], RunComparison] = OrderedDict()

    async def of(self, a: UUID, b: UUID) -> RunComparison:
        """B against A, question by question.

        Raises:
            NotFoundError: no such run.
            ConflictError: one of them has not been completed.
        """
        found = self._found.get((a, b))
        if found is None:
            found = await self._benchmark.compare(a, b)
            self._found[a, b] = found
            while len(self._found) > KEPT:
                self._found.popitem(last=False)
        return found


class Switch(Record):
    """An adapter that began to answer, and the runs that tell what that changed."""

    event: LoRAActivationEvent
    before: SeriesPoint
    after: SeriesPoint

    @property
    def pair(self) -> Pair:
        """Both runs."""
        event = self.event
        title = f"when {answerer(event.adapter_id)} replaced {answerer(event.previous_adapter_id)}"
        return Pair(f"switch-{event.id}", title, self.after.run_id, self.before.run_id)


def pairs_of(run: BenchmarkRun) -> list[Pair]:
    """What a run is held against by itself."""
    found = []
    if run.previous_run_id is not None:
        found.append(Pair("previous", "the run before it", run.id, run.previous_run_id))
    if run.baseline_run_id is not None and run.baseline_run_id != run.previous_run_id:
        found.append(Pair("baseline", "the base model", run.id, run.baseline_run_id))
    return [*found, Pair("alone", "nothing: this run alone", run.id)]


def switches(events: Sequence[LoRAActivationEvent], series: Sequence[SeriesPoint]) -> list[Switch]:
    """Activations with a run of what answered after and one of what answered before, of the same type and mode.

    After it the first run since then counts, else the newest (the gate measures before it activates); before it the last
    run until then, else the first since.

    Args:
        events: newest first.
        series: oldest first.
    """
    found = []
    for event in events:
        if not event.success or event.operation not in SWITCHES or event.adapter_id == event.previous_adapter_id:
            continue
        after = [point for point in series if point.adapter_id == event.adapter_id]
        later = [point for point in after if point.at >= event.timestamp]
        for one in (*later, *reversed([point for point in after if point.at < event.timestamp])):
            before = [
                point
                for point in series
                if point.adapter_id == event.previous_adapter_id and (point.type, point.mode) == (one.type, one.mode)
            ]
            earlier = [point for point in before if point.at <= event.timestamp]
            if before:
                found.append(Switch(event, earlier[-1] if earlier else before[0], one))
                break
    return found
