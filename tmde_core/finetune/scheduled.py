"""Starts a training run at its scheduled time, or returns the reason for not starting one."""

from __future__ import annotations

from datetime import datetime

from tmde_core.errors import ConflictError, InsufficientTracesError
from tmde_core.finetune.service import FineTuneService
from tmde_core.records.schedule import ScheduleOutcome
from tmde_core.traces.service import TraceService


class ScheduledTraining:
    """Makes the decisions of the schedule `finetune`."""

    def __init__(self, finetune: FineTuneService, traces: TraceService) -> None:
        self._finetune = finetune
        self._traces = traces

    async def decide(self, _due: datetime) -> ScheduleOutcome:
        """Start a run, or return why none was started.

        No run starts if one is in progress, or if there are too few new traces since the last successful run.
        """
        run = await self._finetune.get_current()
        if run is not None:
            return ScheduleOutcome("skipped", f"The training run {run.id} is in progress.")
        needed = self._finetune.config().min_traces
        stats = await self._traces.stats()
        if stats.since_last_run < needed:
            return ScheduleOutcome(
                "skipped",
                f"{stats.since_last_run} good traces have come since the last successful run; {needed} are needed.",
            )
        try:
            started = await self._finetune.start(triggered_by="scheduled")
        except (ConflictError, InsufficientTracesError) as error:
            return ScheduleOutcome("skipped", error.detail)
        return ScheduleOutcome(
            "started",
            f"{stats.since_last_run} good traces have come since the last successful run.",
            str(started.id),
        )
