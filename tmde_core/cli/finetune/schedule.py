"""Implement `tmde finetune schedule` and `tmde bench schedule`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from tmde_core.cli.kit.invocation import with_services
from tmde_core.cli.kit.output import JsonFlag, print_fields, print_json, print_table

if TYPE_CHECKING:
    from tmde_core.records.schedule import ScheduleName, ScheduleStatus
    from tmde_core.services import Services


def schedule_command(name: ScheduleName, what: str) -> Callable[..., None]:
    """Return the command that shows and changes one schedule."""

    def schedule(
        ctx: typer.Context,
        set_: Annotated[
            str | None,
            typer.Option(
                "--set",
                help="Five cron fields such as `0 2 * * 0`, a shorthand such as `@weekly`, or `off`.",
                metavar="CRON",
            ),
        ] = None,
        timezone: Annotated[str | None, typer.Option(help="An IANA name such as Europe/Berlin.")] = None,
        json: JsonFlag = False,
    ) -> None:
        async def change(services: Services) -> ScheduleStatus:
            if set_ is None and timezone is None:
                return await services.schedules.status(name)
            return await services.schedules.set(name, set_, timezone)

        status = with_services(ctx, change)
        if json:
            print_json(status)
            return
        print_fields(
            (
                ("schedule", f"{status.description} ({status.expression})" if status.enabled else status.description),
                *((("problem", status.problem),) if status.problem else ()),
                ("time zone", status.timezone),
                *(("next" if number == 0 else "then", moment) for number, moment in enumerate(status.next_runs[:3])),
            )
        )
        print_table(
            ("due", "decision", "detail"),
            [(one.due_at, one.action, one.reason) for one in status.decisions],
            empty="No scheduled run yet.",
        )

    schedule.__doc__ = f"When {what} by itself, what was decided the last times and why; --set changes it."
    return schedule


def register(command: typer.Typer) -> None:
    """Add the command to `tmde finetune`."""
    command.command("schedule")(schedule_command("finetune", "training starts"))
