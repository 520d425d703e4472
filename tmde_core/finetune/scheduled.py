"""What happens when training comes due: a run, or the reason why not."""

from __future__ import annotations

from datetime import datetime

from tmde_core.finetune.service import FineTuneService
from tmde_core.schedule.service import Verdict
from tmde_core.traces.service import TraceService


class ScheduledTraining:
    """Decides for the schedule `finetune`."""

    def __init__(self, finetune: FineTuneService, traces: TraceService) -> None:
        self._finetune = finetune
        self._traces = traces

    async def decide(self, due: datetime) -> Verdict:
        """Start a run, or say why not: one is in progress, or too few new traces came since the last successful one."""
        raise NotImplementedError
