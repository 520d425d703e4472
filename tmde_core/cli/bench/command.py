"""Define the commands of `tmde bench`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import msgspec
import typer

from tmde_core.cli.bench import questions as bench_questions
from tmde_core.cli.finetune.schedule import schedule_command
from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import (
    JsonFlag,
    console,
    error_console,
    format_duration,
    print_fields,
    print_json,
    print_json_line,
    print_table,
)
from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.records.base import to_utc
from tmde_core.records.benchmark import BenchmarkPlan, BenchmarkRun, GateDecision, RunComparison

if TYPE_CHECKING:
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="Measure answers, and tell truth from noise.",
)

RunId = Annotated[str | None, typer.Argument(help="The run's id; without it, the newest.", metavar="[ID]")]
Out = Annotated[Path | None, typer.Option("--output", "-o", help="The file to write; else standard output.")]
Since = Annotated[str | None, typer.Option("--from", help="Begun on this day or later (2026-11-24).")]
Until = Annotated[str | None, typer.Option("--to", help="Begun on this day or earlier.")]

TYPES, MODES = ("quick", "full", "custom"), ("debate", "proposer")


@command.command()
def run(
    ctx: typer.Context,
    type_: Annotated[str, typer.Argument(help="quick, full or custom.", metavar="[TYPE]")] = "quick",
    mode: Annotated[str, typer.Option(help="debate: the whole debate. proposer: the model alone.")] = "debate",
    adapter: Annotated[
        str | None, typer.Option(help="An adapter's id, active or not; `base`: the base model. Else what is active.")
    ] = None,
    suite: Annotated[str, typer.Option(help="A suite's name; else the default one.")] = "",
    question: Annotated[
        list[str] | None, typer.Option("--question", help="For custom: a question's id; may be repeated.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, max=10, help="How often each question is asked.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Repeats the sampling.")] = 42,
    judge: Annotated[str, typer.Option(help="A judge's name; else as the settings have it.")] = "",
    json: JsonFlag = False,
) -> None:
    """Ask the questions and show the results. Ctrl-C stops the run; `tmde bench resume` continues it."""
    _one_of("TYPE", type_, TYPES)
    _one_of("--mode", mode, MODES)
    base = adapter == "base"
    plan = BenchmarkPlan(
        type=type_,  # type: ignore[arg-type]  # checked above
        mode=mode,  # type: ignore[arg-type]
        suite=suite,
        question_ids=tuple(question or ()),
        base=base,
        repeats=repeats,
        seed=seed,
        judge=judge,
    )

    async def go(services: Services) -> None:
        chosen = await services.ids.adapter(adapter, named=True) if adapter and not base else None
        from tmde_core.benchmark.questions.bank import CUSTOM

        suites = [*(one.name for one in services.benchmark.suites()), CUSTOM]
        if suite and suite not in suites:
            raise InvalidInputError(f"--suite: no suite is called {suite[:60]!r}. There are {', '.join(suites)}.")
        asked = await services.ids.list_questions(plan.question_ids)
        started = await services.benchmark.start(msgspec.structs.replace(plan, adapter_id=chosen, question_ids=asked))
        ended = await _followed(services, started, json)
        await _shown(services, ended, json)
        _exit(ended)

    with_services(ctx, go)


@command.command()
def resume(ctx: typer.Context, run: RunId = None, json: JsonFlag = False) -> None:
    """Resume an interrupted run. Only the unanswered questions are asked."""

    async def go(services: Services) -> None:
        started = await services.benchmark.resume(await _chosen(services, run))
        ended = await _followed(services, started, json)
        await _shown(services, ended, json)
        _exit(ended)

    with_services(ctx, go)


@command.command("list")
def list_(
    ctx: typer.Context,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    json: JsonFlag = False,
) -> None:
    """List runs, newest first."""
    begin, end = _day(since, "--from"), _day(until, "--to", last=True)

    async def read(services: Services) -> tuple[list[BenchmarkRun], int, dict[UUID, str]]:
        runs, total = await services.benchmark.list(limit, offset, begin, end)
        asked = () if json else (one.adapter_id for one in runs if one.adapter_id)
        return runs, total, await services.lora.find_full_names(asked)

    runs, total, names = with_services(ctx, read)
    if json:
        print_json({"items": runs, "total": total})
        return
    rows = [
        (
            str(one.id),
            one.started_at,
            one.type,
            one.mode,
            names[one.adapter_id] if one.adapter_id else "base model",
            one.status,
            one.metrics.tmde_score if one.metrics else None,
            one.metrics.avg_quality_score if one.metrics else None,
            one.verdict_vs_baseline or "",
        )
        for one in runs
    ]
    print_table(
        ("id", "started", "type", "mode", "adapter", "status", "score", "quality", "v baseline"),
        rows,
        empty="No benchmark yet. `tmde bench run quick` asks ten questions.",
        right=("score", "quality"),
    )


@command.command()
def show(
    ctx: typer.Context,
    run: RunId = None,
    question: Annotated[str | None, typer.Option(help="The answers to one question, in full.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show one run: its figures and the score of every question."""

    async def look(services: Services) -> None:
        identity = await _chosen(services, run)
        if question is not None:
            for answer in await services.benchmark.result(identity, question):
                if json:
                    print_json(answer)
                    continue
                fields = [
                    (name, getattr(answer, name))
                    for name in ("query", "final_answer", "status", "quality_score", "error")
                ]
                criteria = [(f"  {name}", score) for name, score in answer.criteria.items()]
                print_fields([*fields, *criteria, *(("", reason) for reason in answer.reasons)])
            return
        await _shown(services, await services.benchmark.get(identity), json)

    with_services(ctx, look)


