"""Traces as JSON Lines: out, and in again.

One line is one trace. `query` and `finalAnswer` are required; everything else that a trace holds may stand there, and
what is exported holds all of it, so that it imports again unchanged. Memory stays constant however long a file is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record, from_json, to_json, utc_now
from tmde_core.records.debate import Critique, Round
from tmde_core.records.traces import (
    ImportReport,
    Rating,
    RoleModel,
    Score,
    SkippedLine,
    Timings,
    TokenCounts,
    Trace,
)
from tmde_core.traces.store import TraceStore

MAX_LINE_BYTES = 1_000_000
"""A debate of ten long rounds is a tenth of this; a longer line is something else."""

BATCH_TRACES = 500
"""Traces in one transaction: long enough to be fast, short enough that other writers hardly wait."""

BATCH_BYTES = 4_000_000
"""A batch also ends here, so that its memory is bounded."""

MAX_REPORTED = 10_000
"""So many left-out lines are reported one by one; `skipped_total` counts the rest."""

Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(max_length=60)]


class LineRound(Record):
    """A round in a line; only the proposal is required."""

    proposal: str
    number: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    """Left out: the place in the list."""
    critique: Critique | None = None
    critique_text: str = ""
    proposer_ms: Annotated[float, Meta(ge=0)] = 0.0
    skeptic_ms: Annotated[float, Meta(ge=0)] = 0.0


class TraceLine(Record):
    """One line of a file of traces."""

    query: Text
    final_answer: Text
    id: UUID | None = None
    created_at: datetime | None = None
    domain: Name | None = None
    rounds: tuple[LineRound, ...] = ()
    early_stopped: bool = False
    stop_reason: str = ""
    quality_score: Score | None = None
    """Becomes the judge's score, with the judge `import`, where the line has no `auto_score` of its own."""
    auto_score: Score | UnsetType | None = UNSET
    judge: Name | None = None
    score_reasons: tuple[str, ...] = ()
    user_rating: Rating | None = None
    corrected_answer: str | None = None
    withdrawn_at: datetime | None = None
    withdrawn_reason: str | None = None
    models: dict[str, RoleModel | str] = msgspec.field(default_factory=dict)
    """Role → model; a plain text is the model's name."""
    adapter_id: str | None = None
    templates_used: tuple[str, ...] = ()
    timings: Timings = Timings()
    tokens: TokenCounts = TokenCounts()
    source: Annotated[str, Meta(min_length=1, max_length=40)] = "import"

    def trace(self) -> Trace:
        """The trace that this line tells of.

        Raises:
            InvalidInputError: blank texts, doubled round numbers, or a time that cannot be told in UTC.
        """
        for name, text in (("query", self.query), ("finalAnswer", self.final_answer)):
            if not text.strip():
                raise InvalidInputError(f"{name}: must not be blank.", field=name)
        rounds = tuple(
            Round(**{**msgspec.structs.asdict(round_), "number": round_.number or place})
            for place, round_ in enumerate(self.rounds, 1)
        )
        if len({round_.number for round_ in rounds}) != len(rounds):
            raise InvalidInputError("rounds: two rounds have the same number.", field="rounds")
        scored = self.auto_score is not UNSET
        auto_score = self.quality_score if self.auto_score is UNSET else self.auto_score
        told = msgspec.structs.asdict(self)
        del told["quality_score"]  # is told by `auto_score` and `user_rating`
        told |= {
            "id": self.id or uuid4(),
            "created_at": in_utc(self.created_at, "createdAt") or utc_now(),
            "rounds": tuple(sorted(rounds, key=lambda round_: round_.number)),
            "auto_score": auto_score,
            "judge": self.judge if scored or auto_score is None else "import",
            "withdrawn_at": in_utc(self.withdrawn_at, "withdrawnAt"),
            "models": {
                role: model if isinstance(model, RoleModel) else RoleModel(runtime="", model=model)
                for role, model in self.models.items()
            },
        }
        return Trace(**told)


