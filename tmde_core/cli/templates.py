"""Define the commands of `tmde templates`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import JsonFlag, console, plain, print_fields, print_json, print_table

if TYPE_CHECKING:
    from tmde_core.records.templates import Template
    from tmde_core.services import Services

command = typer.Typer(
    rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="Reasoning templates: list, show, search."
)


@command.command("list")
def list_(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List every template on this machine."""
    templates = with_services(ctx, lambda services: services.templates.list())
    if json:
        print_json(templates)
        return
    rows = [(item.id, item.name, item.domain, item.methodology, item.source) for item in templates]
    print_table(
        ("id", "name", "domain", "methodology", "source"),
        [tuple(str(value) for value in row) for row in rows],
        empty="There are no templates. The starter ones come with the next `./run setup`.",
    )


@command.command()
def show(
    ctx: typer.Context,
    template: Annotated[str, typer.Argument(help="The template's id, or its name.")],
    json: JsonFlag = False,
) -> None:
    """Show one template with its text."""
    found = with_services(ctx, lambda services: _find(services, template))
    if json:
        print_json(found)
        return
    print_fields(
        (
            ("id", str(found.id)),
            ("name", found.name),
            ("description", found.description),
            ("domain", found.domain),
            ("methodology", found.methodology),
            ("keywords", ", ".join(found.keywords)),
            ("source", found.source),
            ("updated", found.updated_at),
        )
    )
    console().print(f"\n{plain(found.body).strip()}", markup=False)


@command.command()
def search(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="A question, as one would ask it in a debate.")],
    limit: Annotated[int, typer.Option(min=1, max=50, help="How many.")] = 5,
    json: JsonFlag = False,
) -> None:
    """List the templates that a debate on this question would find, best first."""
    found = with_services(ctx, lambda services: services.templates.search(question, limit))
    if json:
        print_json(found)
        return
    rows = [(str(hit.template.id), f"{hit.score:.2f}", hit.template.name, hit.template.description) for hit in found]
    print_table(("id", "score", "name", "description"), rows, empty="No template fits these words.", right=("score",))


async def _find(services: Services, wanted: str) -> Template:
    """Return the template with this id, its beginning or, ignoring case, this name."""
    return await services.templates.get(await services.ids.template(wanted, named=True))
