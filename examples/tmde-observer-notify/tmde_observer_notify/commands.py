"""`tmde events`: print what the observer has written."""

import typer

from tmde_core.sdk.commands import data_dir_of
from tmde_core.sdk.errors import NotFoundError
from tmde_observer_notify import FILE


def command(ctx: typer.Context) -> None:
    """Print every event that was seen, the oldest first."""
    file = data_dir_of(ctx) / FILE
    if not file.exists():
        raise NotFoundError(f"No event was seen yet: there is no file {file}.")
    typer.echo(file.read_text(encoding="utf-8"), nl=False)
