"""Define the commands of `tmde finetune`."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import typer

from tmde_core.cli.finetune import preview as finetune_preview
from tmde_core.cli.finetune import schedule as finetune_schedule
from tmde_core.cli.finetune.watch import report_end, watch_run
from tmde_core.cli.kit.invocation import with_reading, with_services
from tmde_core.cli.kit.output import (
    JsonFlag,
    format_duration,
    plain,
    print_fields,
    print_json,
    print_table,
)
from tmde_core.errors import ConflictError, InvalidInputError, NotFoundError
from tmde_core.finetune.ranges import decode_config, ranges
from tmde_core.records.fields import Field
from tmde_core.records.finetune import FineTuneConfig, FineTuneRun, RunAttempt
from tmde_core.sdk.hooks import AUTO

if TYPE_CHECKING:
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="Train adapters on good traces."
)

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="A hyperparameter for this run, as NAME=VALUE; may be repeated.", metavar="NAME=VALUE"),
]
RunId = Annotated[str | None, typer.Argument(help="The run's id; without it, the one in progress.", metavar="[ID]")]
AnyRunId = Annotated[
    str | None, typer.Argument(help="The run's id; without it, the one in progress or else the newest.", metavar="[ID]")
]

_INTERRUPTED = "its process is gone; the next `tmde serve`, or `tmde finetune watch`, goes on with it"
_INTERRUPTED_ELSEWHERE = "its process is gone; the next `tmde worker` goes on with it"

HELP_WIDTH = 76
"""The columns that the help can use on a terminal of 80 columns."""

STATUSES = ("pending", "running", "completed", "failed", "cancelled")


@command.command()
def start(
    ctx: typer.Context,
    set_: Assignments = None,
    backend: Annotated[str | None, typer.Option(help="Which training backend.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the run; else the date and what it learns.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch it.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train an adapter on the eligible traces. The run continues in the background when this program ends."""

    async def begin(services: Services) -> FineTuneRun:
        changes = _values(set_ or ()) | ({"backend": backend} if backend else {})
        config = decode_config(changes, services.finetune.config())
        run = await services.finetune.start(config, triggered_by="manual", name=name)
        if config.backend == AUTO and not json and (chosen := services.finetune.choose()) is not None:
            typer.echo(f"Backend {chosen.name}: {chosen.why}", err=True)
        if not json or not watch:
            _announce(run, json)
        return await watch_run(services, run.id, json) if watch else run

    run = with_services(ctx, begin)
    if watch:
        report_end(run, json)


@command.command()
def watch(ctx: typer.Context, run: RunId = None, json: JsonFlag = False) -> None:
    """Follow a run until it ends, and resume the run if its process has died. Ctrl-C stops watching, not the run."""

    async def follow(services: Services) -> FineTuneRun:
        return await watch_run(services, await _chosen(services, run), json)

    report_end(with_services(ctx, follow), json)


