"""Traces: kept, listed, rated, withdrawn, brought in and taken out."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from uuid import UUID

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.records.finetune import TraceLineage
from tmde_core.records.traces import ImportReport, Trace, TraceFilter, TracePage, TraceStats, Withdrawal
from tmde_core.settings import LiveSettings
from tmde_core.traces import exchange, original
from tmde_core.traces.store import PassedOver, Scored, TraceStore

MAX_LIMIT = 200
MAX_CORRECTED_BYTES = 64 * 1024
"""A corrected answer is trained on; nothing longer fits any model's training window."""
MAX_REASON = 2_000
EVERYTHING = TraceFilter()

Taught = Callable[[UUID], Awaitable[TraceLineage]]
"""Says which runs and adapters a trace has taught, whether the trace is still there or not."""

Traces = list[Trace]
Ids = list[UUID]
"""The class below has a method called `list`, which would hide the type."""


class TraceService:
    """The store of finished debates."""

    def __init__(self, store: TraceStore, settings: LiveSettings, taught: Taught) -> None:
        """Build it on an open store.

        Args:
            taught: which runs and adapters a trace has taught.
        """
        self._store = store
        self._taught = taught
        self._settings = settings

    @property
    def min_quality_score(self) -> float:
        """A trace that scores at least this is eligible for training. The training configuration says it."""
        return self._settings.current.finetune.min_quality_score

    async def add(self, trace: Trace) -> None:
        """Keep a finished debate, with its rounds, all or nothing.

        Raises:
            ConflictError: a trace with this id exists.
        """
        try:
            await self._store.add(trace)
        except sqlite3.IntegrityError as error:
            if "UNIQUE" not in str(error):
                raise InvalidInputError(f"The trace {trace.id} cannot be kept: {error}.") from error
            raise ConflictError(f"There is a trace with the id {trace.id} already.") from None

    async def get(self, trace_id: UUID) -> Trace:
        """One trace, with its rounds.

        Raises:
            NotFoundError: there is none.
        """
        found = await self._store.get(trace_id)
        if found is None:
            raise NotFoundError(f"There is no trace with the id '{trace_id}'.")
        return found

    async def list(
        self,
        filter: TraceFilter = EVERYTHING,  # noqa: A002 - the word for it; the builtin is not used here
        limit: int = 50,
        cursor: str | None = None,
    ) -> TracePage:
        """A page of traces, newest first.

        Raises:
            InvalidInputError: `limit` is not within 1–200, or `cursor` is not one of ours.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInputError(
                f"limit: must be a whole number from 1 to {MAX_LIMIT}.", field="limit", minimum=1, maximum=MAX_LIMIT
            )
        items, total, more = await self._store.page(filter, self.min_quality_score, limit, cursor)
        return TracePage(items=tuple(items), total=total, next_cursor=more)

    async def rate(self, trace_id: UUID, rating: int, corrected_answer: str | None = None) -> Trace:
        """Record what a person thinks of the answer; a later rating replaces an earlier one.

        Args:
            rating: 1–10.
            corrected_answer: what the answer should have been; trained on in its place. None leaves an earlier
                correction as it is, blank text takes it back.

        Raises:
            NotFoundError: no such trace.
            InvalidInputError: the rating is out of range or the corrected answer too long.
        """
        if not 1 <= rating <= 10:
            raise InvalidInputError(
                "rating: must be a whole number from 1 to 10.", field="rating", minimum=1, maximum=10
            )
        if corrected_answer is not None and len(corrected_answer.encode("utf-8", "replace")) > MAX_CORRECTED_BYTES:
            raise InvalidInputError(
                f"correctedAnswer: must be at most {MAX_CORRECTED_BYTES // 1024} KiB long.",
                field="correctedAnswer",
                limit=MAX_CORRECTED_BYTES,
            )
        if not await self._store.rate(trace_id, rating, corrected_answer):
            raise NotFoundError(f"There is no trace with the id '{trace_id}'.")
        return await self.get(trace_id)

    async def withdraw(self, trace_id: UUID, reason: str) -> Withdrawal:
        """Never train on this trace again, and name the runs and adapters that have learned from it.

        Withdrawing a withdrawn trace changes nothing: the first reason stands.

        Raises:
            NotFoundError: no such trace.
            InvalidInputError: no reason, or one of over 2,000 characters.
        """
        if not reason.strip() or len(reason) > MAX_REASON:
            raise InvalidInputError(
                f"reason: say in 1 to {MAX_REASON:,} characters why the trace is withdrawn.", field="reason"
            )
        await self.get(trace_id)
        await self._store.withdraw(trace_id, reason.strip())
        taught = await self._taught(trace_id)
        return Withdrawal(trace=await self.get(trace_id), runs=taught.runs, adapters=taught.adapters)

    async def stats(self) -> TraceStats:
        """Figures of the whole store."""
        return await self._store.stats(self.min_quality_score)

    async def eligible(self, min_quality: float) -> Traces:
        """Every trace that may be trained on, oldest first: good enough, not withdrawn, not of a benchmark."""
        return await self._store.eligible(min_quality)

    async def withdrawn(self, min_quality: float) -> Ids:
        """The traces that were good enough to train on before they were withdrawn, oldest first."""
        return await self._store.withdrawn(min_quality)

    async def passed_over(self, which: PassedOver, min_quality: float, limit: int) -> tuple[int, Sequence[Scored]]:
        """How many traces were never in question for training, for their score or because a benchmark asked, and the best of them."""
        return await self._store.passed_over(which, min_quality, limit)

    async def import_jsonl(self, lines: AsyncIterator[bytes] | Iterable[bytes]) -> ImportReport:
        """Take in traces, one JSON object a line; a line that cannot be taken is reported and leaves nothing behind."""
        return await exchange.import_lines(self._store, lines)

    def export_jsonl(self) -> AsyncIterator[bytes]:
        """Every trace as one line of JSON, in the order they were stored."""
        return exchange.export_lines(self._store)

    async def import_sqlite(self, path: Path) -> ImportReport:
        """Take in the traces of the original project's SQLite file, which is only read.

        Raises:
            NotFoundError: there is no such file.
            InvalidInputError: it is no SQLite file, or not one of that project.
        """
        return await exchange.import_entries(self._store, original.entries(path))