@command.command()
def compare(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(help="A run's id.")],
    b: Annotated[str, typer.Argument(help="Another's: what changed from A to B.")],
    json: JsonFlag = False,
) -> None:
    """Compare two runs side by side, paired by question."""

    async def look(services: Services) -> RunComparison:
        return await services.benchmark.compare(await services.ids.benchmark(a), await services.ids.benchmark(b))

    found = with_services(ctx, look)
    if json:
        print_json(found)
    else:
        _print_comparison(found)


@command.command()
def export(
    ctx: typer.Context,
    format_: Annotated[str, typer.Option("--format", help="json or csv.")] = "json",
    since: Since = None,
    until: Until = None,
    output: Out = None,
) -> None:
    """Export every run with its answers, as JSON or CSV."""
    from tmde_core.benchmark.results.export import csv_lines
    from tmde_core.records.base import to_json

    _one_of("--format", format_, ("json", "csv"))
    begin, end = _day(since, "--from"), _day(until, "--to", last=True)
    runs = with_services(ctx, lambda services: services.benchmark.export_runs(begin, end))
    content = b"".join(csv_lines(runs)) if format_ == "csv" else to_json({"items": runs, "total": len(runs)}) + b"\n"
    _write(output, content, f"{len(runs)} runs")


@command.command()
def report(ctx: typer.Context, run: RunId = None, output: Out = None) -> None:
    """Write a run as one HTML file that opens offline."""
    from tmde_core.benchmark.results.report import report_html

    async def make(services: Services) -> tuple[UUID, str]:
        identity = await _chosen(services, run)
        return identity, await report_html(services.benchmark, identity)

    identity, content = with_services(ctx, make)
    _write(output or Path(f"benchmark-{str(identity)[:8]}.html"), content.encode(), "the report")


