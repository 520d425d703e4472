"""Finds the runs and adapters that learned from a trace.

The opposite direction is stored in the rows of runs and in the manifests of adapters.
"""

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
    """Reads the records of runs and the manifests of adapters, including imported adapters."""

    def __init__(self, traces: TraceStore, runs: RunStore, adapters: AdapterStore) -> None:
        self._traces = traces
        self._runs = runs
        self._adapters = adapters

    async def find_by_trace(self, trace_id: UUID) -> TraceLineage:
        """Return the runs that received a trace, oldest first, and the adapters that learned from the trace.

        Raises:
            NotFoundError: the trace does not exist.
        """
        if not await self._traces.has(trace_id):
            raise NotFoundError(f"There is no trace with the id '{trace_id}'.")
        return await self.find_by_trace_id(trace_id)

    async def find_by_trace_id(self, trace_id: UUID) -> TraceLineage:
        """Return the same as `find_by_trace` for a trace that may have been deleted."""
        runs = await self._runs.given(trace_id)
        # An adapter has the id of its run. Deleted adapters count too, because a person may have exported them.
        adapters = dict.fromkeys(run for run, status in runs if status == "completed")
        manifests = await asyncio.to_thread(self._adapters.read_manifests)
        given = {str(run) for run, _ in runs}
        adapters |= dict.fromkeys(one.id for one in manifests if _taught(one, str(trace_id), given))
        return TraceLineage(trace_id=trace_id, runs=tuple(run for run, _ in runs), adapters=tuple(adapters))


def _taught(manifest: Manifest, trace_id: str, runs: Container[str]) -> bool:
    """Return whether an adapter's manifest lists the trace, or names one of the runs that received the trace."""
    listed, run_id = manifest.lineage.get("traceIds"), manifest.lineage.get("runId")
    return (isinstance(listed, list) and trace_id in listed) or (isinstance(run_id, str) and run_id in runs)
