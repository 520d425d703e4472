"""Implement `tmde notifications`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import JsonFlag, console, print_json, print_table

if TYPE_CHECKING:
    from tmde_core.records.notifications import Notification
    from tmde_core.services import Services


def command(
    ctx: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="The dismissed ones too.")] = False,
    dismiss: Annotated[
        str | None, typer.Option(help="Do not show this one any more; `all`: none of them.", metavar="ID")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """List what happened that you should know: ended training, decisions of the gate."""

    async def act(services: Services) -> list[Notification]:
        if dismiss == "all":
            console().print(f"Dismissed {await services.notifications.dismiss_all()}.")
        elif dismiss is not None:
            await services.notifications.dismiss(await services.ids.notification(dismiss))
        items, _ = await services.notifications.list(limit, all_)
        return items

    items = with_services(ctx, act)
    if dismiss is not None:
        return
    if json:
        print_json({"items": items, "total": len(items)})
        return
    print_table(
        ("id", "when", "level", "title", "detail"),
        [(str(one.id), one.created_at, one.level, one.title, one.detail) for one in items],
        empty="Nothing to tell.",
    )
