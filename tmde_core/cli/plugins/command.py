"""Define the commands of `tmde plugins`."""

from __future__ import annotations

import typer

from tmde_core.cli.kit.invocation import settings_of
from tmde_core.cli.kit.logs import log_to_file
from tmde_core.cli.kit.output import JsonFlag, print_json, print_table
from tmde_core.cli.plugins import check

command = typer.Typer(
    rich_markup_mode=None, add_completion=False, help="What is plugged in, and what is wrong with it."
)
command.command("check")(check.command)


@command.callback(invoke_without_command=True)
def list_plugins(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the plugins, what each plugin provides, and what is wrong with it."""
    from tmde_core.plugins import Plugins

    if ctx.invoked_subcommand is not None:
        return
    log_to_file(settings_of(ctx))
    infos = Plugins.load().infos()
    if json:
        print_json(infos)
        return
    rows = [
        (
            info.name,
            info.status,
            f"{info.distribution or info.module} {info.version or ''}".strip(),
            ", ".join(f"{provision.kind} {provision.name}" for provision in info.provides),
            " ".join(problem.detail for problem in info.problems),
        )
        for info in infos
    ]
    if any(info.problems for info in infos):
        print_table(("plugin", "status", "from", "provides", "problems"), rows, empty="")
    else:
        print_table(
            ("plugin", "status", "from", "provides"),
            [row[:4] for row in rows],
            empty="No plugin is installed, so there is no model to ask. Install tmde-cpu.",
        )


@command.command("settings")
def list_settings(ctx: typer.Context, json: JsonFlag = False) -> None:
    """List the settings of all plugins with their defaults, as `tmde.toml` names them."""
    from tmde_core.plugins import Plugins

    log_to_file(settings_of(ctx))
    found = [setting for info in Plugins.load().infos() for one in info.provides for setting in one.settings]
    if json:
        print_json(found)
        return
    rows = [(one.name, one.default, one.help) for one in found]
    print_table(("setting", "default", "meaning"), rows, empty="No plugin has settings.")
