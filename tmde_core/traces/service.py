"""Stores, lists, rates, withdraws, imports and exports traces."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from uuid import UUID

from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.records.finetune import TraceLineage
from tmde_core.records.traces import (
    Deletion,
    Eligibility,
    ImportReport,
    Trace,
    TraceFilter,
    TracePage,
    TraceStats,
    Withdrawal,
)
from tmde_core.settings import LiveSettings
from tmde_core.traces import exchange, original
from tmde_core.traces.store import PassedOver, Scored, TraceStore

MAX_LIMIT = 200
MAX_CORRECTED_BYTES = 64 * 1024
"""The longest corrected answer, which is used for training; a longer one fits no model's training window."""
MAX_REASON = 2_000
EVERYTHING = TraceFilter()

Taught = Callable[[UUID], Awaitable[TraceLineage]]
"""Returns the runs and adapters that were trained on a trace, even if the trace no longer exists."""

Traces = list[Trace]
Ids = list[UUID]
"""Aliases of `list` types, because the class below has a method called `list` that would hide the type."""


class TraceService:
    """Manages the traces of finished debates."""

    def __init__(self, store: TraceStore, settings: LiveSettings, taught: Taught) -> None:
        """Create the service on an open store.

        Args:
            taught: Returns the runs and adapters that were trained on a trace.
        """
        self._store = store
        self._taught = taught
        self._settings = settings

    @property
    def min_quality_score(self) -> float:
        """The lowest quality score that makes a trace eligible for training, from the training configuration."""
        return self._settings.current.finetune.min_quality_score

    @property
    def eligibility(self) -> Eligibility:
        """Which traces the training configuration of the settings would use."""
        return self._settings.current.finetune.eligibility

    async def add(self, trace: Trace) -> None:
        """Store a finished debate with its rounds, either completely or not at all.

        Raises:
            ConflictError: A trace with this id exists.
            InvalidInputError: The database rejects a value of the trace.
        """
        try:
            await self._store.add(trace)
        except sqlite3.IntegrityError as error:
            if "UNIQUE" not in str(error):
                raise InvalidInputError(f"The trace {trace.id} cannot be kept: {error}.") from error
            raise ConflictError(f"There is a trace with the id {trace.id} already.") from None

    async def get(self, trace_id: UUID) -> Trace:
        """Return one trace with its rounds.

        Raises:
            NotFoundError: No trace has this id.
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
        """Return a page of traces, newest first.

        Raises:
            InvalidInputError: `limit` is not within 1–200, or `cursor` is not a cursor of this list.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidInputError(
                f"limit: must be a whole number from 1 to {MAX_LIMIT}.", field="limit", minimum=1, maximum=MAX_LIMIT
            )
        items, total, more = await self._store.page(filter, self.eligibility, limit, cursor)
        return TracePage(items=tuple(items), total=total, next_cursor=more)

    async def rate(self, trace_id: UUID, rating: int, corrected_answer: str | None = None) -> Trace:
        """Store a person's rating of the answer; a later rating replaces an earlier one.

        Args:
            rating: 1–10.
            corrected_answer: The correct answer, which training uses instead of the original. None keeps an earlier
                correction; blank text removes it.

        Raises:
            NotFoundError: The trace does not exist.
            InvalidInputError: The rating is out of range, or the corrected answer is too long.
        """
        if not 1 <= rating <= 10:
            raise InvalidInputError(
                "rating: must be a whole number from 1 to 10.", field="rating", minimum=1, maximum=10
            )
        _check_length(corrected_answer)
        if not await self._store.rate(trace_id, rating, corrected_answer):
            raise NotFoundError(f"There is no trace with the id '{trace_id}'.")
        return await self.get(trace_id)

    async def correct(self, trace_id: UUID, corrected_answer: str) -> Trace:
        """Store a person's correction, which is trained on whatever the score of the original answer.

        The answer gets no rating: a correction says what the right answer is, not how good the wrong one was.

        Args:
            corrected_answer: The correct answer. Blank text removes an earlier correction.

        Raises:
            NotFoundError: The trace does not exist.
            InvalidInputError: The corrected answer is too long.
        """
        _check_length(corrected_answer)
        if not await self._store.correct(trace_id, corrected_answer):
            raise NotFoundError(f"There is no trace with the id '{trace_id}'.")
        return await self.get(trace_id)

    async def withdraw(self, trace_id: UUID, reason: str) -> Withdrawal:
        """Exclude a trace from all future training, and return the runs and adapters that were trained on the trace.

        If the trace is already withdrawn, nothing changes and the first reason is kept.

        Raises:
            NotFoundError: The trace does not exist.
            InvalidInputError: The reason is blank or longer than 2,000 characters.
        """
        if not reason.strip() or len(reason) > MAX_REASON:
            raise InvalidInputError(
                f"reason: say in 1 to {MAX_REASON:,} characters why the trace is withdrawn.", field="reason"
            )
        await self.get(trace_id)
        await self._store.withdraw(trace_id, reason.strip())
        taught = await self._taught(trace_id)
        return Withdrawal(trace=await self.get(trace_id), runs=taught.runs, adapters=taught.adapters)

    async def delete(self, trace_ids: Sequence[UUID]) -> Deletion:
        """Delete traces with everything that belongs to them. This cannot be undone.

        Adapters that learned from a trace keep what they learned. The result names them.

        Args:
            trace_ids: 1–200 ids.

        Raises:
            InvalidInputError: There are no ids or too many.
            NotFoundError: One of the traces does not exist; nothing is deleted then.
        """
        wanted = list(dict.fromkeys(trace_ids))
        if not 1 <= len(wanted) <= MAX_LIMIT:
            raise InvalidInputError(f"ids: name 1 to {MAX_LIMIT} traces.", field="ids", minimum=1, maximum=MAX_LIMIT)
        missing = await self._store.delete(wanted)
        if missing is not None:
            raise NotFoundError(f"There is no trace with the id '{missing}'; nothing was deleted.")
        taught = [await self._taught(one) for one in wanted]
        return Deletion(
            deleted=tuple(wanted),
            runs=tuple(dict.fromkeys(run for one in taught for run in one.runs)),
            adapters=tuple(dict.fromkeys(adapter for one in taught for adapter in one.adapters)),
        )

    async def stats(self) -> TraceStats:
        """Return figures of the whole store."""
        return await self._store.stats(self.eligibility)

    async def list_eligible(self, eligibility: Eligibility) -> Traces:
        """Return every trace that may be used for training, oldest first.

        Such a trace has a sufficient score or a correction, is not withdrawn, and does not come from a benchmark. Its
        answer is whole, or a person has rated or corrected it, or cut answers are wanted.
        """
        return await self._store.eligible(eligibility)

    async def list_withdrawn(self, min_quality: float) -> Ids:
        """Return the ids of the withdrawn traces that are otherwise good enough for training, oldest first."""
        return await self._store.withdrawn(min_quality)

    async def count_ineligible(self, which: PassedOver, min_quality: float, limit: int) -> tuple[int, Sequence[Scored]]:
        """Return the number of traces that training never considers, and the best of them.

        Args:
            which: Select traces with too low a score and no correction, traces that come from a benchmark, or traces whose
                answer was cut off and not rated or corrected by a person.
            min_quality: The lowest score that is sufficient for training.
            limit: The largest number of traces to return.
        """
        return await self._store.passed_over(which, min_quality, limit)

    async def import_jsonl(
        self, lines: AsyncIterator[bytes] | Iterable[bytes], *, copies: bool = False
    ) -> ImportReport:
        """Import traces, one JSON object per line; report each line that is not imported and store nothing of it.

        A trace that is already here is not imported again: one with the same id, or with the same question and answer if
        the line has no id.

        Args:
            copies: Store copies of traces that are already here.
        """
        return await exchange.import_lines(self._store, lines, copies=copies)

    def export_jsonl(self) -> AsyncIterator[bytes]:
        """Yield every trace as one line of JSON, in the order in which the traces were stored."""
        return exchange.export_lines(self._store)

    async def import_sqlite(self, path: Path, *, copies: bool = False) -> ImportReport:
        """Import the traces from the original project's SQLite file, which is opened read-only.

        Args:
            copies: Store copies of traces that are already here.

        Raises:
            NotFoundError: The file does not exist.
            InvalidInputError: The file is not an SQLite file, or not a file of that project.
        """
        return await exchange.import_entries(self._store, original.entries(path), copies=copies)


def _check_length(corrected_answer: str | None) -> None:
    if corrected_answer is not None and len(corrected_answer.encode("utf-8", "replace")) > MAX_CORRECTED_BYTES:
        raise InvalidInputError(
            f"correctedAnswer: must be at most {MAX_CORRECTED_BYTES // 1024} KiB long.",
            field="correctedAnswer",
            limit=MAX_CORRECTED_BYTES,
        )
