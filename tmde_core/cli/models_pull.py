"""Implement `tmde models pull`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import (
    JsonFlag,
    confirm_deletion,
    console,
    error_console,
    format_bytes,
    format_duration,
    plain,
    print_fields,
    print_json,
    print_json_line,
    print_table,
)
from tmde_core.errors import InvalidInputError
from tmde_core.records.pulls import Pull, PullPlan, PullRequest

if TYPE_CHECKING:
    from tmde_core.models.pulling import PullService

ASK_ABOVE_BYTES = 1_000_000_000
"""A pull of more than this asks first, if a person can answer."""
SMALL_FILE_BYTES = 1_000_000
"""Smaller files are counted and not listed."""
WEIGHTS = (".safetensors", ".gguf")
"""The endings of files that are always listed."""
LINE_PERCENT = 10
"""Without a terminal, progress is one line for each step of this many percent."""


def pull_command(
    ctx: typer.Context,
    repository: Annotated[
        str | None,
        typer.Argument(
            help="OWNER/NAME on the hub, with :FILE or :Q4_K_M behind it for one GGUF file, or the address of its page; "
            "without it, list the pulls.",
            metavar="REPO[:FILE]",
        ),
    ] = None,
    quantization: Annotated[
        str | None, typer.Argument(help="With --gguf: the quantisation, such as Q4_K_M.", metavar="QUANT")
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Fetch the weights that training starts from.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="Fetch a GGUF file, which runtimes serve.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.", metavar="REV")] = None,
    name: Annotated[str | None, typer.Option(help="The name of the base model here; else the repository's.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    discard: Annotated[
        str | None, typer.Option(help="Delete what an unfinished pull has left on the disk.", metavar="NAME")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Fetch a base model from the hub, or go on with an interrupted pull. Nothing of the repository is ever run."""
    from tmde_core.models.pulling import PullService

    settings = settings_of(ctx)
    log_to_file(settings)
    service = PullService(settings)
    if discard is not None:
        _discard(service, discard, yes)
    elif repository is None:
        _list(service, json)
    else:
        request = PullRequest(
            repository=repository,
            form=_form(weights, gguf or quantization is not None),
            quantization=quantization or "",
            revision=revision or "",
            name=name or "",
        )
        _pull(service, request, yes=yes, json=json)


def _form(weights: bool, gguf: bool) -> Literal["auto", "weights", "gguf"]:
    if weights and gguf:
        raise InvalidInputError("Say either --weights or --gguf; pull twice for both.", field="weights")
    return "weights" if weights else "gguf" if gguf else "auto"


def _pull(service: PullService, request: PullRequest, *, yes: bool, json: bool) -> None:
    plan = asyncio.run(service.plan(request))
    if json:
        print_json_line({"plan": plan})
    else:
        _print_plan(plan)
    if plan.here:
        if not json:
            typer.echo(f"{plan.name} is here already, with exactly these files. Nothing was fetched.")
        return
    _confirm(service, plan, yes=yes or json)
    try:
        ended = asyncio.run(_follow(service, plan, json))
    except KeyboardInterrupt:
        service.stop()
        typer.echo("\nStopped. What was fetched is kept: the same command goes on from there.", err=True)
        raise
    if not json:
        _report(ended)
    if ended.state != "done":
        raise typer.Exit(1)


def _confirm(service: PullService, plan: PullPlan, *, yes: bool) -> None:
    """Check the disk, and ask a person about a large pull."""
    service.require_room(plan)
    if yes or plan.missing_bytes <= ASK_ABOVE_BYTES or not sys.stdin.isatty():
        return
    if not typer.confirm(f"Fetch {format_bytes(plan.missing_bytes)}?", default=True):
        typer.echo("Nothing was fetched.", err=True)
        raise typer.Exit(1)


async def _follow(service: PullService, plan: PullPlan, json: bool) -> Pull:
    last = await service.start(plan)
    with PullBar(hidden=json) as bar:
        async for now in service.watch(last.id):
            if json:
                print_json_line({"pull": now})
            else:
                bar.show(now)
            last = now
    return last


def _report(pull: Pull) -> None:
    if pull.state == "done":
        what = "its weights, which training can start from" if pull.form == "weights" else "its GGUF file"
        typer.echo(f"Done: {pull.name} has {what}. `tmde models` lists the models.")
        if pull.form == "gguf":
            typer.echo(say_how_to_choose(pull.name))
    elif pull.state == "cancelled":
        typer.echo("The pull was cancelled. The same command goes on from there.", err=True)
    else:
        typer.echo(f"Error: {plain(pull.error or 'the pull failed')}", err=True)


