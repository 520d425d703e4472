"""Find the pairs of runs that a person may want to compare. Nothing here draws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from tmde_core.benchmark.service import BenchmarkService
from tmde_core.records.base import Record
from tmde_core.records.benchmark import BenchmarkRun, RunComparison, SeriesPoint
from tmde_core.records.lora import LoRAActivationEvent
from tmde_ui.kit.names import name_of

KEPT = 32
"""Number of comparisons in the cache. Computing one takes half a second of one core."""

SWITCHES = ("activate", "rollback", "deactivate")


class Pair(Record):
    """Run B next to run A."""

    key: str
    title: str
    b: UUID
    a: UUID | None = None
    """None if run B is shown alone."""


class Comparisons:
    """Caches comparisons of ended runs for all open pages. These comparisons never change."""

    def __init__(self, benchmark: BenchmarkService) -> None:
        self._benchmark = benchmark
        self._found: OrderedDict[tuple[UUID, UUID], RunComparison] = OrderedDict()

    async def of(self, a: UUID, b: UUID) -> RunComparison:
        """Compare run B with run A, question by question.

        Raises:
            NotFoundError: a run does not exist.
            ConflictError: one of the runs is not completed.
        """
        found = self._found.get((a, b))
        if found is None:
            found = await self._benchmark.compare(a, b)
            self._found[a, b] = found
            while len(self._found) > KEPT:
                self._found.popitem(last=False)
        return found


class ActivationPair(Record):
    """The activation of an adapter, with one run before and one run after the activation."""

    event: LoRAActivationEvent
    before: SeriesPoint
    after: SeriesPoint

    @property
    def pair(self) -> Pair:
        """The pair of both runs."""
        event = self.event
        title = f"before {name_of(event.adapter_id)} replaced {name_of(event.previous_adapter_id)}"
        return Pair(f"switch-{event.id}", title, self.after.run_id, self.before.run_id)


def list_pairs(run: BenchmarkRun) -> list[Pair]:
    """Return the runs that this run is compared with by default."""
    found = []
    if run.previous_run_id is not None:
        found.append(Pair("previous", "the run before it", run.id, run.previous_run_id))
    if run.baseline_run_id is not None and run.baseline_run_id != run.previous_run_id:
        found.append(Pair("baseline", "the base model", run.id, run.baseline_run_id))
    return [*found, Pair("alone", "nothing (this run only)", run.id)]


def switches(events: Sequence[LoRAActivationEvent], series: Sequence[SeriesPoint]) -> list[ActivationPair]:
    """Return the activations that have a run before and a run after, both of the same type and mode.

    The run after is the first run of the new adapter since the activation. Without such a run, it is the newest run
    of the new adapter, because the gate measures an adapter before activating it. The run before is the last run of
    the replaced version up to the activation, or else its first run since then.

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
                found.append(ActivationPair(event, earlier[-1] if earlier else before[0], one))
                break
    return found
