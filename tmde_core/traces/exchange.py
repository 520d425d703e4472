"""Exports and imports traces as JSON Lines.

Each line holds one trace. `query` and `finalAnswer` are required; any other field of a trace is optional. An exported
line holds all fields, so that a later import restores the trace unchanged. Memory use does not grow with the size of
the file.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tmde_core.errors import InvalidInputError
from tmde_core.records.base import Record, from_json, to_json, utc_now
from tmde_core.records.chat import FinishReason
from tmde_core.records.debate import Critique, Exchange, Round
from tmde_core.records.traces import (
    ImportReport,
    RoleModel,
    Score,
    SkippedLine,
    Timings,
    TokenCounts,
    Trace,
)
from tmde_core.sdk.thoughts import split
from tmde_core.storage.plain_data import JSON, find_twice
from tmde_core.storage.text_files import MAX_LINE_BYTES
from tmde_core.storage.words import is_blank
from tmde_core.traces.store import Arrival, TraceStore

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
    proposer_thought: str = ""
    skeptic_thought: str = ""
    proposer_finish_reason: FinishReason | None = None
    skeptic_finish_reason: FinishReason | None = None


class TraceLine(Record):
    """One line of a trace file."""

    query: Text
    final_answer: Text
    finish_reason: FinishReason | None = None
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
    user_rating: Annotated[float, Meta(ge=1, le=10)] | None = None
    """A float, because pandas writes 7 as 7.0 if one of the lines has no rating."""
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
    synthesizer_thought: str = ""
    follows: UUID | None = None
    earlier: Annotated[tuple[Exchange, ...], Meta(max_length=100)] = ()

    def trace(self) -> Trace:
        """Return the trace that this line describes.

        Raises:
            InvalidInputError: A required text is blank, the rating is no whole number, two rounds have the same number, or a time cannot be expressed
                in UTC.
        """
        for name, text in (("query", self.query), ("finalAnswer", self.final_answer)):
            if not text.strip() or (name == "query" and is_blank(text)):
                raise InvalidInputError(f"{name}: must not be blank.", field=name)
        if self.user_rating is not None and not self.user_rating.is_integer():
            raise InvalidInputError("userRating: must be a whole number from 1 to 10.", field="userRating")
        rounds = tuple(
            without_thought(Round(**{**msgspec.structs.asdict(round_), "number": round_.number or place}))
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
            "user_rating": None if self.user_rating is None else int(self.user_rating),
            "corrected_answer": self.corrected_answer if (self.corrected_answer or "").strip() else None,
            "judge": self.judge if scored or auto_score is None else "import",
            "withdrawn_at": in_utc(self.withdrawn_at, "withdrawnAt"),
            "models": {
                role: model if isinstance(model, RoleModel) else RoleModel(runtime="", model=model)
                for role, model in self.models.items()
            },
        }
        return require_answer(Trace(**told))


def require_answer(trace: Trace) -> Trace:
    """Return the trace with a thought within its answer kept apart.

    Raises:
        InvalidInputError: The answer is nothing but a thought.
    """
    found = split(trace.final_answer)
    if not found.thought and not found.unfinished:
        return trace
    if not found.answer.strip():
        raise InvalidInputError("finalAnswer: is a model's thought without an answer.", field="finalAnswer")
    thought = "\n\n".join(part for part in (trace.synthesizer_thought, found.thought) if part)
    return msgspec.structs.replace(trace, final_answer=found.answer, synthesizer_thought=thought)


def without_thought(round_: Round) -> Round:
    """Return the round with a thought within its proposal kept apart."""
    found = split(round_.proposal)
    if not found.thought and not found.unfinished:
        return round_
    thought = "\n\n".join(part for part in (round_.proposer_thought, found.thought) if part)
    return msgspec.structs.replace(round_, proposal=found.answer, proposer_thought=thought)


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
    return _parsed(line).trace()


def _parsed(line: bytes) -> TraceLine:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidInputError(f"The line is longer than {MAX_LINE_BYTES:,} bytes.")
    if b"\0" in line:
        raise InvalidInputError("The line holds a NUL byte, so it is not text. Save the file as UTF-8.")
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"The line is not UTF-8 text: its byte {error.start + 1} belongs to no character. Save the file as UTF-8."
        ) from None
    try:
        found = from_json(line, TraceLine)
        if twice := find_twice(JSON.decode(line.decode())):
            raise InvalidInputError(twice)
        return found
    except InvalidInputError as error:
        known = _OTHER_NAMES.get(_fold(str(error.context.get("field") or "")))
        if known is None or "no such field" not in error.detail:
            raise
        raise InvalidInputError(f"{error.detail} A trace has `{known}`.", field=error.context["field"]) from None


def _fold(name: str) -> str:
    """Return a field's name without what differs between the spellings of programs: case, `_` and `-`."""
    return name.replace("_", "").replace("-", "").casefold()


