"""Define `tmde embedded`: commands for the model that comes with TMDE."""

from __future__ import annotations

import typer

from tmde_core.sdk.commands import data_dir_of
from tmde_cpu.embedded import embedded_path, fetch_embedded, verify_embedded

command = typer.Typer(no_args_is_help=True, help="The embedded model: fetch it, or check the one that is there.")


@command.command("fetch")
def fetch(ctx: typer.Context) -> None:
    """Fetch the embedded model (98 MB) unless a complete copy exists."""
    models = data_dir_of(ctx) / "models"
    there = embedded_path(models).exists()
    path = fetch_embedded(models)
    typer.echo(f"The embedded model {'was there already' if there else 'is there now'}: {path}")


@command.command("check")
def check(ctx: typer.Context) -> None:
    """Compare the embedded model with the published hash."""
    typer.echo(f"The embedded model is whole: {verify_embedded(data_dir_of(ctx) / 'models')}")