@command.command()
def gate(
    ctx: typer.Context,
    adapter: Annotated[
        str | None, typer.Argument(help="An adapter's id to measure; without it, past decisions.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Ask all questions, twice, instead of the quick ten.")] = False,
    json: JsonFlag = False,
) -> None:
    """Measure an adapter against the base model and the active adapter, and decide whether to activate it.

    held-back: worse than either of them, or worse in one domain. Activating the adapter needs --force.

    proven: better than the active adapter and not worse than the base model. The adapter is activated automatically if
    benchmark.auto_activate is on.

    candidate: no difference beyond noise.

    The server does this automatically after each training (benchmark.after_training). If a scheduled benchmark finds
    the active adapter worse than the base model, and benchmark.auto_rollback is on, the adapter is rolled back.
    """
    if adapter is None:

        async def look(services: Services) -> Decisions:
            return await _with_names(services, await services.gate.decisions())

        _print_decisions(with_services(ctx, look), json)
        return

    async def measure(services: Services) -> Decisions:
        identity = await services.ids.adapter(adapter, named=True)
        begun: asyncio.Queue[BenchmarkRun | None] = asyncio.Queue()

        async def judged() -> GateDecision:
            try:
                return await services.gate.evaluate(identity, begun.put_nowait, full)
            finally:
                begun.put_nowait(None)

        judging = asyncio.create_task(judged())
        try:
            while (run := await begun.get()) is not None:
                await _followed(services, run)
            return await _with_names(services, [await judging])
        finally:
            judging.cancel()

    _print_decisions(with_services(ctx, measure), json)


@command.command()
def delete(ctx: typer.Context, run: Annotated[str, typer.Argument(help="The run's id.")]) -> None:
    """Remove an ended run with its answers."""

    async def remove(services: Services) -> UUID:
        identity = await services.ids.benchmark(run)
        await services.benchmark.delete(identity)
        return identity

    identity = with_services(ctx, remove)
    console().print(f"Removed {identity}.")


bench_questions.register(command)
command.command("schedule")(schedule_command("benchmark", "the active adapter is measured"))


# ---------------------------------------------------------------------------------------------- watching


