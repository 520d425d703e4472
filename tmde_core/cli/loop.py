"""Implement `tmde loop`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import JsonFlag, console, error_console, format_duration, plain, print_json
from tmde_core.loop.watcher import LoopProgress

if TYPE_CHECKING:
    from tmde_core.loop.records import LoopPlan, LoopReport
    from tmde_core.settings import Settings

SKEPTIC_TOKENS = 64
"""The token limit of a critique. A short answer needs no more, and practice has hundreds of critiques."""


def command(
    ctx: typer.Context,
    questions: Annotated[Path, typer.Argument(help="JSON Lines with the splits `practice` and `held-out`.")],
    tries: Annotated[int, typer.Option(help="Debates for each practice question at the most.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of a practice debate.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the Proposer while it practises.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(help="Of one answer.")] = 48,
    parallel: Annotated[int, typer.Option(help="Questions under way at once.")] = 4,
    epochs: Annotated[int, typer.Option(help="Passes over the examples in training.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of the training.")] = 5e-4,
    min_traces: Annotated[int, typer.Option(help="Fewest examples to train on.")] = 40,
    seed: Annotated[int, typer.Option(help="Another seed is another loop.")] = 7,
    again: Annotated[bool, typer.Option("--again", help="Begin anew even if this loop has finished.")] = False,
    json: JsonFlag = False,
) -> None:
    """Ask, practise, train, activate, ask again, and show before and after. An interrupted loop resumes."""
    from tmde_core.loop.records import LoopPlan
    from tmde_core.records.base import to_invalid_input

    choices = {
        "tries": tries,
        "rounds": rounds,
        "temperature": temperature,
        "maxTokens": max_tokens,
        "parallel": parallel,
        "epochs": epochs,
        "learningRate": learning_rate,
        "minTraces": min_traces,
        "seed": seed,
    }
    try:
        plan = msgspec.convert(choices, LoopPlan)
    except msgspec.ValidationError as error:
        raise to_invalid_input(error, LoopPlan) from None
    settings = settings_of(ctx)
    log_to_file(settings)
    try:
        report = asyncio.run(_run(_brief(settings), questions, plan, again=again))
    except KeyboardInterrupt:
        typer.echo("Stopped. What is done is kept; the same command goes on from here.", err=True)
        raise
    if json:
        print_json(report)
    else:
        _show(report)


def _brief(settings: Settings) -> Settings:
    """Return the settings with a Skeptic that writes short critiques."""
    skeptic = settings.roles.skeptic
    short = msgspec.structs.replace(skeptic, max_tokens=min(skeptic.max_tokens, SKEPTIC_TOKENS))
    return msgspec.structs.replace(settings, roles=msgspec.structs.replace(settings.roles, skeptic=short))


async def _run(settings: Settings, file: Path, plan: LoopPlan, *, again: bool) -> LoopReport:
    from tmde_core.benchmark.questions.files import read_questions
    from tmde_core.loop.journal import Journal
    from tmde_core.loop.service import Loop
    from tmde_core.services import open_services

    questions = read_questions(file)
    journal = Journal.of(settings.data_path / "loops", questions, plan, again=again)
    async with open_services(settings) as services:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=error_console(),
        ) as progress:
            parts = (services.workspace, services.debates, services.traces, services.finetune, services.lora)
            return await Loop(*parts, questions, plan, journal, _Bars(progress)).run()


class _Bars(LoopProgress):
    """Shows each step as a progress bar that stays visible after the step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._right = self._judged = 0

    def step(self, name: str, total: int, done: int) -> None:
        """Start a bar for the next step."""
        self._right = self._judged = 0
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._task = self._progress.add_task(name, total=total, completed=done, note="")

    def piece(self, right: bool | None) -> None:
        """Advance the bar by one piece, and count right answers."""
        if self._task is None:
            return
        if right is not None:
            self._judged += 1
            self._right += right
        note = f"{self._right} of {self._judged} right" if self._judged else ""
        self._progress.update(self._task, advance=1, note=note)

    def training(self, step: int, total: int, loss: float | None, eta_seconds: float | None) -> None:
        """Show the progress of the training."""
        if self._task is None:
            return
        # The total is one step higher, because the bar should be full when the adapter is published, not after the last
        # batch.
        note = "" if loss is None else f"loss {loss:.3f}"
        if eta_seconds:
            note += f", {format_duration(eta_seconds)} left"
        self._progress.update(self._task, total=total + 1, completed=step, note=note)


def _show(report: LoopReport) -> None:
    out = console()
    table = Table(title="Held-out questions answered right, before and after", title_justify="left")
    table.add_column("domain")
    for name in ("questions", "before", "after", "change"):
        table.add_column(name, justify="right")
    for row in report.domains:
        table.add_row(
            plain(row.domain),
            str(row.questions),
            f"{row.before:.0%}",
            f"{row.after:.0%}",
            _points(row.after - row.before),
        )
    overall = report.overall
    table.add_section()
    table.add_row(
        "all",
        str(overall.questions),
        f"{overall.before:.1%}",
        f"{overall.after:.1%}",
        _points(overall.difference),
        style="bold",
    )
    out.print(table)
    colour = {"better": "green", "worse": "red", "inconclusive": "yellow"}[report.outcome]
    out.print(
        Text.assemble(
            "The difference is ",
            (_points(overall.difference), "bold"),
            f" points, 95 % interval {_points(overall.low)} to {_points(overall.high)} (paired bootstrap), "
            f"p = {overall.p:.4f}: ",
            (report.outcome, f"bold {colour}"),
            ".",
        )
    )
    out.print(
        f"Practice: {report.practice_debates} debates on {report.practice_questions} questions, "
        f"{report.practice_solved} of them solved at least once."
    )
    if report.unscored:
        out.print(f"{report.unscored} held-out questions had no verdict and are left out.")
    title = "Now answered by the adapter" if report.last.adapter_id else "Now answered by the base model"
    body = Text(f"{plain(report.last.query)}\n{plain(report.last.answer)}")
    out.print(Panel(body, title=f"{title} {report.last.adapter_id or ''}".strip(), title_align="left", expand=False))
    if report.outcome != "better":
        out.print("Not proven better. `tmde lora rollback` puts back what answered before.")


def _points(share: float) -> str:
    return f"{share * 100:+.1f}"
