"""Define the commands of `tmde traces`."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, BinaryIO

import typer

from tmde_core.cli.kit.invocation import after, with_reading, with_services
from tmde_core.cli.kit.output import (
    JsonFlag,
    confirm_deletion,
    console,
    format_duration,
    print_fields,
    print_json,
    print_table,
)
from tmde_core.errors import InsufficientStorageError, InvalidInputError
from tmde_core.records.chat import describe_cut
from tmde_core.records.traces import Deletion, ImportReport, TraceFilter
from tmde_core.storage.text_files import split_file_lines

if TYPE_CHECKING:
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Past debates: list, show, rate, withdraw, delete, import, export.",
)

SQLITE_MAGIC = b"SQLite format 3\x00"
SHOWN_SKIPPED = 20
"""The number of invalid lines that are shown one by one. Further lines are only counted."""

TraceId = Annotated[str, typer.Argument(help="The trace's id.", metavar="ID")]


@command.command("list")
def list_(
    ctx: typer.Context,
    q: Annotated[str | None, typer.Option("--q", "-q", help="Words to look for in question and answer.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="Rating, or else score, of at least this.")] = None,
    rated: Annotated[
        bool | None, typer.Option("--rated/--unrated", help="Only those that a person rated, or not.")
    ] = None,
    eligible: Annotated[
        bool | None, typer.Option("--eligible/--not-eligible", help="Only those good enough to train on, or not.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="api, cli, ui, import, loop or benchmark.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None,
    json: JsonFlag = False,
) -> None:
    """List traces, newest first."""
    wanted = TraceFilter(q=q, min_quality=min_quality, rated=rated, eligible=eligible, source=source)
    page = with_reading(ctx, lambda services: services.traces.list(wanted, limit, cursor))
    if json:
        print_json(page)
        return
    rows = [
        (
            str(trace.id),
            trace.created_at,
            trace.quality_score,
            "withdrawn" if trace.withdrawn_at else trace.source,
            trace.query,
        )
        for trace in page.items
    ]
    print_table(
        ("id", "created", "quality", "source", "question"),
        rows,
        empty='No traces. Ask something with `tmde debate "…"`, or bring some with `tmde traces import FILE`.',
        right=("quality",),
    )
    if page.next_cursor:
        typer.echo(f"{len(page.items)} of {page.total}; the next: --cursor {page.next_cursor}", err=True)


@command.command()
def show(ctx: typer.Context, id: TraceId, json: JsonFlag = False) -> None:
    """Show one trace with the whole debate."""
    trace = with_reading(ctx, lambda services: after(services.ids.trace(id), services.traces.get))
    if json:
        print_json(trace)
        return
    from tmde_core.cli.debate.view import print_round, print_text, print_thought

    scored = None if trace.auto_score is None else f"{trace.auto_score:g} of 10 by {trace.judge}"
    print_fields(
        (
            ("id", str(trace.id)),
            ("created", trace.created_at),
            ("source", trace.source),
            ("domain", trace.domain),
            ("score", scored),
            ("because", "; ".join(trace.score_reasons)),
            ("rating", trace.user_rating),
            ("withdrawn", trace.withdrawn_reason),
            ("models", ", ".join(f"{role}: {m.runtime} {m.model}".strip() for role, m in trace.models.items())),
            ("adapter", trace.adapter_id),
            ("templates", ", ".join(trace.templates_used)),
            ("stopped", trace.stop_reason),
            ("answer", describe_cut(trace.finish_reason)),
            ("took", format_duration(trace.timings.total_ms / 1000) if trace.timings.total_ms else None),
            ("tokens", f"{trace.tokens.prompt} read ({trace.tokens.cached} cached), {trace.tokens.completion} written"),
        )
    )
    out = console()
    print_text(out, "Question", trace.query)
    for round_ in trace.rounds:
        print_round(out, round_)
    print_thought(out, trace.synthesizer_thought)
    print_text(out, "Answer", trace.final_answer, style="bold green")
    if trace.corrected_answer:
        print_text(out, "Corrected answer", trace.corrected_answer, style="bold")


@command.command()
def rate(
    ctx: typer.Context,
    id: TraceId,
    rating: Annotated[int, typer.Argument(help="1 (useless) to 10 (perfect).")],
    corrected: Annotated[
        str | None, typer.Option("--corrected", help="What the answer should have been; trained on in its place.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Rate an answer, and optionally say what it should have been. `tmde traces correct` corrects without a rating."""
    trace = with_services(
        ctx, lambda services: after(services.ids.trace(id), lambda one: services.traces.rate(one, rating, corrected))
    )
    if json:
        print_json(trace)
    else:
        typer.echo(f"Rated {trace.user_rating} of 10{', with a corrected answer' if trace.corrected_answer else ''}.")


@command.command()
def correct(
    ctx: typer.Context,
    id: TraceId,
    text: Annotated[str, typer.Argument(help="What the answer should have been; blank removes an earlier correction.")],
    json: JsonFlag = False,
) -> None:
    """Say what an answer should have been, without rating it. The correction is trained on."""
    trace = with_services(
        ctx, lambda services: after(services.ids.trace(id), lambda one: services.traces.correct(one, text))
    )
    if json:
        print_json(trace)
    else:
        typer.echo("Corrected." if trace.corrected_answer else "The correction was removed.")


