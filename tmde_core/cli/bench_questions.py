"""`tmde bench questions …`, `tmde bench calibrate`: one's own questions, and whether the judge agrees with people."""

from __future__ import annotations

import typer

from tmde_core.cli.invocation import with_services
from tmde_core.cli.output import JsonFlag, console, print_json, print_table

questions = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The questions that are asked.")


@questions.command("list")
def list_(
    ctx: typer.Context,
    domain: str | None = None,
    difficulty: str | None = None,
    suite: str | None = None,
    json: JsonFlag = False,
) -> None:
    """The questions of all suites, one's own among them."""
    found = with_services(ctx, lambda services: services.benchmark.questions(domain, difficulty, suite))
    if json:
        print_json({"items": found, "total": len(found)})
        return
    print_table(
        ("id", "suite", "domain", "difficulty", "quick", "question"),
        [(one.id, one.suite, one.domain, one.difficulty, one.quick, one.question.query) for one in found],
        empty="There are no such questions.",
    )


@questions.command()
def remove(ctx: typer.Context, question: str) -> None:
    """Remove a question of one's own; runs that asked it keep it."""
    with_services(ctx, lambda services: services.benchmark.remove_question(question))
    console().print(f"Removed {question}.")


def register(command: typer.Typer) -> None:
    """Put these under `tmde bench`."""
    command.add_typer(questions, name="questions")
