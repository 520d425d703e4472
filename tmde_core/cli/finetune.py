"""`tmde finetune …`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

import msgspec
import typer

from tmde_core.cli.invocation import with_services
from tmde_core.cli.output import (
    JsonFlag,
    duration,
    error_console,
    print_fields,
    print_json,
    print_json_line,
    print_table,
)
from tmde_core.errors import ConflictError, InvalidInputError
from tmde_core.finetune.ranges import config_from, ranges
from tmde_core.finetune.records import FineTuneConfig, FineTuneRun
from tmde_core.record import parse_id
from tmde_core.storage.events import Event

if TYPE_CHECKING:
    from tmde_core.services import Services

command = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Train adapters on good traces.")

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="A hyperparameter for this run, as NAME=VALUE; may be repeated.", metavar="NAME=VALUE"),
]
RunId = Annotated[str | None, typer.Argument(help="The run's id; without it, the one in progress.", metavar="[ID]")]

STATUSES = ("pending", "running", "completed", "failed", "cancelled")


@command.command()
def start(
    ctx: typer.Context,
    set_: Assignments = None,
    backend: Annotated[str | None, typer.Option(help="Which training backend.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch it.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train an adapter on the eligible traces. The run goes on by itself, whatever becomes of this program."""

    async def begin(services: Services) -> FineTuneRun:
        changes = _values(set_ or ()) | ({"backend": backend} if backend else {})
        run = await services.finetune.start(config_from(changes, services.finetune.config()), triggered_by="user")
        if not json or not watch:
            _announce(run, json)
        return await _watch(services, run.id, json) if watch else run

    run = with_services(ctx, begin)
    if watch:
        _end(run, json)


@command.command()
def watch(ctx: typer.Context, run: RunId = None, json: JsonFlag = False) -> None:
    """Follow a run until it ends. Ctrl-C stops watching, not the run."""

    async def follow(services: Services) -> FineTuneRun:
        return await _watch(services, await _chosen(services, run), json)

    _end(with_services(ctx, follow), json)