@command.command()
def withdraw(
    ctx: typer.Context,
    id: TraceId,
    reason: Annotated[str, typer.Option("--reason", help="Why.", prompt="Why shall it never be trained on again")],
    json: JsonFlag = False,
) -> None:
    """Exclude a trace from all further training, and name the adapters that were trained on it."""
    found = with_services(
        ctx, lambda services: after(services.ids.trace(id), lambda one: services.traces.withdraw(one, reason))
    )
    if json:
        print_json(found)
        return
    learned = ", ".join(str(adapter) for adapter in found.adapters)
    typer.echo(
        f"Withdrawn. {f'These adapters have learned from it: {learned}.' if learned else 'No adapter has learned from it.'}"
    )


@command.command()
def delete(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(help="The traces' ids, at most 200.", metavar="ID…")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Delete traces with their debates, and name the adapters that were trained on them."""
    confirm_deletion(yes, f"Delete {len(ids)} {_traces(len(ids))}? This cannot be undone.")

    async def remove(services: Services) -> Deletion:
        return await services.traces.delete([await services.ids.trace(one) for one in ids])

    found = with_services(ctx, remove)
    if json:
        print_json(found)
        return
    learned = ", ".join(str(adapter) for adapter in found.adapters)
    typer.echo(
        f"Deleted {len(found.deleted)} {_traces(len(found.deleted))}. "
        + (f"These adapters have learned from them: {learned}." if learned else "No adapter has learned from them.")
    )


@command.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON Lines, or the original project's SQLite file; - reads stdin.")],
    again: Annotated[bool, typer.Option("--again", help="Import copies of traces that are already here.")] = False,
    json: JsonFlag = False,
) -> None:
    """Import traces. The kind of file is detected from its content. Traces that are already here are left out."""

    async def take(services: Services) -> ImportReport:
        if str(file) == "-":
            return await services.traces.import_jsonl(split_file_lines(sys.stdin.buffer), copies=again)
        with _opened(file) as stream:
            if stream.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC:
                return await services.traces.import_sqlite(file, copies=again)
            stream.seek(0)
            return await services.traces.import_jsonl(split_file_lines(stream), copies=again)

    report = with_services(ctx, take)
    if json:
        print_json(report)
    else:
        typer.echo(f"Imported {report.imported} {_traces(report.imported)}, left out {report.skipped_total}.")
        if report.already_here:
            typer.echo(
                f"{report.already_here} {'is' if report.already_here == 1 else 'are'} already here. To import copies, add "
                "--again.",
                err=True,
            )
        for skipped in report.skipped[:SHOWN_SKIPPED]:
            typer.echo(f"  line {skipped.line}: {skipped.reason}", err=True)
        if report.skipped_total > SHOWN_SKIPPED:
            typer.echo(f"  and {report.skipped_total - SHOWN_SKIPPED} more; --json names them all", err=True)
    # An import that finds all its traces here has nothing to do, and has not failed.
    if report.skipped_total > report.already_here and not report.imported:
        raise typer.Exit(1)


@command.command()
def export(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="Where to; without it, or with -, to stdout.")] = None,
) -> None:
    """Write every trace as JSON Lines, which `import` reads again unchanged."""

    async def write(services: Services) -> int:
        if file is None or str(file) == "-":
            return await _write(services, sys.stdout.buffer)
        # Written to a temporary name first, so that an interrupted export never looks like a complete one.
        staged = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            with staged.open("xb") as stream:
                count = await _write(services, stream)
            staged.replace(file)
        except OSError as error:
            raise InsufficientStorageError(f"{file} cannot be written: {error.strerror or error}.") from None
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
        return count

    count = with_reading(ctx, write)
    if file is not None and str(file) != "-":
        typer.echo(f"Exported {count} {_traces(count)} to {file}.", err=True)


@command.command()
def stats(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Show how many traces there are, and how many can be used for training."""
    found = with_reading(ctx, lambda services: services.traces.stats())
    if json:
        print_json(found)
        return
    print_fields(
        (
            ("traces", found.total),
            ("eligible", found.eligible),
            ("left out because cut off", found.cut or None),
            ("since the last run", found.since_last_run),
            ("rated", found.rated),
            ("withdrawn", found.withdrawn),
            *((f"domain {name}", count) for name, count in found.by_domain.items()),
        )
    )


@command.command()
def lineage(ctx: typer.Context, id: TraceId, json: JsonFlag = False) -> None:
    """List the runs and adapters that were trained on a trace."""
    found = with_reading(ctx, lambda services: after(services.ids.trace(id), services.lineage.find_by_trace))
    if json:
        print_json(found)
        return
    rows = [("run", str(run)) for run in found.runs] + [("adapter", str(adapter)) for adapter in found.adapters]
    print_table(("what", "id"), rows, empty="Nothing has learned from this trace.")


async def _write(services: Services, stream: IO[bytes]) -> int:
    count = 0
    async for line in services.traces.export_jsonl():
        stream.write(line if line.endswith(b"\n") else line + b"\n")
        count += 1
    stream.flush()
    return count


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be read: {error.strerror}.") from None


def _traces(count: int) -> str:
    return "trace" if count == 1 else "traces"