@command.command("list")
def list_(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option(help=f"Only these: {', '.join(STATUSES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    json: JsonFlag = False,
) -> None:
    """List runs, newest first."""
    if status is not None and status not in STATUSES:
        raise InvalidInputError(f"--status: must be one of {', '.join(STATUSES)}.", field="status")
    runs, total = with_reading(ctx, lambda services: services.finetune.list(limit, offset, status))  # type: ignore[arg-type]
    if json:
        print_json({"items": runs, "total": total})
        return
    rows = [
        (
            str(run.id),
            run.started_at,
            run.status,
            run.name,
            run.traces_used,
            run.metrics.final_train_loss if run.metrics else None,
            run.metrics.best_val_loss if run.metrics else None,
            run.error_message or "",
        )
        for run in runs
    ]
    print_table(
        ("id", "started", "status", "name", "traces", "loss", "best val", "error"),
        rows,
        empty="No training run yet. `tmde finetune start` begins one; `tmde traces stats` says whether there is enough.",
        right=("traces", "loss", "best val"),
    )


@command.command()
def show(ctx: typer.Context, run: AnyRunId = None, json: JsonFlag = False) -> None:
    """Show one run: its configuration, its attempts and its metrics."""

    async def get(services: Services) -> tuple[FineTuneRun, str | None]:
        found = await services.finetune.get(await _newest(services, run))
        if not services.finetune.is_interrupted(found):
            return found, None
        return found, _INTERRUPTED_ELSEWHERE if services.finetune.trains_elsewhere else _INTERRUPTED

    found, interrupted = with_reading(ctx, get)
    if json:
        print_json(found)
        return
    metrics = msgspec.structs.asdict(found.metrics) if found.metrics else {}
    took = (found.completed_at - found.started_at).total_seconds() if found.completed_at else None
    print_fields(
        (
            ("id", str(found.id)),
            ("name", found.name),
            ("status", found.status),
            ("waits for", "a `tmde worker`" if found.queued else None),
            ("note", found.notice or None),
            ("interrupted", interrupted),
            ("error", found.error_message),
            ("started", found.started_at),
            ("ended", found.completed_at),
            ("took", format_duration(took) if took is not None else None),
            ("traces", found.traces_used),
            ("examples", f"{found.train_examples} to train on, {found.val_examples} to validate on"),
            ("base model", found.base_model),
            ("adapter", found.lora_path),
            ("started by", found.triggered_by),
            *((f"attempt {attempt.number}", _told(attempt)) for attempt in found.attempts),
            *((name.replace("_", " "), value) for name, value in metrics.items()),
            *((name, value) for name, value in msgspec.structs.asdict(found.config).items()),
        )
    )


@command.command()
def name(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id, its first digits, or its present name.", metavar="ID")],
    new: Annotated[str, typer.Argument(help="The new name.", metavar="NAME")],
    json: JsonFlag = False,
) -> None:
    """Give a run another name. Its adapter is called so too."""

    async def change(services: Services) -> FineTuneRun:
        return await services.finetune.rename(await services.ids.run(run, named=True), new)

    found = with_services(ctx, change)
    if json:
        print_json(found)
    else:
        typer.echo(f"The training run {found.id} is called {found.name} now.")


@command.command()
def cancel(ctx: typer.Context, run: RunId = None, json: JsonFlag = False) -> None:
    """Stop a run and all its processes, or remove it from the queue. Complete checkpoints are kept."""

    async def stop(services: Services) -> FineTuneRun:
        return await services.finetune.cancel(await _chosen(services, run))

    found = with_services(ctx, stop)
    if json:
        print_json(found)
    else:
        typer.echo(f"Cancelled the training run {found.id}.")


@command.command()
def resume(
    ctx: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="The run's id; without it, the newest that can be resumed.", metavar="[ID]")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch it.")] = False,
    json: JsonFlag = False,
) -> None:
    """Resume a failed or cancelled run from its newest checkpoint."""

    async def go_on(services: Services) -> FineTuneRun:
        found = await services.finetune.resume(await _resumable(services, run))
        if not json:
            typer.echo(f"Training run {found.id} goes on. `tmde finetune watch` follows it.")
        elif not watch:
            print_json(found)
        return await watch_run(services, found.id, json) if watch else found

    found = with_services(ctx, go_on)
    if watch:
        report_end(found, json)


@command.command()
def log(
    ctx: typer.Context,
    run: AnyRunId = None,
    lines: Annotated[int, typer.Option(min=1, max=1000, help="How many lines.")] = 40,
) -> None:
    """Show the last lines of the output of a run's processes."""

    async def tail(services: Services) -> str:
        return await services.finetune.log_tail(await _newest(services, run), lines)

    if text := with_reading(ctx, tail):
        typer.echo(plain(text))
    else:
        typer.echo("The run's processes have printed nothing.", err=True)


def config_help(fields: Iterable[Field]) -> str:
    """Return the help of `tmde finetune config`: the names, allowed values and meanings of the hyperparameters."""
    lines = []
    for field in fields:
        lines.append("  ".join(part for part in (field.name, _allowed(field)) if part))
        lines.append(textwrap.fill(field.help, HELP_WIDTH, initial_indent="  ", subsequent_indent="  "))
    # \b keeps click from joining the lines.
    return "\n".join(("Show or change the hyperparameters that a run has unless it is given others.", "", "\b", *lines))


