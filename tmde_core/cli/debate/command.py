"""Implement `tmde debate`: debate one question and show it, or debate a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import JsonFlag, console, print_json_line
from tmde_core.records.base import to_invalid_input
from tmde_core.records.debate import DebateConfig
from tmde_core.storage.text_files import decode_text

if TYPE_CHECKING:
    from tmde_core.services import Services


def command(
    ctx: typer.Context,
    question: Annotated[str | None, typer.Argument(help="What to debate; - reads it from stdin.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Debate every question of a JSON Lines file; resumes where it stopped."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Most rounds, 1–10.")] = None,
    min_rounds: Annotated[int | None, typer.Option(help="Fewest rounds, 1–10.")] = None,
    accept_score: Annotated[float | None, typer.Option(help="Stop early at this score of the Skeptic, 0–10.")] = None,
    templates: Annotated[int | None, typer.Option(help="How many reasoning templates to use, 0–5.")] = None,
    synthesis: Annotated[str | None, typer.Option(help="always, when-disputed or never.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Which judge scores; auto, none, or a name of `tmde plugins`.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="What the question is about.")] = None,
    reference: Annotated[str | None, typer.Option(help="The right answer, if known: it is then checked.")] = None,
    check: Annotated[str | None, typer.Option(help="How to compare: number, choice, exact, contains or regex.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the models' draws repeatable.")] = None,
    follow: Annotated[str | None, typer.Option(help="The id of a trace that this question follows up.")] = None,
    model: Annotated[str | None, typer.Option(help="Who answers, for this question; a name of `tmde models`.")] = None,
    runtime: Annotated[str | None, typer.Option(help="The runtime that serves --model; else the Proposer's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the Proposer, 0–2.")] = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="With --file: how many debates at once.")] = 1,
    restart: Annotated[bool, typer.Option("--restart", help="With --file: ask every question again.")] = False,
    json: JsonFlag = False,
) -> None:
    """Ask a question and watch two models argue about it. With --json, print the events as JSON Lines."""
    if (question is None) == (file is None):
        raise typer.BadParameter("give a question or --file, and only one of them")
    chosen = None
    if model is not None or runtime is not None:
        chosen = {"runtime": runtime or "", "model": model or ""}
    config = _config(
        model=chosen,
        minRounds=min_rounds,
        maxRounds=rounds,
        acceptScore=accept_score,
        templates=templates,
        synthesis=synthesis,
        judge=judge,
        domain=domain,
        reference=reference,
        check=check,
        seed=seed,
        maxTokens=max_tokens,
        temperature=temperature,
    )
    if file is not None and follow is not None:
        raise typer.BadParameter("--follow goes with one question, not with --file")
    if file is not None:
        from tmde_core.cli.debate.batch import debate_file

        debate_file(ctx, file, config, parallel=parallel, restart=restart, json=json)
        return
    text = _stdin() if question == "-" else str(question)
    try:
        failure = with_services(ctx, lambda services: _watch(services, text, config, json, follow))
    except KeyboardInterrupt:
        typer.echo("Cancelled; nothing was stored.", err=True)
        raise
    if failure is not None:
        if not json:
            typer.echo(f"Error: {' '.join(failure.split())}", err=True)
        raise typer.Exit(1)


async def _watch(
    services: Services, text: str, config: DebateConfig, json: bool, follow: str | None = None
) -> str | None:
    """Debate, print the events, and return the reason of a failure, or None."""
    if follow is not None:
        config = msgspec.structs.replace(config, follows=await services.ids.trace(follow))
    from tmde_core.cli.debate.view import DebatePrinter

    view = DebatePrinter(console())
    debate = await services.debates.start(text, config, source="cli")
    try:
        async for event in (await services.debates.events(debate.id)).follow():
            if json:
                print_json_line(event)
                if event.type in ("error", "cancelled"):
                    view.failure = str(event.data.get("detail", event.type))
            else:
                view.show(event)
    finally:
        view.close()
    await services.debates.wait(debate.id)
    return view.failure


def _config(**chosen: Any) -> DebateConfig:
    """Return the options as a record.

    Raises:
        InvalidInputError: a value is out of its range. The error names the value.
    """
    # The service checks that `check` comes with a reference, and raises the error.
    values = {name: value for name, value in chosen.items() if value is not None}
    try:
        return msgspec.convert(values, DebateConfig)
    except msgspec.ValidationError as error:
        raise to_invalid_input(error, DebateConfig) from None


def _stdin() -> str:
    # Python would decode with the terminal's encoding, and keep the byte order mark that a Windows program writes.
    return decode_text(typer.get_binary_stream("stdin").read(), "The standard input")
