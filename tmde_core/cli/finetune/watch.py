"""Show a training run's progress, on a terminal or in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import typer

from tmde_core.cli.kit.output import error_console, format_duration, plain, print_json_line
from tmde_core.records.finetune import FineTuneRun
from tmde_core.storage.events import Event

if TYPE_CHECKING:
    from tmde_core.services import Services


WAIT_SECONDS = 1.0
"""The time between two looks at what a pending run waits for."""
BEGINS = "Training begins"


async def watch_run(services: Services, run_id: UUID, json: bool) -> FineTuneRun:
    """Show the run's events until the run has ended, and return its final record."""
    events = services.finetune.events(run_id)
    seen = 0
    with contextlib.nullcontext() if json else TrainingBar() as bar:

        def take(event: Event) -> None:
            nonlocal seen
            seen = event.id
            if bar is None:
                print_json_line(event)
            else:
                bar.take(event)

        async def follow() -> None:
            async for event in events.follow():
                take(event)

        async def show_wait() -> None:
            while bar is not None and (run := await services.finetune.get(run_id)).status == "pending":
                bar.wait(run.notice)
                await asyncio.sleep(WAIT_SECONDS)

        beside = [asyncio.create_task(follow()), asyncio.create_task(show_wait())]
        try:
            run = await services.finetune.wait(run_id)
        finally:
            # A killed worker writes no last event, so the follower would wait endlessly.
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        for event in events.read(seen):
            take(event)
    return run


def report_end(run: FineTuneRun, json: bool) -> None:
    """Report how a watched run ended, and exit with code 1 unless the run was completed."""
    if not json:
        if run.status == "completed":
            loss = (
                f", final loss {run.metrics.final_train_loss:.3f}"
                if run.metrics and run.metrics.final_train_loss
                else ""
            )
            typer.echo(f"Completed{loss}. `tmde lora activate {run.id}` lets the adapter answer.")
        elif run.status == "cancelled":
            typer.echo(f"The training run {run.id} was cancelled.", err=True)
        else:
            typer.echo(
                f"Error: the training run {run.id} has failed: {run.error_message or 'no reason was given'}", err=True
            )
    if run.status != "completed":
        raise typer.Exit(1)


def figures(data: Mapping[str, Any]) -> str:
    """Format a step's figures, such as `loss 1.234, eval 1.301, 35 tokens/s, 4 min 05 s left`.

    Unknown figures are left out.
    """
    parts = []
    for name, form in (("loss", "loss {:.3f}"), ("evalLoss", "eval {:.3f}"), ("tokensPerSecond", "{:.0f} tokens/s")):
        if isinstance(value := data.get(name), int | float):
            parts.append(form.format(value))
    if isinstance(left := data.get("etaSeconds"), int | float) and left > 0:
        parts.append(f"{format_duration(float(left))} left")
    return ", ".join(parts)


class TrainingBar:
    """A progress bar that stays on one line of stderr. If stderr is not a terminal, each step is printed as a line."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self._console = error_console()
        self._live = sys.stderr.isatty()
        # The line fits into 80 columns. A narrower terminal cuts off the end, because a second line would make the view
        # jump.
        self._bar = Progress(
            BarColumn(bar_width=10),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(BEGINS, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def wait(self, notice: str) -> None:
        """Show on a terminal what the run waits for."""
        if self._live:
            self._bar.update(self._task, description=plain(notice) or BEGINS)

    def take(self, event: Event) -> None:
        """Show one event."""
        data = event.data
        if event.type == "progress":
            self._step(data)
        elif event.type == "eval":
            best = ", the best so far" if data.get("best") else ""
            loss = data.get("evalLoss")
            told = f"{loss:.3f}" if isinstance(loss, int | float) else "unknown"
            self._say(f"step {data.get('step')}: validation loss {told}{best}")
        elif event.type == "log":
            self._say(str(data.get("text", "")))

    def _step(self, data: Mapping[str, Any]) -> None:
        step, total, rest = data.get("step"), data.get("totalSteps"), figures(data)
        line = f"step {step} of {total}" + (f": {rest}" if rest else "")
        if self._live:
            self._bar.update(self._task, completed=step, total=total, description=line)
        else:
            typer.echo(line, err=True)

    def _say(self, text: str) -> None:
        self._console.print(plain(text), markup=False)