_OTHER_NAMES = {
    **{_fold(name): name for name in TraceLine.__struct_encode_fields__},
    **dict.fromkeys(("question", "prompt", "input", "instruction", "problem"), "query"),
    **dict.fromkeys(("answer", "response", "output", "completion", "chosen", "target"), "finalAnswer"),
    **dict.fromkeys(("rating", "score", "stars"), "userRating"),
    **dict.fromkeys(("correction", "corrected", "referenceanswer", "reference"), "correctedAnswer"),
    **dict.fromkeys(("date", "time", "timestamp", "created"), "createdAt"),
    **dict.fromkeys(("model",), "models"),
    **dict.fromkeys(("category", "subject", "topic"), "domain"),
    **dict.fromkeys(("thought", "thinking", "reasoning"), "synthesizerThought"),
}
"""Names of other programs, folded, and the field of a trace that means the same."""


Entry = tuple[int, "Arrival | str"]
"""A line's number, and its trace or the reason why it is not a trace."""


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
        # Joining two files of Windows programs leaves a byte order mark in the middle.
        text = line.strip().removeprefix(BOM_UTF8).strip()
        if text:
            try:
                parsed = _parsed(text)
                yield number, Arrival(parsed.trace(), named=parsed.id is not None)
            except InvalidInputError as error:
                yield number, error.detail


async def import_lines(
    store: TraceStore, lines: AsyncIterator[bytes] | Iterable[bytes], *, copies: bool = False
) -> ImportReport:
    """Import traces; see `TraceService.import_jsonl`."""
    return await import_entries(store, read_entries(lines), copies=copies)


async def import_entries(store: TraceStore, found: AsyncIterator[Entry], *, copies: bool = False) -> ImportReport:
    """Store the traces, one batch per transaction, and report the reason for each skipped line.

    Args:
        copies: Store copies of traces that are already here.
    """
    report = _Report()
    began = await store.last_seq()
    batch: list[tuple[int, Arrival]] = []
    size = 0
    async for number, outcome in found:
        if isinstance(outcome, str):
            report.skip(number, outcome)
            continue
        batch.append((number, outcome))
        trace = outcome.trace
        size += len(trace.query) + len(trace.final_answer) + sum(len(round_.proposal) for round_ in trace.rounds)
        if len(batch) >= BATCH_TRACES or size >= BATCH_BYTES:
            await _keep(store, batch, report, began, copies=copies)
            batch, size = [], 0
    await _keep(store, batch, report, began, copies=copies)
    return report.finished()


async def _keep(
    store: TraceStore, batch: list[tuple[int, Arrival]], report: _Report, began: int, *, copies: bool
) -> None:
    if not batch:
        return
    twins = await store.add_new([arrival for _, arrival in batch], began, copies=copies)
    for (number, arrival), twin in zip(batch, twins, strict=True):
        if twin is None:
            report.imported += 1
        elif twin == arrival.trace.id:
            report.skip(number, f"The trace {_short(twin)} is already here.", already_here=True)
        else:
            report.skip(
                number,
                f"It has the same question and answer as trace {_short(twin)}, which is already here.",
                already_here=True,
            )


def _short(trace_id: UUID) -> str:
    return str(trace_id)[:8]


class _Report:
    """An import report under construction."""

    def __init__(self) -> None:
        self.imported = 0
        self._skipped: list[SkippedLine] = []
        self._total = 0
        self._already_here = 0

    def skip(self, line: int, reason: str, *, already_here: bool = False) -> None:
        self._total += 1
        self._already_here += already_here
        if len(self._skipped) < MAX_REPORTED:
            self._skipped.append(SkippedLine(line=line, reason=reason))

    def finished(self) -> ImportReport:
        # A duplicate is found only when its batch is written; later lines may have been skipped before that.
        in_order = tuple(sorted(self._skipped, key=lambda skipped: skipped.line))
        return ImportReport(
            imported=self.imported, skipped=in_order, skipped_total=self._total, already_here=self._already_here
        )


async def export_lines(store: TraceStore) -> AsyncIterator[bytes]:
    """Yield every trace as a line; see `TraceService.export_jsonl`."""
    place = 0
    while True:
        traces, place = await store.after(place, 100)
        if not traces:
            return
        for trace in traces:
            yield to_line(trace)
