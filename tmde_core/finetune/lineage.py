"""Who learned from what: trace → runs and adapters; run and adapter → traces."""

from __future__ import annotations

from uuid import UUID

from tmde_core.finetune.records import TraceLineage
from tmde_core.storage.database import Database


class LineageService:
    """Answers from the records alone."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def of_trace(self, trace_id: UUID) -> TraceLineage:
        """The runs and adapters that learned from a trace.

        Raises:
            NotFoundError: no such trace.
        """
        raise NotImplementedError
