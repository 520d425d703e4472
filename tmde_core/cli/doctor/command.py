"""Define the command `tmde doctor`."""

from __future__ import annotations

import asyncio

import typer

from tmde_core.cli.kit.invocation import Invocation
from tmde_core.cli.kit.output import JsonFlag, console, print_json


def command(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Check this machine and this installation. The exit code is 1 if something essential is broken."""
    from rich.text import Text

    from tmde_core.cli.doctor.checks import examine

    checks = asyncio.run(examine(ctx.ensure_object(Invocation)))
    broken = [check for check in checks if check.status == "broken"]
    if json:
        print_json({"ok": not broken, "checks": checks})
    else:
        out = console()
        width = max(len(check.name) for check in checks)
        styles = {"ok": "green", "lacking": "yellow", "broken": "bold red"}
        for check in checks:
            out.print(
                Text.assemble(
                    (f"{check.status:<8}", styles[check.status]), (f"{check.name.ljust(width)}  ", "bold"), check.detail
                )
            )
        if broken:
            out.print(f"\n{len(broken)} essential {'thing is' if len(broken) == 1 else 'things are'} broken.")
    if broken:
        raise typer.Exit(1)