async def _followed(services: Services, run: BenchmarkRun, json: bool = False) -> BenchmarkRun:
    """Show progress on stderr until the run ends, or print each event as a line if `json` is true.

    Ctrl-C interrupts the run. The run keeps its answers.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    events = await services.benchmark.events(run.id)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[mean]}"),
        TimeRemainingColumn(),
    )
    quiet = json or not sys.stderr.isatty()
    with Progress(*columns, console=error_console(), disable=quiet, transient=True) as progress:
        who = f"adapter {await services.lora.find_full_name(run.adapter_id)}" if run.adapter_id else "the base model"
        task = progress.add_task(f"Asking {who}", total=run.answer_count, completed=run.completed_answers, mean="")
        try:
            async for event in events.follow():
                if event.type != "progress":
                    continue
                mean = event.data["meanScore"]
                progress.update(
                    task, completed=event.data["done"], mean="" if mean is None else f"quality {mean:.1f} so far"
                )
                if json:
                    print_json_line({"event": event.type, **event.data})
        except asyncio.CancelledError:
            done = services.benchmark.get_running() or run
            error_console().print(
                f"Interrupted after {done.completed_answers} of {run.answer_count} answers. "
                f"`tmde bench resume {run.id}` asks the rest."
            )
            raise
    return await services.benchmark.wait(run.id)


async def _shown(services: Services, run: BenchmarkRun, json: bool) -> None:
    if json:
        print_json(run)
        return
    metrics = run.metrics
    who = await services.lora.find_full_name(run.adapter_id) if run.adapter_id else "base model"
    print_fields(
        (
            ("id", str(run.id)),
            ("status", run.status),
            ("error", run.error_message),
            ("asked", f"{run.completed_answers} of {run.answer_count}, {run.type}, {run.mode}, {run.suite}"),
            ("adapter", who),
            ("judge", run.judge),
            *(("note", warning) for warning in run.warnings),
        )
    )
    if metrics is None:
        return
    from tmde_core.benchmark.results.report import interval_words

    results, _ = await services.benchmark.results(run.id, limit=100_000)
    print_table(
        ("question", "domain", "difficulty", "score", "seconds"),
        [
            (
                one.question_id,
                one.domain,
                one.difficulty,
                "failed" if one.status == "failed" else one.quality_score,
                one.response_time_ms / 1000 if one.response_time_ms else None,
            )
            for one in results
        ],
        empty="It has no answers.",
        right=("score", "seconds"),
    )
    print_fields(
        (
            ("TMDE score", f"{metrics.tmde_score:.1f} of 100" if metrics.tmde_score is not None else None),
            ("quality", f"{interval_words(metrics.intervals.quality)} of 10"),
            *((f"  {one.domain}", interval_words(one.quality)) for one in metrics.domains),
            ("response time", interval_words(metrics.intervals.response_time_ms, 1 / 1000, "s")),
            ("tokens a second", interval_words(metrics.intervals.tokens_per_second)),
            ("rounds", interval_words(metrics.intervals.debate_rounds) if run.mode == "debate" else None),
            ("without verdict", metrics.unscored or None),
            ("failed", metrics.failed or None),
            ("v previous", run.verdict_vs_previous),
            ("v baseline", run.verdict_vs_baseline),
        )
    )


def _print_comparison(found: RunComparison) -> None:
    from tmde_core.benchmark.results.report import difference_words

    for reason in found.differs:
        console().print(f"Not comparable: {reason}")
    rows = [("all", found.quality), *((one.domain, one.quality) for one in found.domains)]
    print_table(
        ("domain", "n", "A", "B", "difference", "low", "high", "p", "verdict"),
        [
            (
                name,
                one.n,
                one.a,
                one.b,
                one.difference,
                one.low,
                one.high,
                one.deciding_p,
                one.outcome,
            )
            for name, one in rows
        ],
        empty="They share no question.",
        right=("n", "A", "B", "difference", "low", "high", "p"),
    )
    console().print(difference_words(found.quality))
    if found.score_difference is not None and found.score_low is not None and found.score_high is not None:
        console().print(
            f"TMDE score: {found.score_difference:+.1f} (95 % interval {found.score_low:+.1f} to {found.score_high:+.1f})."
        )


Decisions = tuple[Sequence[GateDecision], dict[UUID, str]]
"""Decisions of the gate, and the names of their adapters."""


async def _with_names(services: Services, decisions: Sequence[GateDecision]) -> Decisions:
    return decisions, await services.lora.find_full_names(one.adapter_id for one in decisions)


def _print_decisions(found: Decisions, json: bool) -> None:
    decisions, names = found
    if json:
        print_json({"items": decisions, "total": len(decisions)})
        return
    print_table(
        ("adapter", "when", "gate", "detail"),
        [(names[one.adapter_id], one.at, one.gate, one.reason) for one in decisions],
        empty="The gate has decided nothing yet. `tmde bench gate ID` measures an adapter.",
    )


# ---------------------------------------------------------------------------------------------- parts


async def _chosen(services: Services, text: str | None) -> UUID:
    if text is not None:
        return await services.ids.benchmark(text)
    runs, _ = await services.benchmark.list(1)
    if not runs:
        raise NotFoundError("There is no benchmark yet. `tmde bench run quick` begins one.")
    return runs[0].id


def _exit(run: BenchmarkRun) -> None:
    if run.status != "completed":
        took = (run.completed_at - run.started_at).total_seconds() if run.completed_at else None
        error_console().print(
            f"The benchmark is {run.status} after {format_duration(took)}. `tmde bench resume {run.id}` goes on with it."
        )
        raise typer.Exit(1)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInputError(f"{name}: {value[:40]!r} is not one of {', '.join(allowed)}.", field=name)


def _day(text: str | None, name: str, last: bool = False) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError(f"{name}: {text[:40]!r} is no date. Write it as 2026-11-24.", field=name) from None
    if last and len(text) == len("2026-11-24"):
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_000)
    return to_utc(moment, name)


def _write(output: Path | None, content: bytes, what: str) -> None:
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise InvalidInputError(f"{output} cannot be written: {error.strerror}. Choose another file.") from None
    error_console().print(f"Wrote {what} to {output}.")
