"""Implement `tmde bench questions …` and `tmde bench calibrate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import JsonFlag, console, error_console, print_fields, print_json, print_table
from tmde_core.errors import InvalidInputError, NotFoundError
from tmde_core.storage.text_files import iterate_lines, read_text_file

if TYPE_CHECKING:
    from tmde_core.benchmark.running.calibration import CalibrationReport, Rated
    from tmde_core.services import Services

questions = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="The questions that are asked."
)

Domain = Annotated[str, typer.Option(help="mathematics, coding, science, reasoning or creative.")]
Difficulty = Annotated[str, typer.Option(help="easy, medium or hard.")]
RATED_LIMIT = 200
"""The number of rated debates that a calibration uses, newest first. They give a reliable result and take a small judge
a few minutes."""


@questions.command("list")
def list_(
    ctx: typer.Context,
    domain: Annotated[str | None, typer.Option(help="Only of this domain.")] = None,
    difficulty: Annotated[str | None, typer.Option(help="Only of this difficulty.")] = None,
    suite: Annotated[str | None, typer.Option(help="Only of this suite; `custom`: one's own.")] = None,
    json: JsonFlag = False,
) -> None:
    """List the questions of all suites, including your own."""
    found = with_services(ctx, lambda services: services.benchmark.questions(domain, difficulty, suite))
    if json:
        print_json({"items": found, "total": len(found)})
        return
    print_table(
        ("id", "suite", "domain", "difficulty", "quick", "question"),
        [(one.id, one.suite, one.domain, one.difficulty, one.quick, one.question) for one in found],
        empty="There are no such questions.",
    )


@questions.command()
def add(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="The question.")],
    domain: Domain,
    difficulty: Difficulty = "medium",
    identity: Annotated[str | None, typer.Option("--id", help="Its id; else one is made.")] = None,
    number: Annotated[float | None, typer.Option(help="The right answer is this number …")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="… give or take so much.")] = 0.0,
    fact: Annotated[
        list[str] | None, typer.Option(help="The answer must state this; wordings between |. May be repeated.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="This pattern must occur in the answer.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A right answer; required if nothing is checked automatically.")
    ] = None,
    rubric: Annotated[str | None, typer.Option(help="What a judge should look for.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change the question that has this --id.")] = False,
    json: JsonFlag = False,
) -> None:
    """Add a question of your own, or change one.

    You can combine number, fact, regex and rubric. Each of them becomes a criterion of equal weight. A rubric alone needs
    a reference.
    """
    from tmde_core.benchmark.questions.custom import decode_question

    if replace and not identity:
        raise InvalidInputError("--replace: it needs the --id of the question to change.", field="replace")
    criteria: list[dict[str, object]] = []
    if number is not None:
        criteria.append({"name": "number", "check": {"kind": "number", "value": number, "tolerance": tolerance}})
    if fact:
        facts = [[wording.strip() for wording in one.split("|")] for one in fact]
        criteria.append({"name": "facts", "check": {"kind": "facts", "facts": facts}})
    if regex is not None:
        criteria.append({"name": "pattern", "check": {"kind": "regex", "pattern": regex}})
    if rubric is not None:
        criteria.append({"name": "rubric", "description": rubric})
    values = {"question": query, "domain": domain, "difficulty": difficulty, "criteria": criteria}
    values |= {"referenceAnswer": reference} if reference is not None else {}
    question = decode_question(values | ({"id": identity} if identity else {}))
    added = with_services(
        ctx,
        lambda services: (
            services.benchmark.replace_question(question) if replace else services.benchmark.add_question(question)
        ),
    )
    if json:
        print_json(added)
    else:
        done = "Changed" if replace else "Added"
        console().print(f"{done} {added.id}. `tmde bench run custom --question {added.id}` asks it.")


@questions.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON Lines, JSON or YAML; docs/benchmarks.md lists the forms.")],
    domain: Domain = "reasoning",
    difficulty: Difficulty = "medium",
    json: JsonFlag = False,
) -> None:
    """Import questions from a file. Invalid entries are reported by their line; the other questions are stored."""
    if file.suffix.lower() in (".csv", ".tsv", ".parquet", ".xlsx"):
        raise InvalidInputError(
            f"{file.suffix} files are not read. Write the questions as JSON Lines (one JSON object per line) or YAML."
        )
    content = read_text_file(file)
    as_yaml = file.suffix.lower() in (".yaml", ".yml")
    done = with_services(
        ctx,
        lambda services: services.benchmark.import_questions(
            content, as_yaml=as_yaml, domain=domain, difficulty=difficulty
        ),
    )
    if json:
        print_json(done)
    else:
        console().print(f"Imported {len(done.imported)} question{'s' * (len(done.imported) != 1)}.")
        for entry in done.skipped:
            error_console().print(f"{'Entry' if as_yaml else 'Line'} {entry.line}: {entry.reason}", markup=False)
    if done.skipped and not done.imported:
        raise typer.Exit(1)


@questions.command()
def remove(ctx: typer.Context, question: Annotated[str, typer.Argument(help="The question's id.")]) -> None:
    """Remove a question of your own. Runs that asked the question keep it."""

    async def take(services: Services) -> str:
        identity = await services.ids.question(question)
        await services.benchmark.remove_question(identity)
        return identity

    console().print(f"Removed {with_services(ctx, take)}.")


def calibrate(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="JSON Lines with question, answer and rating (1–10); without it, the debates that you rated."
        ),
    ] = None,
    judge: Annotated[str, typer.Option(help="A judge's name; else the rubric judge.")] = "",
    json: JsonFlag = False,
) -> None:
    """Compare a judge with people: how similarly it ranks answers, and how far its scores differ."""

    async def measure(services: Services) -> CalibrationReport:
        rated = _rated(read_text_file(file)) if file else await _rated_debates(services)
        if not rated:
            raise NotFoundError("There is no rated answer to compare with. Rate debates with `tmde traces rate` first.")
        shown = error_console() if sys.stderr.isatty() else None

        def told(done: int) -> None:
            if shown is not None:
                shown.print(f"\rScored {done} of {len(rated)}", end="")

        report = await services.benchmark.calibrate(rated, judge, told)
        if shown is not None:
            shown.print()
        return report

    found = with_services(ctx, measure)
    if json:
        print_json(found)
        return
    print_fields(
        (
            ("judge", found.judge),
            ("answers", found.n),
            ("without verdict", found.unscored),
            ("Spearman's rho", None if found.spearman is None else f"{found.spearman:.2f} (p = {found.p:.3g})"),
            ("mean error", None if found.mean_error is None else f"{found.mean_error:+.1f} points of 10"),
            (
                "mean absolute error",
                None if found.mean_absolute_error is None else f"{found.mean_absolute_error:.1f} points of 10",
            ),
            ("in short", found.advice),
        )
    )


def register(command: typer.Typer) -> None:
    """Add these commands to `tmde bench`."""
    command.add_typer(questions, name="questions")
    command.command()(calibrate)


async def _rated_debates(services: Services) -> list[Rated]:
    from tmde_core.benchmark.running.calibration import Rated
    from tmde_core.records.traces import TraceFilter

    page = await services.traces.list(TraceFilter(rated=True), RATED_LIMIT)
    return [
        Rated(question=trace.query, answer=trace.final_answer, rating=float(trace.user_rating or 0))
        for trace in page.items
    ]


def _rated(text: str) -> list[Rated]:
    from tmde_core.benchmark.running.calibration import Rated
    from tmde_core.records.base import from_json

    found = []
    for number, line in iterate_lines(text):
        try:
            one = from_json(line, Rated)
        except InvalidInputError as error:
            raise InvalidInputError(f"Line {number}: {error.detail}") from None
        if not 1 <= one.rating <= 10:
            raise InvalidInputError(f"Line {number}: rating: must be from 1 to 10.", field="rating")
        found.append(one)
    return found
