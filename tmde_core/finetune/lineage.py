"""Who learned from what: trace → runs and adapters. The other way is in the run's rows and the adapter's manifest."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from uuid import UUID

from tmde_core.errors import NotFoundError
from tmde_core.finetune.store import RunStore
from tmde_core.lora.files.store import AdapterStore
from tmde_core.records.finetune import TraceLineage
from tmde_core.records.lora import Manifest
from tmde_core.traces.store import TraceStore


class LineageService:
    """Answers from the records of runs, and from the manifests of adapters, which may have come from elsewhere."""

    def __init__(self, traces: TraceStore, runs: RunStore, adapters: AdapterStore) -> None:
        self._traces = traces
        self._runs = runs
        self._adapters = adapters

    async def of_trace(self, trace_id: UUID) -> TraceLineage:
        """The runs that were given a trace, oldest first, and the adapters that learned from it.

        Raises:
            NotFoundError: no such trace.
        """
        if not await self._traces.has(trace_id):
            raise NotFoundError(f"There is no trace with the id '{trace_id}'.")
        return await self.taught(trace_id)

    async def taught(self, trace_id: UUID) -> TraceLineage:
        """As `of_trace`, of a trace that may be gone."""
        runs = await self._runs.given(trace_id)
        # What a run trained has its id. It counts although it was deleted: somebody may have exported it.
        adapters = dict.fromkeys(run for run, status in runs if status == "completed")
        manifests = await asyncio.to_thread(self._adapters.manifests)
        given = {str(run) for run, _ in runs}
        adapters |= dict.fromkeys(one.id for one in manifests if _taught(one, str(trace_id), given))
        return TraceLineage(trace_id=trace_id, runs=tuple(run for run, _ in runs), adapters=tuple(adapters))


def _taught(manifest: Manifest, trace_id: str, runs: Container[str]) -> bool:
    """Whether an adapter says that it learned from the trace, or came from one of the runs that were given it."""
    listed, run_id = manifest.lineage.get("traceIds"), manifest.lineage.get("runId")
    return (isinstance(listed, list) and trace_id in listed) or (isinstance(run_id, str) and run_id in runs)