def say_how_to_choose(name: str) -> str:
    """Return what a person does so that a base model answers."""
    return f"Let it answer: tmde models use {shlex.quote(name)}, or choose it on the page /models."


def _print_plan(plan: PullPlan) -> None:
    """Print what will be fetched, before it is."""
    large = [file for file in plan.files if file.size_bytes >= SMALL_FILE_BYTES or file.path.endswith(WEIGHTS)]
    small = [file for file in plan.files if file not in large]
    state = ", which is here" if plan.here else ", which is here and gets these files" if plan.merges else ""
    here = f", of which {format_bytes(plan.present_bytes)} are here" if plan.present_bytes else ""
    what = "weights for training" if plan.form == "weights" else f"a GGUF file {plan.quantization}".strip()
    print_fields(
        [
            ("repository", f"{plan.repository}, {plan.revision} at {plan.commit[:12]}"),
            ("hub", plan.endpoint),
            ("licence", plan.license or "none named"),
            ("base model", f"{plan.name}{state}"),
            ("fetches", what),
            *(("", f"{format_bytes(file.size_bytes):>9}  {file.path}") for file in large),
            ("", f"{format_bytes(sum(file.size_bytes for file in small)):>9}  {_count(len(small))}" if small else ""),
            ("total", f"{format_bytes(plan.total_bytes)}{here}"),
            ("free disk", format_bytes(plan.free_bytes)),
            *(("left out", f"{', '.join(paths)}: {reason}") for reason, paths in _left_out(plan)),
        ]
    )
    for note in plan.notes:
        console().print(plain(note), markup=False)


def _left_out(plan: PullPlan) -> list[tuple[str, list[str]]]:
    """Return the files that are left out by their reason, at most three of each."""
    counts = Counter(one.reason for one in plan.left_out)
    found = []
    for reason, count in counts.items():
        paths = [one.path for one in plan.left_out if one.reason == reason]
        found.append((reason, paths if count <= 3 else [*paths[:2], f"{count - 2} more"]))
    return found


def _count(files: int) -> str:
    return "1 small file" if files == 1 else f"{files} small files"


def _list(service: PullService, json: bool) -> None:
    pulls = asyncio.run(service.list())
    if json:
        print_json(pulls)
        return
    print_table(
        ("name", "repository", "form", "state", "fetched", "of", "error"),
        [
            (
                pull.name,
                pull.repository,
                pull.form,
                pull.state,
                format_bytes(pull.bytes_done),
                format_bytes(pull.bytes_total),
                pull.error or "",
            )
            for pull in pulls
        ],
        empty="Nothing was pulled lately. Name a repository: tmde models pull Qwen/Qwen3-4B-GGUF",
        right=("fetched", "of"),
    )


def _discard(service: PullService, name: str, yes: bool) -> None:
    confirm_deletion(yes, f"Delete what was fetched of {name}?")
    freed = asyncio.run(service.discard(name))
    typer.echo(f"Deleted {format_bytes(freed)} of the unfinished pull of {name}.")


class PullBar:
    """A progress bar on one line of stderr. If stderr is not a terminal, each tenth is printed as a line."""

    def __init__(self, *, hidden: bool = False) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._live = sys.stderr.isatty()
        self._console = error_console()
        self._bar = Progress(
            BarColumn(bar_width=10),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            disable=hidden or not self._live,
        )
        self._task = self._bar.add_task("Starts", total=None)
        self._said = ""
        self._step = -1

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, pull: Pull) -> None:
        """Show the state of a pull."""
        if pull.message and pull.message != self._said:
            self._console.print(plain(pull.message), markup=False)
        self._said = pull.message or self._said
        if pull.state == "queued":
            return
        line = describe(pull)
        self._bar.update(self._task, completed=pull.bytes_done, total=pull.bytes_total or None, description=line)
        step = 100 * pull.bytes_done // (pull.bytes_total or 1) // LINE_PERCENT
        if not self._live and step != self._step:
            self._step = step
            typer.echo(line, err=True)


def describe(pull: Pull) -> str:
    """Format the progress, such as `1.2 GB of 4.0 GB, 35.1 MB/s, 1 min 20 s left`. Unknown figures are left out."""
    parts = [f"{format_bytes(pull.bytes_done)} of {format_bytes(pull.bytes_total)}"]
    if pull.bytes_per_second:
        parts.append(f"{format_bytes(round(pull.bytes_per_second))}/s")
    if pull.eta_seconds and pull.bytes_done < pull.bytes_total:
        parts.append(f"{format_duration(pull.eta_seconds)} left")
    return ", ".join(parts)
