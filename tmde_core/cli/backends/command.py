"""Define the commands of `tmde backends`."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import with_reading
from tmde_core.cli.kit.output import (
    JsonFlag,
    confirm_deletion,
    format_bytes,
    format_duration,
    print_fields,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tmde_core.backends.building import InstallProgress
    from tmde_core.backends.service import BackendEnvironment, BackendEnvironments, InstallPlan
    from tmde_core.sdk.environments import ProbeReport
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    help="What trains: list, install, examine, remove.",
)

Name = Annotated[str, typer.Argument(help="The name of the backend.")]

FOLLOW_SECONDS = 0.5
"""The time between two looks at an installation by another process."""


@command.command("list")
def list_backends(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the training backends, their environments, and which one `auto` selects."""

    async def listed(services: Services) -> None:
        found, chosen = services.backends.list(), services.backends.choice()
        if json:
            print_json(found)
            return
        print_table(
            ("backend", "environment", "packages", "auto", "works here"),
            [(one.name, _state(one), one.build, one.chosen, one.availability.reason or "yes") for one in found],
            empty="No plugin provides a training backend. Install tmde-cpu.",
        )
        if chosen is not None:
            typer.echo(f"auto: {chosen.name}. {chosen.why}", err=True)

    with_reading(ctx, listed)


@command.command()
def install(
    ctx: typer.Context,
    name: Name,
    build: Annotated[
        str, typer.Option("--build", help="Which packages: `auto` asks the driver; else `cpu`, `cu128`, `cu130`.")
    ] = "auto",
    json: JsonFlag = False,
) -> None:
    """Install the Python environment of a backend in the data directory, and examine it.

    If another process installs it already, such as the server, follow that installation.
    """
    from tmde_core.cli.app import INTERRUPTED
    from tmde_core.errors import InstallationCancelledError

    async def installed(services: Services) -> None:
        await _follow(services, name, build)
        _announce(services.backends, name, build)
        try:
            report = await services.backends.install(name, build, _teller())
        except InstallationCancelledError as error:  # it ends as after Ctrl-C
            typer.echo(error.detail, err=True)
            raise typer.Exit(INTERRUPTED) from None
        _show(name, report, json)

    with_reading(ctx, installed)


@command.command()
def cancel(ctx: typer.Context, name: Name) -> None:
    """Cancel the installation of a backend that another process runs. What was fetched is kept."""

    async def cancelled(services: Services) -> None:
        ended = await services.installations.cancel(name)
        typer.echo(
            f"The installation of {name} was cancelled. `tmde backends install {name}` goes on from there."
            if ended.state == "cancelled"
            else f"The installation of {name} had ended already: {ended.error or 'it is complete'}"
        )

    with_reading(ctx, cancelled)


@command.command()
def doctor(ctx: typer.Context, name: Name, json: JsonFlag = False) -> None:
    """Examine the environment of a backend: versions, card, 4 bits, and what to do about each lack."""

    async def examined(services: Services) -> None:
        _show(name, await services.backends.doctor(name), json)

    with_reading(ctx, examined)


@command.command()
def remove(
    ctx: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete the environment of a backend. Adapters and runs stay."""

    async def removed(services: Services) -> None:
        found = next((one for one in services.backends.list() if one.name == name), None)
        if found is not None and found.state in ("installed", "incomplete"):
            confirm_deletion(yes, f"Delete the environment of {name}? `tmde backends install {name}` brings it back.")
        freed = await services.backends.remove(name)
        typer.echo(f"Freed {format_bytes(freed)}." if freed else f"There is no environment of {name}.")

    with_reading(ctx, removed)


async def _follow(services: Services, name: str, build: str) -> None:
    """Follow an installation of the same packages by another process until it has ended."""
    from tmde_core.backends.building import InstallProgress

    now, tell = services.installations.current(name), _teller()
    if now is None or now.state != "installing" or build not in ("auto", now.build):
        return
    typer.echo(f"Another process ({now.process}) installs these packages. This command follows it.", err=True)
    ending = asyncio.create_task(services.installations.wait(name))
    while not (await asyncio.wait((ending,), timeout=FOLLOW_SECONDS))[0]:
        now = await asyncio.to_thread(services.installations.current, name)
        if now is not None and now.state == "installing":
            tell(InstallProgress(now.step, now.done, now.total, now.detail, now.seconds))
    if sys.stderr.isatty():
        typer.echo("", err=True)
    typer.echo(f"The other process has ended: {ending.result().state}.", err=True)


def _state(backend: BackendEnvironment) -> str:
    now = backend.installation
    return "installing" if now is not None and now.state == "installing" else backend.state


def _announce(backends: BackendEnvironments, name: str, build: str) -> None:
    """Say what an installation does, before it begins."""
    if backends.is_built_in(name):
        typer.echo(f"TMDE's own environment has the packages of {name}; they are examined.", err=True)
        return
    typer.echo(_describe_plan(backends.plan(name, build)), err=True)


def _describe_plan(plan: InstallPlan) -> str:
    """Return what an installation does: it installs, goes on, or only examines what is complete."""
    if plan.current:
        return (
            f"The {plan.packages} packages ({plan.build}) are installed in {plan.directory}. {plan.why} They are only "
            "examined."
        )
    return (
        f"{'Going on with' if plan.continues else 'Installing'} {plan.packages} packages ({plan.build}, Python "
        f"{plan.python}) in {plan.directory}. {plan.why} About {format_bytes(plan.download_bytes)} are fetched and "
        f"{format_bytes(plan.disk_bytes)} are needed on the disk; {format_bytes(plan.free_bytes)} are free."
    )


def _show(name: str, report: ProbeReport, json: bool) -> None:
    """Print a report, and end with 1 if the backend cannot train."""
    if json:
        print_json(report)
    else:
        card = f"{report.device_name}, compute capability {report.compute_capability}"
        print_fields(
            [
                ("backend", name),
                ("python", report.python),
                *report.versions.items(),
                ("device", report.device or "none"),
                *([("card", card), ("memory", format_bytes(report.memory_bytes))] if report.device_name else []),
                ("4 bits", "yes" if report.four_bit else "no"),
            ]
        )
        for lack in report.lacks:
            typer.echo(f"{'Lacking' if lack.fatal else 'Note'}: {lack.what} {lack.remedy}".rstrip())
    if not report.ok:
        raise typer.Exit(1)


def _teller() -> Callable[[InstallProgress], None]:
    """Return a function that shows progress on stderr: one changing line on a terminal, else a line for each step."""
    terminal, seen = sys.stderr.isatty(), ""

    def tell(progress: InstallProgress) -> None:
        nonlocal seen
        count = f" {progress.done} of {progress.total}" if progress.total else ""
        detail = f": {progress.detail}" if progress.detail else ""
        if terminal:
            line = f"\r\033[K{progress.step}{count}{detail} … {format_duration(progress.seconds)}"
            sys.stderr.write(line[:160])
            sys.stderr.flush()
        elif progress.step != seen:
            sys.stderr.write(f"{progress.step} … {format_duration(progress.seconds)}\n")
        seen = progress.step

    return tell