def _allowed(field: Field) -> str:
    """Return the allowed values, such as `4–128` or `cosine | linear`; an empty string if any value is allowed."""
    if field.choices:
        return " | ".join(field.choices)
    if field.minimum is None or field.maximum is None:
        return ""
    return f"{_figure(field.minimum)}–{_figure(field.maximum)}"


def _figure(number: float) -> str:
    """Format a bound as a person would type it: 1000000 and 0.00001, not 1e+06 and 1e-05."""
    return f"{number:.10f}".rstrip("0").rstrip(".")


@command.command(help=config_help(ranges().values()))
def config(
    ctx: typer.Context,
    changes: Annotated[
        list[str] | None, typer.Argument(help="What to change; nothing shows what is set.", metavar="[NAME=VALUE]…")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show or change the hyperparameters."""

    async def put(services: Services) -> FineTuneConfig:
        return await services.finetune.set_config(_values(changes)) if changes else services.finetune.config()

    found = with_services(ctx, put)
    if json:
        print_json(found)
        return
    rows = [(field.name, getattr(found, field.name), _allowed(field)) for field in ranges().values()]
    print_table(("name", "value", "allowed"), rows, empty="", right=("value",))


# --------------------------------------------------------------------------------------------- inside


def _values(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse assignments such as `learning_rate=3e-4` into the names and types of the API."""
    known = ranges()
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign:
            raise InvalidInputError(f"{assignment!r} is no NAME=VALUE; `tmde finetune config` lists the names.")
        head, *tail = name.strip().replace("-", "_").split("_")
        field = head + "".join(part[:1].upper() + part[1:] for part in tail)
        numeric = field in known and known[field].is_number
        values[field] = _number(text.strip()) if numeric else text.strip()
    return values


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text  # the range check reports what is wrong with the text


async def _chosen(services: Services, text: str | None) -> UUID:
    if text is not None:
        return await services.ids.run(text, named=True)
    current = await services.finetune.get_current()
    if current is None:
        raise ConflictError("No training run is in progress. `tmde finetune list` shows those that have ended.")
    return current.id


async def _newest(services: Services, text: str | None) -> UUID:
    if text is not None or await services.finetune.get_current() is not None:
        return await _chosen(services, text)
    runs, _ = await services.finetune.list(limit=1)
    if not runs:
        raise NotFoundError("There has been no training run yet. `tmde finetune start` begins one.")
    return runs[0].id


async def _resumable(services: Services, text: str | None) -> UUID:
    if text is not None:
        return await services.ids.run(text, named=True)
    runs, _ = await services.finetune.list(limit=200)
    for run in runs:
        if services.finetune.can_resume(run):
            return run.id
    raise ConflictError(
        "No training run can be resumed: it must have failed or been cancelled, and have a checkpoint. "
        "`tmde finetune list` shows all runs."
    )


def _told(attempt: RunAttempt) -> str:
    """Describe an attempt in one line."""
    took = format_duration((attempt.ended_at - attempt.started_at).total_seconds()) if attempt.ended_at else "so far"
    start = "" if attempt.resumed_from_step is None else f"from step {attempt.resumed_from_step}, "
    sizes = f"batch {attempt.batch_size} × {attempt.gradient_accumulation_steps}"
    return f"{attempt.outcome}, {start}{sizes}, {took}" + (f": {attempt.reason}" if attempt.reason else "")


def _announce(run: FineTuneRun, json: bool) -> None:
    if json:
        print_json(run)
        return
    begun = "waits for a `tmde worker` to train" if run.queued else "has started"
    typer.echo(
        f"Training run {run.id} {begun} on {run.traces_used} traces ({run.train_examples} examples to train on, "
        f"{run.val_examples} to validate on). `tmde finetune watch` follows it."
    )
    if run.notice:
        typer.echo(run.notice)


finetune_preview.register(command, _values)
finetune_schedule.register(command)
