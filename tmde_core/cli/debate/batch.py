"""Implement `tmde debate --file`: debate every question of a JSON Lines file, resumable.

The folder `batches/` in the data directory has one file for each question file (by its path), which records the
finished questions. A question is identified by its text, its reference and the options. A file to which questions were
added therefore asks only the new questions. A question counts as finished while its trace exists.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import msgspec
import typer

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import error_console, plain, print_json_line
from tmde_core.errors import InsufficientStorageError, InvalidInputError, NotFoundError, TmdeError
from tmde_core.records.base import Record, to_invalid_input, to_json
from tmde_core.records.debate import Debate, DebateConfig
from tmde_core.storage.text_files import iterate_lines, read_text_file

if TYPE_CHECKING:
    from tmde_core.services import Services

MAX_LINE_LENGTH = 1024 * 1024
"""The longest line. A question has at most 32 KiB, so a longer line means that this is another kind of file."""


class QuestionLine(msgspec.Struct, frozen=True, rename="camel"):
    """One line of the file. Unknown fields are ignored, because the files of `tmde loop` have more fields."""

    query: Annotated[str, msgspec.Meta(min_length=1)]
    id: str | None = None
    reference: str | None = None
    check: str | None = None
    domain: str | None = None


class BatchQuestion(msgspec.Struct, frozen=True):
    """A question to debate."""

    line: int
    key: str
    question: QuestionLine
    config: DebateConfig


class BatchResult(Record):
    """The result of one question, as --json prints it."""

    line: int
    id: str | None
    query: str
    status: str
    final_answer: str | None = None
    score: float | None = None
    judge: str | None = None
    trace_id: UUID | None = None
    error: str | None = None


class BadLine(msgspec.Struct, frozen=True):
    """A line that is not a valid question."""

    line: int
    reason: str


def debate_file(
    ctx: typer.Context, file: Path, config: DebateConfig, *, parallel: int, restart: bool, json: bool
) -> None:
    """Debate the unfinished questions. Exit with code 1 if a line was invalid or a debate failed."""
    asked, bad = read_questions(file, config)
    for line in bad:
        typer.echo(f"{file}, line {line.line}: {line.reason}", err=True)
    if not asked:
        raise InvalidInputError(f"{file} has no question. Each line is a JSON object with at least `query`.")
    try:
        failed = with_services(ctx, lambda services: _work(services, file, asked, parallel, restart, json))
    except KeyboardInterrupt:
        typer.echo("Stopped. What was answered is kept; the same command goes on from here.", err=True)
        raise
    if failed or bad:
        raise typer.Exit(1)


def read_questions(file: Path, config: DebateConfig) -> tuple[list[BatchQuestion], list[BadLine]]:
    """Return the questions of a file, and the invalid lines.

    Raises:
        FileMissingError: the file does not exist.
        InvalidInputError: the file cannot be read, or is not text.
    """
    asked: list[BatchQuestion] = []
    bad: list[BadLine] = []
    seen: Counter[str] = Counter()
    for number, line in iterate_lines(read_text_file(file)):
        try:
            question = _parsed(line)
        except ValueError as error:
            bad.append(BadLine(number, str(error)))
            continue
        own = {name: getattr(question, name) for name in ("reference", "check", "domain")}
        chosen = msgspec.structs.replace(config, **{name: value for name, value in own.items() if value is not None})
        key = hashlib.sha256(to_json([question.query, chosen])).hexdigest()
        seen[key] += 1  # a question that occurs twice is asked twice
        asked.append(BatchQuestion(number, f"{key}-{seen[key]}", question, chosen))
    return asked, bad


def _parsed(line: str) -> QuestionLine:
    if len(line) > MAX_LINE_LENGTH:
        raise ValueError(f"longer than {MAX_LINE_LENGTH:,} characters")
    try:
        return msgspec.json.decode(line, type=QuestionLine)
    except msgspec.ValidationError as error:
        raise ValueError(to_invalid_input(error, QuestionLine).detail.rstrip(".")) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is not valid JSON") from None


class _State:
    """Stores which questions of a file have a trace."""

    def __init__(self, data_path: Path, file: Path) -> None:
        name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:24]
        self._path = data_path / "batches" / f"{name}.jsonl"

    def read(self) -> dict[str, UUID]:
        """Return the trace of each key. An incomplete last line is ignored."""
        done: dict[str, UUID] = {}
        if not self._path.exists():
            return done
        for raw in self._path.read_bytes().splitlines():
            try:
                entry = msgspec.json.decode(raw, type=dict[str, str])
                done[entry["key"]] = UUID(entry["traceId"])
            except (msgspec.MsgspecError, KeyError, ValueError):
                continue
        return done

    def add(self, key: str, trace_id: UUID) -> None:
        """Record that a question is finished.

        Raises:
            InsufficientStorageError: the record cannot be written; the trace itself is stored.
        """
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab") as stream:
                stream.write(to_json({"key": key, "traceId": str(trace_id)}) + b"\n")
        except OSError as error:
            raise InsufficientStorageError(f"{self._path} cannot be written: {error.strerror}.") from None


async def _work(
    services: Services, file: Path, asked: Sequence[BatchQuestion], parallel: int, restart: bool, json: bool
) -> int:
    """Debate the unfinished questions and return how many failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    state = _State(services.settings.data_path, file)
    done = {} if restart else await _still_there(services, state.read())
    open_ = [item for item in asked if item.key not in done]
    if len(open_) < len(asked):
        typer.echo(
            f"{len(asked) - len(open_)} of {len(asked)} questions are done already; --restart asks them again.",
            err=True,
        )
    outcomes: list[BatchResult] = []
    queue = iter(open_)
    with Progress(
        TextColumn("debating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=error_console(),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("", total=len(asked), completed=len(asked) - len(open_))

        async def worker() -> None:
            for item in queue:
                outcome = await _debate(services, item)
                if outcome.trace_id is not None:
                    state.add(item.key, outcome.trace_id)
                outcomes.append(outcome)
                _print(outcome, json)
                bar.advance(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(parallel):
                group.create_task(worker())
    failed = sum(outcome.trace_id is None for outcome in outcomes)
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    mean = f", mean score {sum(scores) / len(scores):.2f} over {len(scores)} with a verdict" if scores else ""
    typer.echo(f"{len(outcomes)} asked, {failed} failed{mean}.", err=True)
    return failed


async def _still_there(services: Services, done: dict[str, UUID]) -> dict[str, UUID]:
    found: dict[str, UUID] = {}
    for key, trace_id in done.items():
        try:
            await services.traces.get(trace_id)
        except NotFoundError:
            continue
        found[key] = trace_id
    return found


async def _debate(services: Services, item: BatchQuestion) -> BatchResult:
    outcome = BatchResult(line=item.line, id=item.question.id, query=item.question.query, status="failed")
    try:
        started = await services.debates.start(item.question.query, item.config, source="cli")
        ended: Debate = await services.debates.wait(started.id)
    except TmdeError as error:
        return msgspec.structs.replace(outcome, error=error.detail)
    if ended.trace_id is None:
        return msgspec.structs.replace(outcome, status=ended.status, error=ended.error_message)
    trace = await services.traces.get(ended.trace_id)
    return msgspec.structs.replace(
        outcome,
        status=ended.status,
        final_answer=trace.final_answer,
        score=trace.auto_score,
        judge=trace.judge,
        trace_id=trace.id,
    )


def _print(outcome: BatchResult, json: bool) -> None:
    if json:
        print_json_line(outcome)
        return
    score = "-" if outcome.score is None else f"{outcome.score:g}"
    said = outcome.error or outcome.final_answer or ""
    cells = (str(outcome.line), outcome.status, score, outcome.query, said)
    typer.echo("\t".join(" ".join(plain(text).split()) for text in cells))