@command.command("list")
def list_(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option(help=f"Only these: {', '.join(STATUSES)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 50,
    offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Runs, newest first."""
    if status is not None and status not in STATUSES:
        raise InvalidInputError(f"--status: must be one of {', '.join(STATUSES)}.", field="status")
    runs, total = with_services(ctx, lambda services: services.finetune.list(limit, offset, status))  # type: ignore[arg-type]
    if json:
        print_json({"items": runs, "total": total})
        return
    rows = [
        (
            str(run.id),
            run.started_at,
            run.status,
            run.traces_used,
            run.metrics.final_train_loss if run.metrics else None,
            run.metrics.best_val_loss if run.metrics else None,
            run.error_message or "",
        )
        for run in runs
    ]
    print_table(
        ("id", "started", "status", "traces", "loss", "best val", "error"),
        rows,
        empty="No training run yet. `tmde finetune start` begins one; `tmde traces stats` says whether there is enough.",
        right=("traces", "loss", "best val"),
    )


@command.command()
def show(ctx: typer.Context, run: RunId = None, json: JsonFlag = False) -> None:
    """One run: its configuration and what it measured."""

    async def get(services: Services) -> FineTuneRun:
        return await services.finetune.get(await _chosen(services, run))

    found = with_services(ctx, get)
    if json:
        print_json(found)
        return
    metrics = msgspec.structs.asdict(found.metrics) if found.metrics else {}
    took = (found.completed_at - found.started_at).total_seconds() if found.completed_at else None
    print_fields(
        (
            ("id", str(found.id)),
            ("status", found.status),
            ("error", found.error_message),
            ("started", found.started_at),
            ("ended", found.completed_at),
            ("took", duration(took) if took is not None else None),
            ("traces", found.traces_used),
            ("examples", f"{found.train_examples} to train on, {found.val_examples} to validate on"),
            ("base model", found.base_model),
            ("adapter", found.lora_path),
            ("started by", found.triggered_by),
            *((name.replace("_", " "), value) for name, value in metrics.items()),
            *((name, value) for name, value in msgspec.structs.asdict(found.config).items()),
        )
    )


@command.command()
def cancel(ctx: typer.Context, run: RunId = None, json: JsonFlag = False) -> None:
    """End a run with all its processes; complete checkpoints are kept."""

    async def stop(services: Services) -> FineTuneRun:
        return await services.finetune.cancel(await _chosen(services, run))

    found = with_services(ctx, stop)
    if json:
        print_json(found)
    else:
        typer.echo(f"Cancelled the training run {found.id}.")


@command.command()
def config(
    ctx: typer.Context,
    changes: Annotated[
        list[str] | None, typer.Argument(help="What to change; nothing shows what is set.", metavar="[NAME=VALUE]…")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show or change the hyperparameters that a run has unless it is given others."""

    async def put(services: Services) -> FineTuneConfig:
        before = services.finetune.config()
        return await services.finetune.set_config(config_from(_values(changes), before)) if changes else before

    found = with_services(ctx, put)
    if json:
        print_json(found)
        return
    rows = []
    for (name, value), allowed in zip(msgspec.structs.asdict(found).items(), ranges().values(), strict=True):
        span = (
            f"{allowed.minimum:g}–{allowed.maximum:g}"
            if allowed.minimum is not None and allowed.maximum is not None
            else ""
        )
        rows.append((name, value, " | ".join(allowed.choices) or span))
    print_table(("name", "value", "allowed"), rows, empty="", right=("value",))


# --------------------------------------------------------------------------------------------- inside


def _values(assignments: Sequence[str]) -> dict[str, Any]:
    """`learning_rate=3e-4` and the like, in the names and types of the wire."""
    known = ranges()
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign:
            raise InvalidInputError(f"{assignment!r} is no NAME=VALUE; `tmde finetune config` lists the names.")
        head, *tail = name.strip().replace("-", "_").split("_")
        field = head + "".join(part[:1].upper() + part[1:] for part in tail)
        numeric = field in known and isinstance(known[field].default, int | float)
        values[field] = _number(text.strip()) if numeric else text.strip()
    return values


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text  # the check of ranges says what is wrong with it


async def _chosen(services: Services, text: str | None) -> UUID:
    if text is not None:
        return parse_id(text, "training run")
    current = await services.finetune.current()
    if current is None:
        raise ConflictError("No training run is in progress. `tmde finetune list` shows those that have ended.")
    return current.id


def _announce(run: FineTuneRun, json: bool) -> None:
    if json:
        print_json(run)
        return
    typer.echo(
        f"Training run {run.id} has started on {run.traces_used} traces ({run.train_examples} examples to train on, "
        f"{run.val_examples} to validate on). `tmde finetune watch` follows it."
    )


async def _watch(services: Services, run_id: UUID, json: bool) -> FineTuneRun:
    """Show the run's events until it has ended; its row tells how."""
    events = services.finetune.events(run_id)
    show = print_json_line if json else None
    seen = 0
    with _Progress() if show is None else contextlib.nullcontext() as progress:

        def take(event: Event) -> None:
            nonlocal seen
            seen = event.id
            if show is not None:
                show(event)
            elif progress is not None:
                progress.take(event)

        async def follow() -> None:
            async for event in events.follow():
                take(event)

        following = asyncio.create_task(follow())
        try:
            run = await services.finetune.wait(run_id)
        finally:
            # A worker that was killed wrote no last event: the follower would wait for it for ever.
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        for event in events.read(seen):
            take(event)
    return run


class _Progress:
    """A progress bar on stderr; plain lines where stderr is no terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = error_console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("training", total=None, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def take(self, event: Event) -> None:
        """Show one event."""
        data = event.data
        if event.type == "progress":
            figures = f"loss {data['loss']:.3f}" if isinstance(data.get("loss"), int | float) else ""
            left = data.get("etaSeconds")
            figures += f", {duration(float(left))} left" if isinstance(left, int | float) else ""
            self._bar.update(self._task, completed=data.get("step"), total=data.get("totalSteps"), figures=figures)
            if not sys.stderr.isatty():
                typer.echo(f"step {data.get('step')} of {data.get('totalSteps')}: {figures}", err=True)
        elif event.type == "eval":
            self._say(f"step {data.get('step')}: validation loss {data.get('evalLoss')}")
        elif event.type == "log":
            self._say(str(data.get("text", "")))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


def _end(run: FineTuneRun, json: bool) -> None:
    """The last word on a run that was watched; exit code 1 unless it was completed."""
    if not json:
        if run.status == "completed":
            loss = (
                f", final loss {run.metrics.final_train_loss:.3f}"
                if run.metrics and run.metrics.final_train_loss
                else ""
            )
            typer.echo(f"Completed{loss}. `tmde lora activate {run.id}` lets the adapter answer.")
        else:
            typer.echo(
                f"Error: the training run {run.id} is {run.status}: {run.error_message or 'no reason was given'}",
                err=True,
            )
    if run.status != "completed":
        raise typer.Exit(1)
