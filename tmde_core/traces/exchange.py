"""Exports and imports traces as JSON Lines.

Each line holds one trace. `query` and `finalAnswer` are required; any other field of a trace is optional. An exported
line holds all fields, so that a later import restores the trace unchanged. Memory use does not grow with the size of
the file.
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
"""The longest line that is read.

A debate of ten long rounds takes a tenth of this size; a longer line is not a trace.
"""

BATCH_TRACES = 500
"""The number of traces per transaction: large enough to be fast, small enough that other writers hardly wait."""

BATCH_BYTES = 4_000_000
"""A batch also ends at this size, so that its memory is bounded."""

MAX_REPORTED = 10_000
"""The number of skipped lines that are reported one by one; `skipped_total` counts all of them."""

Text = Annotated[str, Meta(min_length=1)]
Name = Annotated[str, Meta(max_length=60)]


class LineRound(Record):
    """A round in a line; only the proposal is required."""

    proposal: str
    number: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    """The number of the round; if missing, the round's place in the list."""
    critique: Critique | None = None
    critique_text: str = ""
    proposer_ms: Annotated[float, Meta(ge=0)] = 0.0
    skeptic_ms: Annotated[float, Meta(ge=0)] = 0.0


class TraceLine(Record):
    """One line of a trace file."""

    query: Text
    final_answer: Text
    id: UUID | None = None
    created_at: datetime | None = None
    domain: Name | None = None
    rounds: tuple[LineRound, ...] = ()
    early_stopped: bool = False
    stop_reason: str = ""
    quality_score: Score | None = None
    """Becomes the judge's score, with the judge `import`, if the line has no `auto_score`."""
    auto_score: Score | UnsetType | None = UNSET
    judge: Name | None = None
    score_reasons: tuple[str, ...] = ()
    user_rating: Rating | None = None
    corrected_answer: str | None = None
    withdrawn_at: datetime | None = None
    withdrawn_reason: str | None = None
    models: dict[str, RoleModel | str] = msgspec.field(default_factory=dict)
    """Maps each role to its model; a plain text is the model's name."""
    adapter_id: str | None = None
    templates_used: tuple[str, ...] = ()
    timings: Timings = Timings()
    tokens: TokenCounts = TokenCounts()
    source: Annotated[str, Meta(min_length=1, max_length=40)] = "import"

    def trace(self) -> Trace:
        """Return the trace that this line describes.

        Raises:
            InvalidInputError: A required text is blank, two rounds have the same number, or a time cannot be expressed
                in UTC.
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
        del told["quality_score"]  # a trace derives its quality score from `auto_score` and `user_rating`
        told |= {
            "id": self.id or uuid4(),
            "created_at": in_utc(self.created_at, "createdAt") or utc_now(),
            "rounds": tuple(sorted(rounds, key=lambda round_: round_.number)),
            "auto_score": auto_score,
            "corrected_answer": self.corrected_answer if (self.corrected_answer or "").strip() else None,
            "judge": self.judge if scored or auto_score is None else "import",
            "withdrawn_at": in_utc(self.withdrawn_at, "withdrawnAt"),
            "models": {
                role: model if isinstance(model, RoleModel) else RoleModel(runtime="", model=model)
                for role, model in self.models.items()
            },
        }
        return Trace(**told)


def in_utc(moment: datetime | None, field: str) -> datetime | None:
    """Return the time in UTC, cut to milliseconds as in the store; treat a time without a zone as UTC.

    Raises:
        InvalidInputError: The time in UTC lies outside the years 1 to 9999.
    """
    if moment is None:
        return None
    try:
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(f"{field}: is no time within the years 1 to 9999.", field=field) from None
    return aware.replace(microsecond=aware.microsecond // 1000 * 1000)


def to_line(trace: Trace) -> bytes:
    """Return one trace as a line, newline included."""
    fields: dict[str, Any] = {**msgspec.to_builtins(trace), "qualityScore": trace.quality_score}
    return to_json(fields) + b"\n"


def from_line(line: bytes) -> Trace:
    """Read the trace of one line.

    Raises:
        InvalidInputError: The line is not a valid trace. The error says in one sentence what is wrong.
    """
    if len(line) > MAX_LINE_BYTES:
        raise InvalidInputError(f"The line is longer than {MAX_LINE_BYTES:,} bytes.")
    return from_json(line, TraceLine).trace()


Entry = tuple[int, "Trace | str"]
"""A line's number, and its trace or the reason why it is not a trace."""


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split a stream of bytes into lines.

    An over-long line is cut just above the limit, so that the reader recognises the line as too long.
    """
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


async def read_entries(lines: AsyncIterator[bytes] | Iterable[bytes]) -> AsyncIterator[Entry]:
    """Yield the numbered lines as traces or reasons; skip blank lines."""
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
    """Import traces; see `TraceService.import_jsonl`."""
    return await import_entries(store, read_entries(lines))


async def import_entries(store: TraceStore, found: AsyncIterator[Entry]) -> ImportReport:
    """Store the traces, one batch per transaction, and report the reason for each skipped line."""
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
    """An import report under construction."""

    def __init__(self) -> None:
        self.imported = 0
        self._skipped: list[SkippedLine] = []
        self._total = 0

    def skip(self, line: int, reason: str) -> None:
        self._total += 1
        if len(self._skipped) < MAX_REPORTED:
            self._skipped.append(SkippedLine(line=line, reason=reason))

    def finished(self) -> ImportReport:
        # A duplicate is found only when its batch is written; later lines may have been skipped before that.
        in_order = tuple(sorted(self._skipped, key=lambda skipped: skipped.line))
        return ImportReport(imported=self.imported, skipped=in_order, skipped_total=self._total)


async def export_lines(store: TraceStore) -> AsyncIterator[bytes]:
    """Yield every trace as a line; see `TraceService.export_jsonl`."""
    place = 0
    while True:
        traces, place = await store.after(place, 100)
        if not traces:
            return
        for trace in traces:
            yield to_line(trace)
