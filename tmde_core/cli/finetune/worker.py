"""Implement `tmde worker`: train queued runs in a separate process, such as one in a container with a GPU."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import settings_of

if TYPE_CHECKING:
    from tmde_core.settings import Settings


def command(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is queued or in progress.")] = False,
) -> None:
    """Train queued runs and supervise the runs in progress. Ctrl-C or SIGTERM ends this program, not the run."""
    from tmde_core.cli.kit.logs import log_to_stderr

    settings = settings_of(ctx)
    log_to_stderr(settings)
    asyncio.run(_work(settings, once=once))


async def _work(settings: Settings, *, once: bool) -> None:
    from tmde_core.services import open_services

    async with open_services(settings) as services:
        working = asyncio.create_task(services.finetune.run_worker(once=once))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, working.cancel)
        typer.echo(f"The worker looks after the training runs in {settings.data_dir} (Ctrl-C ends it, not a run)")
        await asyncio.wait({working})
        if not working.cancelled():
            working.result()
