"""Implement `tmde worker`: train queued runs in a separate process, such as one in a container with a GPU."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.errors import InvalidInputError

if TYPE_CHECKING:
    from tmde_core.services import Services
    from tmde_core.settings import Settings


def command(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is queued or in progress.")] = False,
    pause_runs: Annotated[
        bool,
        typer.Option(
            "--pause-runs",
            help="When this program is asked to end, stop the run at a checkpoint. It waits for the next worker. For "
            "containers, in which no run can go on by itself.",
        ),
    ] = False,
    install: Annotated[
        str | None,
        typer.Option(help="First install and examine the environment of this backend.", metavar="BACKEND"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether a worker runs and answers. The exit code is 1 if not.")
    ] = False,
) -> None:
    """Train queued runs and supervise the runs in progress. Ctrl-C or SIGTERM ends this program, not the run."""
    settings = settings_of(ctx)
    if check:
        if once or pause_runs or install:
            raise InvalidInputError("--check starts no worker, so it goes with no other option.")
        _check(settings)
        return
    from tmde_core.cli.kit.logs import log_to_stderr

    log_to_stderr(settings)
    asyncio.run(_work(settings, once=once, pause_runs=pause_runs, install=install))


def _check(settings: Settings) -> None:
    from tmde_core.finetune.supervision.presence import NO_WORKER, find_worker

    found = find_worker(settings.data_path)
    typer.echo(found.describe() if found else NO_WORKER)
    if found is None or found.is_late():
        raise typer.Exit(1)


async def _work(settings: Settings, *, once: bool, pause_runs: bool, install: str | None) -> None:
    from tmde_core.services import open_services

    async with open_services(settings) as services:
        if not services.finetune.trains_elsewhere:
            typer.echo(
                "Note: supervisor.place is `server`, so nothing is queued for a worker. For the server and this worker, set "
                "TMDE_SUPERVISOR=worker, or supervisor.place in the settings.",
                err=True,
            )
        if install is not None:
            services.plugins.backends.choose(install, "--install")

        async def first(tell: Callable[[str], None]) -> None:
            if install is not None:
                await _install(services, install, tell)
            typer.echo(f"The worker looks after the training runs in {settings.data_dir} ({_ending(pause_runs)})")

        working = asyncio.create_task(services.finetune.run_worker(once=once, pause=pause_runs, first=first))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, working.cancel)
        await asyncio.wait({working})
        if not working.cancelled():
            working.result()


def _ending(pause_runs: bool) -> str:
    return "Ctrl-C ends it, and pauses a run" if pause_runs else "Ctrl-C ends it, not a run"


async def _install(services: Services, name: str, tell: Callable[[str], None]) -> None:
    """Install and examine the environment of a backend.

    What the environment lacks is printed, and the pages show it as well. It does not keep other backends from training.

    Raises:
        TmdeError: see `BackendEnvironments.install`.
    """
    said = ""

    def progress(step: str) -> None:
        nonlocal said
        tell(f"It installs the environment of {name}: {step}.")
        if step != said:
            said = step
            typer.echo(step, err=True)

    progress("Examining what there is")
    report = await services.backends.install(name, tell=lambda at: progress(at.step))
    for lack in report.lacks:
        typer.echo(f"{lack.what} {lack.remedy}".strip(), err=True)