def in_utc(moment: datetime | None, field: str) -> datetime | None:
    """In UTC, cut to milliseconds as the store holds it; a time without zone is taken for UTC.

    Raises:
        InvalidInputError: outside the years 1 to 9999 once it is in UTC.
    """
    if moment is None:
        return None
    try:
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(f"{field}: is no time within the years 1 to 9999.", field=field) from None
    return aware.replace(microsecond=aware.microsecond // 1000 * 1000)


def to_line(trace: Trace) -> bytes:
    """One trace as a line, newline included."""
    fields: dict[str, Any] = {**msgspec.to_builtins(trace), "qualityScore": trace.quality_score}
    return to_json(fields) + b"\n"


def from_line(line: bytes) -> Trace:
    """Read one line.

    Raises:
        InvalidInputError: what is wrong with it, in a sentence.
    """
    if len(line) > MAX_LINE_BYTES:
        raise InvalidInputError(f"The line is longer than {MAX_LINE_BYTES:,} bytes.")
    return from_json(line, TraceLine).trace()


Entry = tuple[int, "Trace | str"]
"""A line's number, and its trace or why it has none."""


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream of bytes into lines; of an over-long line only as much is kept as shows that it is too long."""
    rest, dropping = b"", False
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not dropping:
                yield line
            dropping = False
        if dropping:
            rest = b""
        elif len(rest) > MAX_LINE_BYTES:
            yield rest[: MAX_LINE_BYTES + 1]
            rest, dropping = b"", True
    if rest and not dropping:
        yield rest


async def _each(lines: AsyncIterator[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(lines, AsyncIterator):
        async for line in lines:
            yield line
    else:
        for line in lines:
            yield line


async def entries(lines: AsyncIterator[bytes] | Iterable[bytes]) -> AsyncIterator[Entry]:
    """Number and read the lines; blank ones are passed over."""
    number = 0
    async for line in _each(lines):
        number += 1
        text = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
        if text:
            try:
                yield number, from_line(text)
            except InvalidInputError as error:
                yield number, error.detail


async def import_lines(store: TraceStore, lines: AsyncIterator[bytes] | Iterable[bytes]) -> ImportReport:
    """See `TraceService.import_jsonl`."""
    return await import_entries(store, entries(lines))


async def import_entries(store: TraceStore, found: AsyncIterator[Entry]) -> ImportReport:
    """Keep the traces, a batch a transaction; say of each line that was left out why."""
    report = _Report()
    batch: list[tuple[int, Trace]] = []
    size = 0
    async for number, outcome in found:
        if isinstance(outcome, str):
            report.skip(number, outcome)
            continue
        batch.append((number, outcome))
        size += len(outcome.query) + len(outcome.final_answer) + sum(len(round_.proposal) for round_ in outcome.rounds)
        if len(batch) >= BATCH_TRACES or size >= BATCH_BYTES:
            await _keep(store, batch, report)
            batch, size = [], 0
    await _keep(store, batch, report)
    return report.finished()


async def _keep(store: TraceStore, batch: list[tuple[int, Trace]], report: _Report) -> None:
    if not batch:
        return
    kept = await store.add_new([trace for _, trace in batch])
    for (number, trace), new in zip(batch, kept, strict=True):
        if not new:
            report.skip(number, f"There is a trace with the id {trace.id} already.")
    report.imported += sum(kept)


class _Report:
    """An import report in the making."""

    def __init__(self) -> None:
        self.imported = 0
        self._skipped: list[SkippedLine] = []
        self._total = 0

    def skip(self, line: int, reason: str) -> None:
        self._total += 1
        if len(self._skipped) < MAX_REPORTED:
            self._skipped.append(SkippedLine(line=line, reason=reason))

    def finished(self) -> ImportReport:
        # A duplicate is found only when its batch is written, after later lines were refused already.
        in_order = tuple(sorted(self._skipped, key=lambda skipped: skipped.line))
        return ImportReport(imported=self.imported, skipped=in_order, skipped_total=self._total)


async def export_lines(store: TraceStore) -> AsyncIterator[bytes]:
    """See `TraceService.export_jsonl`."""
    place = 0
    while True:
        traces, place = await store.after(place, 100)
        if not traces:
            return
        for trace in traces:
            yield to_line(trace)
